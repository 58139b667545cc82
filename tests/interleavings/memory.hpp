// SPDX-License-Identifier: MIT
#pragma once

// What the scheduled threads have done to memory in one run: finds two accesses that nothing orders
// (a data race, in the standard's sense) and any access to memory that was freed.
//
// Since steps are chosen at synchronisation only, it is this check that makes "all schedules" true:
// without races, how plain accesses between two steps interleave makes no difference.

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "step.hpp"

namespace interleave {

class Memory {
 public:
  enum class Kind : std::uint8_t { kRead, kWrite, kAtomic, kFree };
  struct Where {
    std::size_t thread;
    const Clock& clock;  // what it has seen of the others, as C++ orders it
    const void* code;
  };

  Memory();
  void StartRun() { ++run_; }

  // What is wrong with the access, if anything is.
  std::optional<std::string> Check(const Where& where, const void* address, std::size_t size,
                                   Kind kind);
  // Fresh memory: whatever was there before is no longer of interest.
  void Renew(const void* address, std::size_t size);

 private:
  // An access to some bytes of a word.
  struct Cell {
    std::uint32_t time;  // the thread's own, then
    std::uint8_t thread;
    std::uint8_t bytes;  // a bit each
    Kind kind;
    const void* code;
  };
  struct Word {
    std::uintptr_t address = 0;
    std::uint64_t run = 0;  // of an earlier run: empty
    std::size_t used = 0;   // cells, up to the last
    std::array<Cell, 8> cells;
  };

  Word& Find(std::uintptr_t address);

  std::uint64_t run_ = 0;
  std::vector<Word> words_;
};

}  // namespace interleave

// SPDX-License-Identifier: MIT
#pragma once

// Records what the scheduled threads do to memory in one run. It finds two accesses that nothing
// orders (a data race, as the standard defines it), and any access to memory that was freed.
//
// Threads switch only at synchronisation. "All schedules" is true all the same, because of this
// check: without races, it makes no difference how plain accesses between two steps interleave.

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
    const Clock& clock;  // how much of each thread happens before the access
    const void* code;
  };

  Memory();
  void StartRun() { ++run_; }

  // Records an access. Returns what is wrong with it, if anything is.
  std::optional<std::string> Check(const Where& where, const void* address, std::size_t size,
                                   Kind kind);
  // Discards the earlier accesses to memory that is newly allocated.
  void Renew(const void* address, std::size_t size);

 private:
  // An access to some bytes of a word.
  struct Cell {
    std::uint32_t time;  // the thread's own clock at the access
    std::uint8_t thread;
    std::uint8_t bytes;  // one bit for each byte
    Kind kind;
    const void* code;
  };
  struct Word {
    std::uintptr_t address = 0;
    std::uint64_t run = 0;  // an earlier run: the word is empty
    std::size_t used = 0;   // the number of cells in use
    std::array<Cell, 8> cells;
  };

  Word& Find(std::uintptr_t address);

  std::uint64_t run_ = 0;
  std::vector<Word> words_;
};

}  // namespace interleave

// SPDX-License-Identifier: MIT
#pragma once

// The scheduler uses these types to tell the search which step each thread would take next, and
// what that step touches.

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace interleave {

inline constexpr std::size_t kMaxThreads = 6;
using ThreadMask = std::uint32_t;

// A vector clock: how far each thread had come when something happened.
using Clock = std::array<std::uint32_t, kMaxThreads>;

inline void Merge(Clock& into, const Clock& other) {
  for (std::size_t i = 0; i < kMaxThreads; ++i) {
    if (into[i] < other[i]) into[i] = other[i];
  }
}

// How a step touches an object. Two steps that touch one object may be swapped without any effect
// if one of them is kNone, both are kRead, or both are kMark.
enum class Mode : std::uint8_t { kNone, kRead, kMark, kWrite };

inline bool Conflict(Mode a, Mode b) {
  if (a == Mode::kNone || b == Mode::kNone) return false;
  return a == Mode::kWrite || b == Mode::kWrite || a != b;
}

struct Access {
  const void* object = nullptr;
  Mode mode = Mode::kNone;
};
using Accesses = std::array<Access, 3>;

inline bool Conflict(const Accesses& a, const Accesses& b) {
  for (const Access& x : a) {
    for (const Access& y : b) {
      if (x.object == y.object && Conflict(x.mode, y.mode)) return true;
    }
  }
  return false;
}

// The threads at a moment when each is about to take its next step.
struct State {
  std::size_t threads = 0;
  std::size_t current = kMaxThreads;            // took the last step. kMaxThreads: none yet
  ThreadMask enabled = 0;                       // threads whose next step can be taken
  std::array<Accesses, kMaxThreads> next = {};  // what each thread's next step would touch
  std::array<Clock, kMaxThreads> clocks = {};   // what each thread has seen of the others
};

inline constexpr ThreadMask Bit(std::size_t thread) { return ThreadMask{1} << thread; }

// Chooses the schedules of one scenario, run after run.
class Search {
 public:
  virtual ~Search() = default;
  // Returns true if there is another schedule to run.
  virtual bool NextRun() = 0;
  // Returns one of state.enabled.
  virtual std::size_t Choose(const State& state) = 0;
  // Returns how to repeat this run, if there is a shorter way than by its schedule.
  virtual std::string HowToReplay() const { return {}; }
};

}  // namespace interleave

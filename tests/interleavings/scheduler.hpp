// SPDX-License-Identifier: MIT
#pragma once

// A deterministic scheduler. The threads of a scenario are real threads, of which just one runs at
// a time; at every step (an atomic operation, taking a lock, a wait, a wake-up, reading the clock,
// a point that the scenario names) it passes the baton to the one that the search chooses.
//
// The code under test is compiled as it is: unchanged headers, std::mutex, std::shared_future,
// std::stop_token and all. hooks.cpp stands in for what they rest on: the pthread functions, the
// futex and the clock, and (by -fsanitize=thread, without its runtime) every access to memory. So a
// schedule also shows data races as C++ defines them, and uses of memory that is gone (memory.hpp).
//
// What is not explored: the order in which two threads add to a shared_ptr's count (so no 32-bit
// atomic may be incremented, relaxed or acq_rel, for its value), spurious wake-ups, failed
// allocations, and orders of atomic operations that no interleaving gives (those are
// ThreadSanitizer's). A thread that reads an atomic, yields and reads it again is taken for one
// that waits: it goes on when the atomic has changed.

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "step.hpp"

namespace interleave {

// One run of a scenario: made anew for each schedule.
class Run {
 public:
  void Thread(std::function<void()> body) { bodies.push_back(std::move(body)); }
  // On the main thread, when all threads have ended.
  void AtEnd(std::function<void()> check) { checks.push_back(std::move(check)); }

  std::vector<std::function<void()>> bodies;
  std::vector<std::function<void()>> checks;
};

struct Explored {
  std::size_t schedules = 0;
};

// INTERLEAVINGS_REPLAY=NAME:SCHEDULE, as a failure prints it: only that run of that scenario.
// INTERLEAVINGS_SEED=SEED, likewise: of each random search, only the run with that seed.

// Runs `scenario` under each schedule of `search`. Throws std::runtime_error at the first run that
// fails; a run that hangs ends the process. Either says why, and how to replay the run.
Explored Explore(const std::string& name, Search& search,
                 const std::function<void(Run&)>& scenario);

// ---- For the threads of a scenario

// A step that touches `object`; nothing on a thread that is not the scenario's.
void Point(const void* object, Mode mode);
// Which one this is, in the order of Run::Thread.
std::size_t ThisThread();
// Time goes by.
void PassTime(std::chrono::nanoseconds time);
// Notes why this run fails.
void Fail(const std::string& why);

// While it lives, this thread takes no steps and its accesses to memory are not looked at: for the
// scenario's own notes.
class Unseen {
 public:
  Unseen();
  ~Unseen();
  Unseen(const Unseen&) = delete;
  Unseen& operator=(const Unseen&) = delete;
};

}  // namespace interleave

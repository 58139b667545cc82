// SPDX-License-Identifier: MIT
#pragma once

// A deterministic scheduler. The threads of a scenario are real threads, but only one runs at a
// time. A step is an atomic operation, taking a lock, a wait, a wake-up, reading the clock, or a
// point that the scenario names. At every step, the baton passes to the thread that the search
// chooses.
//
// The code under test is compiled as it is, with std::mutex, std::shared_future, std::stop_token
// and all. hooks.cpp replaces what these rely on: the pthread functions, the futex and the clock.
// Through -fsanitize=thread, but without its runtime, it also sees every access to memory. So a
// schedule also shows data races as C++ defines them, and uses of freed memory (memory.hpp).
//
// These are not explored:
// - the order in which two threads add to a shared_ptr's count. So the code under test must not use
//   the result of a relaxed or acq_rel increment of a 32-bit atomic.
// - spurious wake-ups, and failed allocations.
// - the initialization of a static that belongs to a function. It is one step, and is not checked.
// - orders of atomic operations that no interleaving gives. ThreadSanitizer looks for those.
//
// A thread that reads an atomic, yields and reads it again is assumed to be waiting. It continues
// when the atomic has changed.

#include <chrono>
#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "step.hpp"

namespace interleave {

// One run of a scenario. Each schedule has a Run of its own.
class Run {
 public:
  void Thread(std::function<void()> body) { bodies.push_back(std::move(body)); }
  // `check` runs on the main thread, when all threads have finished.
  void AtEnd(std::function<void()> check) { checks.push_back(std::move(check)); }

  std::vector<std::function<void()>> bodies;
  std::vector<std::function<void()>> checks;
};

struct Explored {
  std::size_t schedules = 0;
};

// Two environment variables select runs, as a failure prints them.
// INTERLEAVINGS_REPLAY=NAME:SCHEDULE selects only that run of that scenario.
// INTERLEAVINGS_SEED=SEED selects, in each random search, only the run with that seed.

// Runs `scenario` under each schedule of `search`. Throws std::runtime_error at the first run that
// fails. A run that hangs aborts the process. Both say why, and how to replay the run.
Explored Explore(const std::string& name, Search& search,
                 const std::function<void(Run&)>& scenario);

// ---- For the threads of a scenario

// Takes a step that touches `object`. Does nothing on a thread that is not the scenario's.
void Point(const void* object, Mode mode);
// Returns the number of this thread, in the order of Run::Thread.
std::size_t ThisThread();
// Lets `time` pass.
void PassTime(std::chrono::nanoseconds time);
// Notes why this run fails.
void Fail(const std::string& why);

// While an Untracked exists, its thread takes no steps and its accesses to memory are not checked.
// It is meant for the scenario's own records.
class Untracked {
 public:
  Untracked();
  ~Untracked();
  Untracked(const Untracked&) = delete;
  Untracked& operator=(const Untracked&) = delete;
};

}  // namespace interleave

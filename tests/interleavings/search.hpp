// SPDX-License-Identifier: MIT
#pragma once

// Which schedules are run: all that differ (Exhaustive), all with few preemptions (Preemptions), or
// random ones (Pct), or one that is given (Replay).

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "step.hpp"

namespace interleave {

// Every schedule, but for those that differ only in the order of steps that do not touch the same:
// of such, one is enough. By dynamic partial-order reduction with source sets and sleep sets
// (Abdulla, Aronis, Jonsson and Sagonas, "Optimal dynamic partial order reduction", POPL 2014).
class Exhaustive final : public Search {
 public:
  bool NextRun() override;
  std::size_t Choose(const State& state) override;

  // Runs that turned out to repeat others, and were not needed.
  std::size_t repeated() const { return repeated_; }

 private:
  // A state on the way, and the step taken from there.
  struct Node {
    std::size_t thread;
    Accesses accesses = {};
    std::uint32_t index = 0;  // the step's number among those of its thread
    Clock clock = {};         // of the thread, after the step
    ThreadMask enabled = 0;
    ThreadMask backtrack = 0;  // threads whose step is to be explored from here
    ThreadMask done = 0;       // those for which that has been done
    ThreadMask sleep = 0;      // those whose step would only repeat what was explored before

    bool Before(const Node& later) const { return index <= later.clock[thread]; }
  };

  // Of the earlier steps, finds those that the next one might have come before: the one that
  // `thread`, which has `seen` that much, takes at `depth`.
  void ReverseRaces(std::size_t depth, const Accesses& step, std::size_t thread, const Clock& seen);
  void Reverse(std::size_t race, std::size_t depth, const Accesses& step, std::size_t thread,
               const Clock& seen);

  std::vector<Node> path_;
  std::size_t depth_ = 0;  // steps taken in this run
  std::size_t known_ = 0;  // those of them that an earlier run took as well
  ThreadMask sleep_ = 0;   // at the state that this run has reached
  bool first_ = true;
  bool repeats_ = false;  // this run
  std::size_t repeated_ = 0;
};

// Every schedule in which at most `bound` times a thread that could go on is made to wait.
// (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007.)
class Preemptions final : public Search {
 public:
  explicit Preemptions(std::size_t bound) : bound_(bound) {}
  bool NextRun() override;
  std::size_t Choose(const State& state) override;

 private:
  struct Node {
    std::size_t thread;
    ThreadMask left;  // threads still to be explored from here
  };
  const std::size_t bound_;
  std::vector<Node> path_;
  std::size_t depth_ = 0;
  std::size_t preemptions_ = 0;  // in this run
  bool first_ = true;
};

// `runs` random schedules by probabilistic concurrency testing: random priorities for the threads,
// which change at `changes` random steps. Each finds a fault that takes changes + 1 orderings with
// a probability that is known. (Burckhardt et al., ASPLOS 2010.) The schedule of run n depends on
// seed + n only; `steps` is about how many steps a run has.
class Pct final : public Search {
 public:
  Pct(std::uint64_t seed, std::size_t runs, std::size_t changes, std::size_t steps = 100)
      : seed_(seed), runs_(runs), changes_(changes), steps_(steps) {}
  bool NextRun() override;
  std::size_t Choose(const State& state) override;
  std::string HowToReplay() const override;

 private:
  const std::uint64_t seed_;
  const std::size_t runs_;
  const std::size_t changes_;
  const std::size_t steps_;
  std::size_t run_ = 0;
  std::size_t step_ = 0;  // in this run
  std::vector<std::size_t> change_at_;
  std::array<std::size_t, kMaxThreads> priority_ = {};
};

// The schedule that a failure has printed.
class Replay final : public Search {
 public:
  explicit Replay(std::string_view schedule) : schedule_(schedule) {}
  bool NextRun() override;
  std::size_t Choose(const State& state) override;

 private:
  const std::string schedule_;  // a digit a step: the thread
  std::size_t depth_ = 0;
  bool first_ = true;
};

}  // namespace interleave

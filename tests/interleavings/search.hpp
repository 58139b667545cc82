// SPDX-License-Identifier: MIT
#pragma once

// A search chooses which schedules are run: all that differ (Exhaustive), all with few preemptions
// (Preemptions), random ones (Pct), or a given one (Replay).

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "step.hpp"

namespace interleave {

// Runs every schedule, except that it runs only one of those that differ just in the order of steps
// that do not conflict. It uses dynamic partial-order reduction with source sets and sleep sets
// (Abdulla, Aronis, Jonsson and Sagonas, "Optimal dynamic partial order reduction", POPL 2014).
class Exhaustive final : public Search {
 public:
  bool NextRun() override;
  std::size_t Choose(const State& state) override;

  // Returns the number of runs that turned out to repeat others, and were not needed.
  std::size_t repeated() const { return repeated_; }

 private:
  // A state on the path, and the step taken from it.
  struct Node {
    std::size_t thread;
    Accesses accesses = {};
    std::uint32_t index = 0;  // the step's number among those of its thread
    Clock clock = {};         // the thread's clock after the step
    ThreadMask enabled = 0;
    ThreadMask backtrack = 0;  // threads whose step is to be explored from here
    ThreadMask done = 0;       // threads whose step has been explored from here
    ThreadMask sleep = 0;      // threads whose step would only repeat what was explored

    bool Before(const Node& later) const { return index <= later.clock[thread]; }
  };

  // Finds the earlier steps that the next step might have come before. `thread` takes the next
  // step, at `depth`. `seen` is what it has seen of the others.
  void ReverseRaces(std::size_t depth, const Accesses& step, std::size_t thread, const Clock& seen);
  void Reverse(std::size_t race, std::size_t depth, const Accesses& step, std::size_t thread,
               const Clock& seen);

  std::vector<Node> path_;
  std::size_t depth_ = 0;  // steps taken in this run
  std::size_t known_ = 0;  // steps of this run that an earlier run took as well
  ThreadMask sleep_ = 0;   // the sleep set at the state that this run has reached
  bool first_ = true;
  bool repeats_ = false;  // this run repeats another
  std::size_t repeated_ = 0;
};

// Runs every schedule in which a thread that could continue is made to wait at most `bound` times.
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
  std::size_t preemptions_ = 0;  // preemptions in this run
  bool first_ = true;
};

// Runs `runs` random schedules, by probabilistic concurrency testing (Burckhardt et al., ASPLOS
// 2010). The threads have random priorities, which change at `changes` random steps. Each run finds
// a fault that takes changes + 1 orderings with a known probability. The schedule of run n depends
// only on seed + n. `steps` is about how many steps a run has.
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
  std::size_t step_ = 0;  // steps taken in this run
  std::vector<std::size_t> change_at_;
  std::array<std::size_t, kMaxThreads> priority_ = {};
};

// Runs the schedule that a failure has printed.
class Replay final : public Search {
 public:
  explicit Replay(std::string_view schedule) : schedule_(schedule) {}
  bool NextRun() override;
  std::size_t Choose(const State& state) override;

 private:
  const std::string schedule_;  // one digit for each step: its thread
  std::size_t depth_ = 0;
  bool first_ = true;
};

}  // namespace interleave

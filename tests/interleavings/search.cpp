// SPDX-License-Identifier: MIT

#include "search.hpp"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <utility>

namespace interleave {

namespace {

std::size_t First(ThreadMask mask) { return static_cast<std::size_t>(std::countr_zero(mask)); }

// Returns the thread that took the last step if it can continue, else the first one that can.
std::size_t Prefer(std::size_t current, ThreadMask among) {
  return current < kMaxThreads && (among & Bit(current)) != 0 ? current : First(among);
}

[[noreturn]] void Diverged() {
  std::fputs("interleavings: the scenario does not do the same under the same schedule\n", stderr);
  std::abort();
}

}  // namespace

bool Exhaustive::NextRun() {
  depth_ = 0;
  sleep_ = 0;
  repeats_ = false;
  if (std::exchange(first_, false)) return true;
  while (!path_.empty()) {
    Node& node = path_.back();
    node.done |= Bit(node.thread);
    const ThreadMask left = node.backtrack & ~node.done & ~node.sleep;
    if (left != 0) {
      node.thread = First(left);
      known_ = path_.size() - 1;
      return true;
    }
    path_.pop_back();
  }
  return false;
}

std::size_t Exhaustive::Choose(const State& state) {
  if (repeats_) return Prefer(state.current, state.enabled);
  if (depth_ > 0) path_[depth_ - 1].clock = state.clocks[path_[depth_ - 1].thread];
  if (depth_ == path_.size()) {
    const ThreadMask awake = state.enabled & ~sleep_;
    if (awake == 0) {  // the rest of the run has been explored in another order
      repeats_ = true;
      ++repeated_;
      return Prefer(state.current, state.enabled);
    }
    const std::size_t thread = Prefer(state.current, awake);
    path_.push_back(
        {.thread = thread, .enabled = state.enabled, .backtrack = Bit(thread), .sleep = sleep_});
  }
  const std::size_t depth = depth_++;
  if (path_[depth].enabled != state.enabled) Diverged();
  const std::size_t thread = path_[depth].thread;
  const Accesses& step = state.next[thread];
  if (depth >= known_) ReverseRaces(depth, step, thread, state.clocks[thread]);

  Node& node = path_[depth];
  node.accesses = step;
  node.index = state.clocks[thread][thread] + 1;
  const ThreadMask asleep = (node.sleep | node.done) & ~Bit(thread);
  sleep_ = 0;
  for (std::size_t other = 0; other < state.threads; ++other) {
    if ((asleep & Bit(other)) != 0 && !Conflict(state.next[other], step)) sleep_ |= Bit(other);
  }
  return thread;
}

// Finds the earlier steps that the next one conflicts with, and that it might have come before.
void Exhaustive::ReverseRaces(std::size_t depth, const Accesses& step, std::size_t thread,
                              const Clock& seen) {
  for (std::size_t i = depth; i-- > 0;) {
    const Node& earlier = path_[i];
    if (earlier.thread == thread || earlier.index <= seen[earlier.thread]) continue;
    if (!Conflict(earlier.accesses, step)) continue;
    bool through_another = false;  // if so, the race with that step is reversed first
    for (std::size_t j = i + 1; j < depth && !through_another; ++j) {
      through_another = earlier.Before(path_[j]) && Conflict(path_[j].accesses, step) &&
                        path_[j].thread != thread && path_[j].index > seen[path_[j].thread];
    }
    if (!through_another) Reverse(i, depth, step, thread, seen);
  }
}

// Ensures that another run is explored from the state before step `race`. Ahead of `race`, that run
// takes the later steps that do not depend on it, and then the next step.
void Exhaustive::Reverse(std::size_t race, std::size_t depth, const Accesses& step,
                         std::size_t thread, const Clock& seen) {
  ThreadMask came = 0;   // threads with a step in that sequence
  ThreadMask first = 0;  // those whose step could be its first
  std::vector<const Node*> sequence;
  for (std::size_t j = race + 1; j < depth; ++j) {
    const Node& later = path_[j];
    if (path_[race].Before(later)) continue;
    bool leads = (came & Bit(later.thread)) == 0;
    for (const Node* before : sequence) leads = leads && !before->Before(later);
    came |= Bit(later.thread);
    if (leads) first |= Bit(later.thread);
    sequence.push_back(&later);
  }
  bool leads = (came & Bit(thread)) == 0;
  for (const Node* before : sequence) {
    leads = leads && before->index > seen[before->thread] && !Conflict(before->accesses, step);
  }
  if (leads) first |= Bit(thread);

  Node& node = path_[race];
  if ((first & (node.backtrack | node.sleep)) != 0) return;
  first &= node.enabled;  // if none is, only step `race` made the next step possible
  if (first != 0) node.backtrack |= Bit(Prefer(thread, first));
}

bool Preemptions::NextRun() {
  depth_ = 0;
  preemptions_ = 0;
  if (first_) {
    first_ = false;
    return true;
  }
  while (!path_.empty()) {
    Node& node = path_.back();
    if (node.left != 0) {
      node.thread = First(node.left);
      node.left &= ~Bit(node.thread);
      return true;
    }
    path_.pop_back();
  }
  return false;
}

std::size_t Preemptions::Choose(const State& state) {
  const std::size_t depth = depth_++;
  const bool can_go_on = state.current < kMaxThreads && (state.enabled & Bit(state.current)) != 0;
  if (depth >= path_.size()) {
    const std::size_t thread = Prefer(state.current, state.enabled);
    const bool may_choose = !can_go_on || preemptions_ < bound_;
    path_.push_back({thread, may_choose ? state.enabled & ~Bit(thread) : 0});
  }
  const std::size_t thread = path_[depth].thread;
  if ((state.enabled & Bit(thread)) == 0) Diverged();
  if (can_go_on && thread != state.current) ++preemptions_;
  return thread;
}

bool Pct::NextRun() {
  step_ = 0;
  if (run_ == runs_) return false;
  std::mt19937_64 random(seed_ + run_++);
  // The first priorities are `changes_` and above. A change gives one of the lower ones.
  for (std::size_t i = 0; i < kMaxThreads; ++i) priority_[i] = changes_ + i;
  std::shuffle(priority_.begin(), priority_.end(), random);
  change_at_.clear();
  for (std::size_t i = 0; i < changes_; ++i) {
    change_at_.push_back(std::uniform_int_distribution<std::size_t>(1, steps_)(random));
  }
  return true;
}

std::size_t Pct::Choose(const State& state) {
  const auto highest = [&] {
    std::size_t best = First(state.enabled);
    for (std::size_t thread = 0; thread < state.threads; ++thread) {
      if ((state.enabled & Bit(thread)) != 0 && priority_[thread] > priority_[best]) best = thread;
    }
    return best;
  };
  ++step_;
  std::size_t thread = highest();
  for (std::size_t i = 0; i < changes_; ++i) {
    if (change_at_[i] != step_) continue;
    priority_[thread] = i;
    thread = highest();
  }
  return thread;
}

std::string Pct::HowToReplay() const {
  return "INTERLEAVINGS_SEED=" + std::to_string(seed_ + run_ - 1);
}

bool Replay::NextRun() {
  depth_ = 0;
  return std::exchange(first_, false);
}

std::size_t Replay::Choose(const State& state) {
  if (depth_ >= schedule_.size()) return Prefer(state.current, state.enabled);
  const std::size_t thread = static_cast<std::size_t>(schedule_[depth_++] - '0');
  if (thread >= state.threads || (state.enabled & Bit(thread)) == 0) Diverged();
  return thread;
}

}  // namespace interleave

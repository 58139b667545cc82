// SPDX-License-Identifier: MIT
#pragma once

// TimerQueue: the timers of an event loop, as a binary heap. Setting a timer, setting it again and
// cancelling it each cost O(log n), and allocate nothing once the heap has grown.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <utility>
#include <vector>

namespace singleflight::redis::detail {

using Clock = std::chrono::steady_clock;

class TimerQueue;

// Calls a function once, at the time for which it was set. The function may set it again, and may
// destroy it.
//
// Thread: only the event loop's thread uses a timer that was set.
class Timer {
 public:
  Timer(TimerQueue& queue, std::function<void()> fn) : queue_(queue), fn_(std::move(fn)) {}
  ~Timer() { Cancel(); }
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;

  // A timer that is set already is moved to the new time.
  void Set(Clock::time_point when);
  void Cancel() noexcept;
  bool IsSet() const noexcept { return index_ != kUnset; }
  Clock::time_point When() const noexcept { return when_; }  // only while it is set

 private:
  friend class TimerQueue;
  static constexpr std::size_t kUnset = static_cast<std::size_t>(-1);

  TimerQueue& queue_;
  const std::function<void()> fn_;
  Clock::time_point when_ = {};
  std::size_t index_ = kUnset;  // its place in the heap
};

class TimerQueue {
 public:
  TimerQueue() = default;
  TimerQueue(const TimerQueue&) = delete;
  TimerQueue& operator=(const TimerQueue&) = delete;

  // Returns when the next timer is due, if one is set.
  std::optional<Clock::time_point> Next() const noexcept {
    if (heap_.empty()) return std::nullopt;
    return heap_.front()->when_;
  }

  // Runs the timers that are due at `now`. One that is set again meanwhile, for a time that has
  // come already, runs at the next call: a timer cannot keep the loop to itself.
  void RunDue(Clock::time_point now) {
    for (std::size_t left = heap_.size(); left > 0 && !heap_.empty(); --left) {
      Timer& timer = *heap_.front();
      if (timer.when_ > now) return;
      Remove(timer);
      const std::function<void()> fn = timer.fn_;  // the function may destroy its timer
      fn();
    }
  }

 private:
  friend class Timer;

  void Insert(Timer& timer) {
    heap_.push_back(&timer);
    timer.index_ = heap_.size() - 1;
    Rise(timer.index_);
  }

  void Remove(Timer& timer) noexcept {
    const std::size_t hole = std::exchange(timer.index_, Timer::kUnset);
    Timer* const last = heap_.back();
    heap_.pop_back();
    if (last == &timer) return;
    Put(hole, last);
    Sink(Rise(hole));
  }

  void Put(std::size_t index, Timer* timer) noexcept {
    heap_[index] = timer;
    timer->index_ = index;
  }

  // Moves a timer towards the front, and returns its new place.
  std::size_t Rise(std::size_t index) noexcept {
    Timer* const timer = heap_[index];
    while (index > 0) {
      const std::size_t parent = (index - 1) / 2;
      if (heap_[parent]->when_ <= timer->when_) break;
      Put(index, heap_[parent]);
      index = parent;
    }
    Put(index, timer);
    return index;
  }

  void Sink(std::size_t index) noexcept {
    Timer* const timer = heap_[index];
    for (;;) {
      std::size_t child = 2 * index + 1;
      if (child >= heap_.size()) break;
      if (child + 1 < heap_.size() && heap_[child + 1]->when_ < heap_[child]->when_) ++child;
      if (timer->when_ <= heap_[child]->when_) break;
      Put(index, heap_[child]);
      index = child;
    }
    Put(index, timer);
  }

  std::vector<Timer*> heap_;  // no timer is due before its parent, which is at (index - 1) / 2
};

inline void Timer::Set(Clock::time_point when) {
  Cancel();
  when_ = when;
  queue_.Insert(*this);
}

inline void Timer::Cancel() noexcept {
  if (IsSet()) queue_.Remove(*this);
}

}  // namespace singleflight::redis::detail

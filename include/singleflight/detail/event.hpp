// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace singleflight::detail {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;  // none: wait for ever

// The moment `timeout` from now; none if that is beyond the clock's end.
inline Deadline DeadlineAfter(std::chrono::nanoseconds timeout) noexcept {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point now = Clock::now();
  if (timeout > Clock::time_point::max() - now) return std::nullopt;
  return now + timeout;
}

// What a thread waits at when something other than the awaited event may end its wait. Opened once,
// and allocates nothing.
class Event {
 public:
  // The last touch: from here on the waiting thread may destroy the gate.
  void Set() noexcept { Raise(set_); }

  // Ends a wait in WaitOrInterrupt.
  void Interrupt() noexcept { Raise(interrupted_); }

  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_; });
  }

  // True: the gate is open. False: it was nudged, or the deadline passed.
  bool WaitOrInterrupt(const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    const auto ended = [this] { return set_ || interrupted_; };
    if (deadline) {
      changed_.wait_until(lock, *deadline, ended);
    } else {
      changed_.wait(lock, ended);
    }
    return set_;
  }

 private:
  void Raise(bool& flag) noexcept {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();  // under the lock, since the gate may be gone after it
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;          // guarded by mutex_
  bool interrupted_ = false;  // guarded by mutex_
};

}  // namespace singleflight::detail

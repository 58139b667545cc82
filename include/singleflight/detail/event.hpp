// SPDX-License-Identifier: MIT
#pragma once

// Event: a thread waits for it, and something else may end that wait early.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace singleflight::detail {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;  // none: wait for ever

// A one-shot event. A deadline or Interrupt can end a wait for it early. Allocates nothing.
class Event {
 public:
  // The waiting thread may destroy the event as soon as it sees this, so nothing may follow it.
  void Set() noexcept { Raise(set_); }

  // Ends a wait in WaitOrInterrupt.
  void Interrupt() noexcept { Raise(interrupted_); }

  void Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return set_; });
  }

  // True: the event is set. False: it was interrupted, or the deadline passed.
  bool WaitOrInterrupt(const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    const auto woken = [this] { return set_ || interrupted_; };
    if (deadline) {
      changed_.wait_until(lock, *deadline, woken);
    } else {
      changed_.wait(lock, woken);
    }
    return set_;
  }

 private:
  void Raise(bool& flag) noexcept {
    const std::lock_guard lock(mutex_);
    flag = true;
    changed_.notify_all();  // under the lock: once it is released, the event may be destroyed
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  bool set_ = false;          // guarded by mutex_
  bool interrupted_ = false;  // guarded by mutex_
};

}  // namespace singleflight::detail

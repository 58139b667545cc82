// SPDX-License-Identifier: MIT
#pragma once

// Event: a thread waits for it. Monitor: a thread waits for one of several flags in it, and
// something else may end that wait early.

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>

namespace singleflight::detail {

using Deadline = std::optional<std::chrono::steady_clock::time_point>;  // none: wait for ever

// One thread waits in it, for one flag after the other. It guards all of these flags. A deadline or
// Interrupt can end a wait early. Allocates nothing.
//
// Thread: Set and Interrupt may be called by any thread. The rest is for the one that waits.
class Monitor {
 public:
  // The waiting thread may destroy the monitor as soon as it sees this, so nothing may follow it.
  void Set(bool& flag) noexcept {
    const std::lock_guard lock(mutex_);
    flag = true;
    if (awaited_ == &flag) changed_.notify_all();  // under the lock: see above
  }
  // Makes a flag ready for a second Set.
  void Clear(bool& flag) noexcept {
    const std::lock_guard lock(mutex_);
    flag = false;
  }

  // Ends all waits in WaitOrInterrupt, also later ones.
  void Interrupt() noexcept {
    const std::lock_guard lock(mutex_);
    interrupted_ = true;
    changed_.notify_all();
  }

  void Wait(const bool& flag) {
    std::unique_lock lock(mutex_);
    awaited_ = &flag;
    changed_.wait(lock, [&flag] { return flag; });
  }

  // True: the flag is set. False: the wait was interrupted, or the deadline passed.
  bool WaitOrInterrupt(const bool& flag, const Deadline& deadline) {
    std::unique_lock lock(mutex_);
    awaited_ = &flag;
    const auto woken = [&] { return flag || interrupted_; };
    if (deadline) {
      changed_.wait_until(lock, *deadline, woken);
    } else {
      changed_.wait(lock, woken);
    }
    return flag;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_, like the flags.
  const bool* awaited_ = nullptr;  // the flag for which the thread waits, or has waited last
  bool interrupted_ = false;
};

// A one-shot event, for which one thread waits. Allocates nothing.
class Event {
 public:
  // The waiting thread may destroy the event as soon as it sees this, so nothing may follow it.
  void Set() noexcept { monitor_.Set(set_); }
  void Wait() { monitor_.Wait(set_); }

 private:
  Monitor monitor_;
  bool set_ = false;  // guarded by monitor_
};

}  // namespace singleflight::detail

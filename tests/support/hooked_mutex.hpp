// SPDX-License-Identifier: MIT
#pragma once

// A group's mutex that calls functions of the thread that locks it.

#include <functional>
#include <mutex>
#include <singleflight/options.hpp>
#include <utility>

namespace test {

// Calls functions of this thread before each lock and after each unlock.
struct HookedMutex {
  void lock() {
    Run(before_lock);
    mutex.lock();
    ++held;
  }
  void unlock() {
    --held;
    mutex.unlock();
    Run(after_unlock);
  }
  static void Run(std::function<void()>& hook) {
    if (const auto once = std::exchange(hook, nullptr)) {  // which may lock itself
      once();
      hook = once;
    }
  }
  std::mutex mutex;
  static inline thread_local std::function<void()> before_lock;
  static inline thread_local std::function<void()> after_unlock;
  static inline thread_local int held = 0;
};
struct Hooked : singleflight::GroupTraits {
  using Mutex = HookedMutex;
};

}  // namespace test

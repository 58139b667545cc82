// SPDX-License-Identifier: MIT
#pragma once

// A group's mutex that counts how many locks each thread holds.

#include <cstddef>
#include <mutex>
#include <singleflight/options.hpp>

namespace test {

inline thread_local int locks_held = 0;

struct WatchedMutex {
  void lock() {
    mutex.lock();
    ++locks_held;
  }
  void unlock() {
    --locks_held;
    mutex.unlock();
  }
  std::mutex mutex;
};

struct OneWatchedShard : singleflight::GroupTraits {
  using Mutex = WatchedMutex;
  static constexpr std::size_t kShards = 1;
};

}  // namespace test

// SPDX-License-Identifier: MIT
#pragma once

// ForkCount: tells a forked child from its parent for the price of one load.

#include <pthread.h>

#include <atomic>

namespace singleflight::redis::detail {

// Returns how many forks lead from the process that first called this to the present one.
inline unsigned ForkCount() noexcept {
  static std::atomic<unsigned> forks = 0;  // relaxed: a child has one thread when it changes
  [[maybe_unused]] static const int registered =
      ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  return forks.load(std::memory_order_relaxed);
}

}  // namespace singleflight::redis::detail

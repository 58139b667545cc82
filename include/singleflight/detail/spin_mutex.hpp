// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>

#include "backoff.hpp"

namespace singleflight::detail {

// A spin lock, for sections of a few instructions that are hardly ever contended: half the cost of
// std::mutex. Not fair, and not for sections that may block.
class SpinMutex {
 public:
  void lock() noexcept {
    for (Backoff backoff; locked_.test_and_set(std::memory_order_acquire);) backoff.Pause();
  }
  void unlock() noexcept { locked_.clear(std::memory_order_release); }

 private:
  std::atomic_flag locked_;  // set: locked. The release in unlock pairs with the acquire in lock.
};

}  // namespace singleflight::detail

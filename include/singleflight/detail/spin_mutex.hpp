// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace singleflight::detail {

// A spin lock, for sections of a few instructions that are hardly ever contended: half the cost of
// std::mutex. Not fair, and not for sections that may block.
class SpinMutex {
 public:
  void lock() noexcept {
    for (int tries = 1; locked_.test_and_set(std::memory_order_acquire); ++tries) {
      if (tries % 100 != 0) {
        std::this_thread::yield();
      } else {  // the owner may have a lower priority, and be waiting for a processor
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    }
  }
  void unlock() noexcept { locked_.clear(std::memory_order_release); }

 private:
  std::atomic_flag locked_;  // set: locked. The release in unlock pairs with the acquire in lock.
};

}  // namespace singleflight::detail

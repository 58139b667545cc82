// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>
#include <thread>

namespace singleflight::detail {

// A mutex for a few instructions that hardly ever meet others: half the price of a std::mutex.
class SpinMutex {
 public:
  void lock() noexcept {
    for (int tries = 1; locked_.test_and_set(std::memory_order_acquire); ++tries) {
      if (tries % 100 != 0) {
        std::this_thread::yield();
      } else {  // the owner may have a lower priority, and no processor
        std::this_thread::sleep_for(std::chrono::microseconds(100));
      }
    }
  }
  void unlock() noexcept { locked_.clear(std::memory_order_release); }

 private:
  std::atomic_flag locked_;
};

}  // namespace singleflight::detail

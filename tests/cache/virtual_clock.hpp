// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <chrono>

namespace test {

// A clock that stands still unless the test moves it. `Tag` tells clocks apart.
template <class Tag>
struct VirtualClock {
  using duration = std::chrono::nanoseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<VirtualClock>;
  [[maybe_unused]] static constexpr bool is_steady = true;

  static time_point now() {
    ++reads;
    return time_point(duration(time.load()));
  }
  static void Pass(duration passed) { time += passed.count(); }

  static inline std::atomic<rep> time = 0;
  static inline std::atomic<int> reads = 0;
};

}  // namespace test

// SPDX-License-Identifier: MIT
#pragma once

// RetryPause: the pauses between attempts to connect. Each is twice as long as the one before, up
// to half a second, so that a server that is back is used within that time. They are spread, so
// that its clients do not all come at one moment.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "timer_queue.hpp"

namespace singleflight::redis::detail {

class RetryPause {
 public:
  void Reset() noexcept { failures_ = 0; }

  std::chrono::microseconds Next() {
    const auto longest = std::min(kLast, kFirst * (1U << std::min(failures_++, 10U)));
    using Spread = std::uniform_int_distribution<std::chrono::microseconds::rep>;
    return std::chrono::microseconds(Spread(longest.count() / 2, longest.count())(random_));
  }

 private:
  static constexpr std::chrono::microseconds kFirst = std::chrono::milliseconds(50);
  static constexpr std::chrono::microseconds kLast = std::chrono::milliseconds(500);

  unsigned failures_ = 0;
  std::minstd_rand random_{static_cast<unsigned>(Clock::now().time_since_epoch().count() ^
                                                 static_cast<Clock::rep>(::getpid()))};
};

}  // namespace singleflight::redis::detail

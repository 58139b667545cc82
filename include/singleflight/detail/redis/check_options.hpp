// SPDX-License-Identifier: MIT
#pragma once

// CheckGroupOptions: refuses what a redis::Group cannot work with.

#include <chrono>
#include <stdexcept>
#include <string_view>

#include "../../redis_options.hpp"

namespace singleflight::redis::detail {

// Throws std::invalid_argument for the first that is out of range.
inline void CheckGroupOptions(std::string_view prefix, const Options& options) {
  const auto demand = [](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
  };
  const auto in_range = [](std::chrono::milliseconds time, int least) {
    return time >= std::chrono::milliseconds(least) && time <= std::chrono::hours(24 * 365);
  };
  demand(!prefix.empty(), "singleflight::redis: prefix is empty: give each type of value its own");
  demand(prefix.find_first_of("{}") == std::string_view::npos,
         "singleflight::redis: prefix must not contain braces");
  demand(in_range(options.lease, 10),
         "singleflight::redis: lease must be between 10 ms and one year");
  demand(in_range(options.linger, 2),
         "singleflight::redis: linger must be between 2 ms and one year");
}

}  // namespace singleflight::redis::detail

// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <limits>

namespace singleflight::detail {

// Nanoseconds since the epoch of a cache's clock.
using CacheTime = std::int64_t;
inline constexpr CacheTime kNoEnd = (std::numeric_limits<CacheTime>::max)();

// Saturates. `length` is not negative.
constexpr CacheTime Later(CacheTime moment, CacheTime length) noexcept {
  return moment > 0 && length > kNoEnd - moment ? kNoEnd : moment + length;
}

// Saturates.
constexpr CacheTime Between(CacheTime from, CacheTime to) noexcept {
  return from < 0 && to > kNoEnd + from ? kNoEnd : to - from;
}

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// LoadNote: why a ReadThrough loads a value, and what its load says of it.

#include <chrono>

#include "../../read_through_options.hpp"
#include "../cache_policy.hpp"
#include "../cache_time.hpp"

namespace singleflight::detail {

template <class Traits>
struct ClockOfTraits {
  using Type = std::chrono::steady_clock;
};
template <class Traits>
requires requires { typename Traits::Clock; }
struct ClockOfTraits<Traits> {
  using Type = typename Traits::Clock;
};
template <class Traits>
using ClockOf = typename ClockOfTraits<Traits>::Type;

// kMiss: the cache had nothing. kUnknown: it threw. kAsked: somebody asked for a new value. kStale:
// the value had expired. kEarly: the value would soon have expired.
enum class LoadReason : unsigned char { kMiss, kUnknown, kAsked, kStale, kEarly };

struct LoadNote {
  LoadReason reason;
  CacheTime seen = kNoEnd;  // until when the value is fresh that is to be replaced
  CacheTime started = 0;
  CachedOptions own = {};  // what the load says of its value

  // Whether its caller does not wait for the load, and has a value.
  bool IsBackground() const noexcept {
    return reason == LoadReason::kStale || reason == LoadReason::kEarly;
  }
  // Whether the leader looks in the cache again.
  bool LooksAgain() const noexcept { return reason == LoadReason::kMiss || IsBackground(); }
  // Whether the cache may hold an old value, which is erased if the new one is not put.
  bool MayBeCached() const noexcept { return reason != LoadReason::kMiss; }
};

}  // namespace singleflight::detail

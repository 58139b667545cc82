// SPDX-License-Identifier: MIT
#pragma once

// LoadNote: why a ReadThrough loads a value, and what its load says of it.

#include <chrono>
#include <functional>
#include <type_traits>
#include <utility>

#include "../../read_through_options.hpp"
#include "../cache_policy.hpp"
#include "../cache_time.hpp"
#include "../invoke.hpp"

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

// ---- Loads that return Cached(value, options)

// Takes the value out of what a load returned, and notes what the load said of it.
template <class Value, class Returned>
Value TakeCached(Returned&& returned, CachedOptions& own) {
  using T = std::remove_cvref_t<decltype((returned.value))>;
  static_assert(std::is_convertible_v<T&&, Value>,
                "the load must return the Value, something that converts to it, or Cached of that");
  own = returned.options;
  return std::forward<Returned>(returned).value;
}

// Like CheckFn, for a load.
template <class Value, class Fn>
constexpr void CheckLoad() {
  if constexpr (!detail::ReturnsCached<Fn>()) detail::CheckFn<Value, Fn>();
}

// Runs a load. It is callable as the load is, and returns a Value, which is made where it stays.
template <class Value, class Fn>
auto Unpacking(Fn&& load, CachedOptions& own) {
  return [&](auto... stop) -> Value requires std::is_invocable_v<Fn, decltype(stop)...> {
    if constexpr (detail::ReturnsCached<Fn>()) {
      return detail::TakeCached<Value>(std::invoke(std::forward<Fn>(load), std::move(stop)...),
                                       own);
    } else {
      return std::invoke(std::forward<Fn>(load), std::move(stop)...);
    }
  };
}

}  // namespace singleflight::detail

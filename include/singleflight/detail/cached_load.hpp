// SPDX-License-Identifier: MIT
#pragma once

// How a load is checked and run that may return Cached(value, options): see
// read_through_options.hpp.

#include <functional>
#include <type_traits>
#include <utility>

#include "../read_through_options.hpp"
#include "invoke.hpp"

namespace singleflight::detail {

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

// SPDX-License-Identifier: MIT
#pragma once

// KeepsApart: whether a function of the user's takes keys as they are. If it takes a narrower
// number, C++ converts the keys on the way, and the function cannot tell two of them apart.

#include <concepts>
#include <limits>
#include <type_traits>

#include "braced_key.hpp"
#include "number_cast.hpp"
#include "number_like.hpp"

namespace singleflight::detail {

// Whether different numbers of type From are different as a To.
template <Number To, class From>
constexpr bool StayDifferent() {
  if constexpr (std::is_enum_v<From>) {
    return detail::StayDifferent<To, std::underlying_type_t<From>>();
  } else if constexpr (std::same_as<To, bool> || std::same_as<From, bool>) {
    return std::same_as<From, bool>;
  } else if constexpr (Integer<To> && Integer<From>) {
    return sizeof(To) >= sizeof(From);
  } else if constexpr (Integer<From>) {
    return std::numeric_limits<To>::digits >= kDigits<From>;
  } else if constexpr (Floating<To>) {
    return std::numeric_limits<To>::digits >= std::numeric_limits<From>::digits &&
           std::numeric_limits<To>::max_exponent >= std::numeric_limits<From>::max_exponent;
  } else {
    return false;
  }
}

template <class Call, class Key, class Taken>
constexpr bool TakesInstead() {
  if constexpr (std::invocable<Call, Exactly<Taken>>) {
    return detail::StayDifferent<Taken, Key>();
  } else {
    return false;
  }
}
template <class Call, class Key, class... Numbers>
constexpr bool TakesOneOf(NumberList<Numbers...>) {
  return (detail::TakesInstead<Call, Key, Numbers>() || ...);
}

// `Call` is a class that can be called with a key as the user's function can, and with a key and an
// int if the function is a template to which the Key can be given.
template <class Call, class Key>
constexpr bool KeepsApart() {
  if constexpr (std::invocable<Call, Exactly<Key>> || std::invocable<Call, const Key&, int>) {
    return true;  // it takes a Key, or any type
  } else if constexpr (Number<Key> || std::is_enum_v<Key>) {
    return detail::TakesOneOf<Call, Key>(AllNumbers());
  } else {
    return !kConvertsWhatItHolds<Key>;
  }
}

}  // namespace singleflight::detail

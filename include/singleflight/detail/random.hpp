// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <cstdint>

#include "fibonacci_hash.hpp"

namespace singleflight::detail {

// Returns a number in (0, 1], for spreading things. It is not for secrets. Threads draw from
// sequences of their own.
inline double RandomUnit() noexcept {
  static constinit thread_local std::uint64_t state = 0;
  if (state == 0) {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    state = static_cast<std::uint64_t>(now) ^ reinterpret_cast<std::uintptr_t>(&state);
  }
  state += kGoldenRatio;  // SplitMix64 (Steele, Lea and Flood, OOPSLA 2014)
  std::uint64_t mixed = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9u;
  mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
  mixed ^= mixed >> 31;
  return static_cast<double>((mixed >> 11) + 1) * 0x1p-53;
}

// The same, unless the Traits have a Random of their own.
template <class Traits>
double RandomOf() {
  if constexpr (requires { Traits::Random(); }) {
    return Traits::Random();
  } else {
    return detail::RandomUnit();
  }
}

}  // namespace singleflight::detail

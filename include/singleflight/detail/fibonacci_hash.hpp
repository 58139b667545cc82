// SPDX-License-Identifier: MIT
#pragma once

// Multiplicative hashing (Knuth, The Art of Computer Programming, volume 3, section 6.4).

#include <cstdint>

namespace singleflight::detail {

inline constexpr std::uint64_t kGoldenRatio = 0x9E3779B97F4A7C15u;  // 2^64 over the golden ratio

// Spreads `value`, such as an address, over `kBits` bits.
template <int kBits>
constexpr std::uint32_t TopBits(std::uint64_t value) noexcept {
  return static_cast<std::uint32_t>((value * kGoldenRatio) >> (64 - kBits));
}

}  // namespace singleflight::detail

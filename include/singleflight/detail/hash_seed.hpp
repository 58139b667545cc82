// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <concepts>
#include <cstdint>

namespace singleflight::detail {

// Random numbers that each group draws for itself.
using HashSeed = std::array<std::uint64_t, 3>;

// Whether a hash takes the group's seed into account itself.
template <class Hash, class Key>
concept TakesSeed = requires(const Hash& hash, const Key& key, const HashSeed& seed) {
  { hash(key, seed) }
  noexcept->std::same_as<std::uint64_t>;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
// error: Traits::kShards must be a power of two

#include <singleflight/group.hpp>

struct Traits : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 12;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

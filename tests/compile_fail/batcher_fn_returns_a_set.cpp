// SPDX-License-Identifier: MIT
// error: fn returned a range that has keys of its own, as a set has, and is not a map

#include <set>
#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(group, [](std::span<const int>) { return std::set<int>(); });
}

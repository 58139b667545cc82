// SPDX-License-Identifier: MIT
// error: fn must return the values, in the order of its keys, or a map

#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(group, [](std::span<const int>) { return 1; });
}

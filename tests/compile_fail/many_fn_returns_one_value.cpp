// SPDX-License-Identifier: MIT
// error: fn must return the values, in the order of its keys, or a map

#include <singleflight/many.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::DoMany(group, {1, 2}, [](std::span<const int>) { return 1; }));
}

// SPDX-License-Identifier: MIT
// error: fn returned a range that has keys of its own, as a set has, and is not a map

#include <set>
#include <singleflight/many.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::DoMany(
      group, {2, 1}, [](std::span<const int> keys) { return std::set(keys.begin(), keys.end()); }));
}

// SPDX-License-Identifier: MIT
// error: fn returned a map that may have several values for a key

#include <map>
#include <singleflight/many.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::DoMany(
      group, {2, 1}, [](std::span<const int>) { return std::multimap<int, int>(); }));
}

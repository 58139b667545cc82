// SPDX-License-Identifier: MIT
// error: fn must be callable as fn(std::span<const Key>)

#include <singleflight/many.hpp>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(
      singleflight::DoMany(group, {1, 2}, [](int key) { return std::vector<int>{key}; }));
}

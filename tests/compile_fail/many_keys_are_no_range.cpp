// SPDX-License-Identifier: MIT
// error: keys must be a range of what Do accepts as a key

#include <singleflight/many.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(
      singleflight::DoMany(group, 1, [](std::span<const int>) { return std::vector<int>(); }));
}

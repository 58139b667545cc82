// SPDX-License-Identifier: MIT
// error: keys must be a range of what Do accepts as a key

#include <singleflight/batcher.hpp>
#include <singleflight/many.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  singleflight::Batcher batcher(
      group, [](std::span<const int> keys) { return std::vector<int>(keys.size()); });
  static_cast<void>(singleflight::DoManyAsync(batcher, 1));
}

// SPDX-License-Identifier: MIT
// error: there is no span of a std::vector<bool>

#include <singleflight/batcher.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<bool, int> group;
  const singleflight::Batcher batcher(
      group, [](std::span<const bool> keys) { return std::vector<int>(keys.size()); });
}

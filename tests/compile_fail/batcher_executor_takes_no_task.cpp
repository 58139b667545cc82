// SPDX-License-Identifier: MIT
// error: executor must be callable as executor(task)

#include <singleflight/batcher.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(
      group, [](std::span<const int> keys) { return std::vector<int>(keys.size()); }, {}, [] {});
}

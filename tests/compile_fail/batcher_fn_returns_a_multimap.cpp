// SPDX-License-Identifier: MIT
// error: fn returned a map that may have several values for a key

#include <map>
#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(
      group, [](std::span<const int>) { return std::multimap<int, int>(); });
}

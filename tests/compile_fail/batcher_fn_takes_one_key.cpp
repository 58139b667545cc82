// SPDX-License-Identifier: MIT
// error: fn must be callable as fn(std::span<const Key>)

#include <singleflight/batcher.hpp>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(group, [](int key) { return key; });
}

// SPDX-License-Identifier: MIT
// error: fn returned a container that has keys of its own, and no value for each

#include <set>
#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, int> group;
  const singleflight::Batcher batcher(group, [](std::span<const int>) { return std::set<int>(); });
}

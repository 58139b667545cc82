// SPDX-License-Identifier: MIT
// error: fn returned a range that does not own its values, and this Value cannot be copied

#include <memory>
#include <singleflight/batcher.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, std::unique_ptr<int>> group;
  std::vector<std::unique_ptr<int>> kept(2);
  const singleflight::Batcher batcher(group, [&](std::span<const int>) { return std::span(kept); });
}

// SPDX-License-Identifier: MIT
// error: fn returned a range that does not own its values, and this Value cannot be copied

#include <memory>
#include <singleflight/many.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, std::unique_ptr<int>> group;
  std::vector<std::unique_ptr<int>> kept(2);
  static_cast<void>(
      singleflight::DoMany(group, {2, 1}, [&](std::span<const int>) { return std::span(kept); }));
}

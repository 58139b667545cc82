// SPDX-License-Identifier: MIT
// error: executor must be callable as executor(task)

#include <singleflight/many.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  const auto fn = [](std::span<const int>) { return std::vector<int>(); };
  static_cast<void>(singleflight::CoDoMany(group, {2, 1}, fn, [](int) {}));
}

// SPDX-License-Identifier: MIT
// error: fn must return nothing, or for each key what may hold an error

#include <singleflight/many.hpp>
#include <span>

int main() {
  singleflight::Group<int, void> group;
  static_cast<void>(
      singleflight::DoMany(group, {2, 1}, [](std::span<const int>) { return false; }));
}

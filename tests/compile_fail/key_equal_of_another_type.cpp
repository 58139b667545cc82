// SPDX-License-Identifier: MIT
// error: KeyEqual cannot compare two Keys: it must be callable as `bool equal(a, b)`

#include <functional>
#include <singleflight/group.hpp>
#include <string>

int main() {
  singleflight::Group<int, int, std::hash<int>, std::equal_to<std::string>> group;
  static_cast<void>(group.Do(1, [] { return 1; }));
}

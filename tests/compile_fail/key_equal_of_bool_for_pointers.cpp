// SPDX-License-Identifier: MIT
// error: KeyEqual compares another type than the Key, so different keys could be equal

#include <functional>
#include <singleflight/group.hpp>

using Equal = std::equal_to<bool>;

int main() {
  singleflight::Group<const int*, int, std::hash<const int*>, Equal> group;
  const int key = 1;
  static_cast<void>(group.Do(&key, [] { return 1; }));
}

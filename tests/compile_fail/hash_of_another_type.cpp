// SPDX-License-Identifier: MIT
// error: Hash cannot take the Key: it must be callable as `std::size_t hash(key)`

#include <functional>
#include <singleflight/group.hpp>
#include <string>

int main() {
  singleflight::Group<int, int, std::hash<std::string>> group;
  static_cast<void>(group.Do(1, [] { return 1; }));
}

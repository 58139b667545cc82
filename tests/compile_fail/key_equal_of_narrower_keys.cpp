// SPDX-License-Identifier: MIT
// error: KeyEqual compares another type than the Key, so different keys could be equal

#include <cstdint>
#include <functional>
#include <singleflight/group.hpp>

using Hash = std::hash<std::uint32_t>;
using Equal = std::equal_to<std::uint32_t>;

int main() {
  singleflight::Group<std::uint64_t, int, Hash, Equal> group;
  static_cast<void>(group.Do(1U, [] { return 1; }));
}

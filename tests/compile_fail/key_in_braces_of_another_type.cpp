// SPDX-License-Identifier: MIT
// error: no matching

#include <singleflight/group.hpp>
#include <string>
#include <utility>

using Key = std::pair<int, std::string>;
struct KeyHash {
  std::size_t operator()(const Key& key) const { return static_cast<std::size_t>(key.first); }
};

int main() {
  singleflight::Group<Key, int, KeyHash> group;
  static_cast<void>(group.Do({"a", 1}, [] { return 1; }));
}

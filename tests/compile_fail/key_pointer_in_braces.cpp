// SPDX-License-Identifier: MIT
// error: a pointer is not a number, and every pointer would become the key `true`

#include <singleflight/group.hpp>
#include <utility>

using Key = std::pair<int, bool>;
struct KeyHash {
  std::size_t operator()(const Key& key) const { return key.second; }
};

int main() {
  singleflight::Group<Key, int, KeyHash> group;
  static_cast<void>(group.Do({1, "no"}, [] { return 1; }));
}

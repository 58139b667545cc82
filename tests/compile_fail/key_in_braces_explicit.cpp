// SPDX-License-Identifier: MIT
// error: no matching

#include <singleflight/group.hpp>
#include <utility>

struct Id {
  explicit Id(int its_number) : number(its_number) {}
  bool operator==(const Id&) const = default;
  int number;
};
using Key = std::pair<Id, int>;
struct KeyHash {
  std::size_t operator()(const Key& key) const { return static_cast<std::size_t>(key.second); }
};

int main() {
  singleflight::Group<Key, int, KeyHash> group;
  static_cast<void>(group.Do({1, 2}, [] { return 1; }));  // write {Id(1), 2}
}

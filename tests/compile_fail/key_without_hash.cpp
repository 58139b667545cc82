// SPDX-License-Identifier: MIT
// error: Hash cannot take the Key: it must be callable as `std::size_t hash(key)`

#include <singleflight/group.hpp>

struct UserId {
  int number;
  bool operator==(const UserId&) const = default;
};

int main() {
  singleflight::Group<UserId, int> group;
  static_cast<void>(group.Do(UserId{1}, [] { return 1; }));
}

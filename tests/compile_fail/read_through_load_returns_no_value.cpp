// SPDX-License-Identifier: MIT
// error: fn must return the group's Value or something that converts to it

#include <optional>
#include <singleflight/read_through.hpp>

struct Cache {
  std::optional<int> Get(int);
  void Put(int, int);
};

int main() {
  singleflight::ReadThrough<int, int, Cache> numbers{Cache()};
  static_cast<void>(numbers.Get(1, [] { return "one"; }));
}

// SPDX-License-Identifier: MIT
// error: to InvalidateIf, the Cache needs `EraseIf(predicate)`

#include <optional>
#include <singleflight/read_through.hpp>

struct Cache {
  std::optional<int> Get(int);
  void Put(int, int);
};

int main() {
  singleflight::ReadThrough<int, int, Cache> numbers{Cache()};
  numbers.InvalidateIf([](int) { return true; });
}

// SPDX-License-Identifier: MIT
// error: to InvalidateAll, the Cache needs `Clear()`

#include <optional>
#include <singleflight/read_through.hpp>

struct Cache {
  std::optional<int> Get(int);
  void Put(int, int);
};

int main() {
  singleflight::ReadThrough<int, int, Cache> numbers{Cache()};
  numbers.InvalidateAll();
}

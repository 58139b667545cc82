// SPDX-License-Identifier: MIT
// error: to Invalidate, the Cache needs `Erase(const Key&)`

#include <optional>
#include <singleflight/read_through.hpp>

struct Cache {
  std::optional<int> Get(int);
  void Put(int, int);
};

int main() {
  singleflight::ReadThrough<int, int, Cache> numbers{Cache()};
  numbers.Invalidate(1);
}

// SPDX-License-Identifier: MIT
// error: Cache needs `std::optional<Value> Get(const Key&)`, of just that type

#include <optional>
#include <singleflight/read_through.hpp>

// If Value is itself a std::optional, a miss would be taken for a cached "not found".
struct Cache {
  std::optional<int> Get(int);
  void Put(int, const std::optional<int>&);
};

int main() { singleflight::ReadThrough<int, std::optional<int>, Cache> numbers{Cache()}; }

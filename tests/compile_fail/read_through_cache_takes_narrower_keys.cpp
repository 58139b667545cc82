// SPDX-License-Identifier: MIT
// error: the Cache takes another type of key than the Key

#include <cstdint>
#include <optional>
#include <singleflight/read_through.hpp>

struct Cache {
  std::optional<int> Get(std::uint32_t) { return std::nullopt; }
  void Put(std::uint32_t, int) {}
};

int main() {
  singleflight::ReadThrough<std::uint64_t, int, Cache> cached(Cache{});
  static_cast<void>(cached.Get(1U, [] { return 1; }));
}

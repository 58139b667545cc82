// SPDX-License-Identifier: MIT
// error: the Cache takes another type of key than the Key

#include <cstddef>
#include <optional>
#include <singleflight/read_through.hpp>

struct Id {
  operator long long() const { return number; }
  bool operator==(const Id&) const = default;
  long long number;
};
struct Hash {
  std::size_t operator()(const Id&) const { return 0; }
};
struct Cache {
  std::optional<int> Get(int) { return std::nullopt; }
  void Put(const Id&, int) {}
};

int main() {
  singleflight::ReadThrough<Id, int, Cache, Hash> cached(Cache{});
  static_cast<void>(cached.Get(Id{1}, [] { return 1; }));
}

// SPDX-License-Identifier: MIT
// error: Key is a view or a pointer to characters, and the cache would keep it when they are gone

#include <cstddef>
#include <singleflight/read_through.hpp>
#include <string_view>
#include <utility>

using Key = std::pair<int, std::string_view>;
struct Hash {
  std::size_t operator()(const Key& key) const { return static_cast<std::size_t>(key.first); }
};

int main() { singleflight::ReadThrough<Key, int, singleflight::DefaultCache, Hash> cache; }

// SPDX-License-Identifier: MIT
// error: Hash cannot take the Key

#include <singleflight/lru_cache.hpp>

struct Key {
  bool operator==(const Key&) const = default;
};
struct Hash {};

int main() { singleflight::LruCache<Key, int, Hash> cache; }

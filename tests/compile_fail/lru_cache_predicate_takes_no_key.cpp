// SPDX-License-Identifier: MIT
// error: predicate must be callable as predicate(key) or predicate(key, value)

#include <singleflight/lru_cache.hpp>

int main() {
  singleflight::LruCache<int, int> cache;
  cache.EraseIf([] { return true; });
}

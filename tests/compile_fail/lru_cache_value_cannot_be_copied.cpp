// SPDX-License-Identifier: MIT
// error: an LruCache returns copies, and this Value cannot be copied

#include <memory>
#include <singleflight/lru_cache.hpp>

int main() { singleflight::LruCache<int, std::unique_ptr<int>> cache; }

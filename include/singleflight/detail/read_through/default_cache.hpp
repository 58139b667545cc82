// SPDX-License-Identifier: MIT
#pragma once

// CacheOf: which cache a ReadThrough has.

#include "../../lru_cache.hpp"
#include "../../read_through_options.hpp"
#include "load_note.hpp"

namespace singleflight::detail {

template <class Traits>
struct CacheTraits : LruCacheTraits {
  using Mutex = typename Traits::Mutex;
  using Clock = ClockOf<Traits>;
};

template <class Cache, class Key, class Value, class Hash, class KeyEqual, class Traits>
struct CacheOf {
  using Type = Cache;
};
template <class Key, class Value, class Hash, class KeyEqual, class Traits>
struct CacheOf<DefaultCache, Key, Value, Hash, KeyEqual, Traits> {
  using Type = LruCache<Key, CacheEntry<Value>, Hash, KeyEqual, CacheTraits<Traits>>;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// What a ReadThrough does with its options before it uses them.

#include <concepts>
#include <cstddef>
#include <stdexcept>

#include "../../lru_cache_options.hpp"
#include "../../read_through_options.hpp"
#include "../../value_traits.hpp"
#include "../cache_policy.hpp"

namespace singleflight::detail {

// Errors: throws std::invalid_argument for options that the cache or the Value cannot fulfil.
template <class Key, class Value>
void CheckCacheOptions(const ReadThroughOptions<Key, Value>& options, const CachePolicy& policy,
                       bool has_times, bool is_default) {
  const auto check = [](bool holds, const char* otherwise) {
    if (!holds) throw std::invalid_argument(otherwise);
  };
  check(!options.cache_not_found || kCanBeNotFound<Value>,
        "singleflight: cache_not_found needs a Value that can say \"not found\": use "
        "std::optional or a pointer, or declare IsNotFound(const Value&)");
  check(!options.not_found_ttl || kCanBeNotFound<Value>,
        "singleflight: not_found_ttl needs a Value that can say \"not found\": use "
        "std::optional or a pointer, or declare IsNotFound(const Value&)");
  check(has_times || !policy.NeedsTimes(),
        "singleflight: ttl, jitter, stale_for, early_refresh and not_found_ttl need a cache that "
        "keeps CacheEntry<Value>, as the default one does");
  check(is_default || (!options.capacity && !options.weigher),
        "singleflight: capacity and weigher are those of the default cache, and this "
        "ReadThrough has another");
  check(policy.RetryAfter() == 0 || std::copy_constructible<Key>,
        "singleflight: retry_after keeps a copy of the key, and this Key cannot be copied");
}

// The options of the default cache.
template <class Key, class Value>
LruCacheOptions<Key, CacheEntry<Value>> DefaultCacheOptions(
    const ReadThroughOptions<Key, Value>& options) {
  LruCacheOptions<Key, CacheEntry<Value>> its;
  if (options.capacity) its.capacity = *options.capacity;
  if (options.weigher) {
    its.weigher = [weigher = options.weigher](const Key& key, const CacheEntry<Value>& entry) {
      return weigher(key, entry.value);
    };
  }
  return its;
}

}  // namespace singleflight::detail

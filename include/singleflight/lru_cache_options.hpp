// SPDX-License-Identifier: MIT
#pragma once

// What an LruCache is given (LruCacheOptions, LruCacheTraits), and what it counts (LruCacheStats).

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>

#include "options.hpp"
#include "timeout.hpp"

namespace singleflight {

template <class Key, class Value>
struct LruCacheOptions {
  // What all entries together may weigh. It is never exceeded. An entry weighs 1 if there is no
  // weigher. One that alone weighs more is not kept.
  std::size_t capacity = 10'000;
  // Returns what an entry weighs, in any unit. It is asked once for each Put. Zero counts as 1.
  std::function<std::size_t(const Key&, const Value&)> weigher = {};
  // How long an entry is kept after its Put. None: until there is no room.
  std::optional<Duration> ttl = {};
  // How many parts have a lock of their own: a power of two, at most 256. What is evicted is chosen
  // within the part of the new entry. 0: one if the capacity is less than 1024, and otherwise 16.
  std::size_t shards = 0;
};

// Counts since construction, and what is in the cache now. Each shard is read atomically, but the
// total is not a snapshot of one moment.
struct LruCacheStats {
  std::uint64_t hits = 0;
  std::uint64_t misses = 0;
  std::uint64_t evictions = 0;  // entries removed because room was needed
  std::uint64_t expired = 0;    // entries removed because their time had passed
  std::size_t entries = 0;      // in the cache, perhaps expired
  std::size_t weight = 0;       // of these

  bool operator==(const LruCacheStats&) const = default;
};

template <class Visitor>
void ForEachStat(const LruCacheStats& stats, Visitor&& visit) {
  visit.Counter("lru_cache_hits", "Look-ups that found an entry.", stats.hits);
  visit.Counter("lru_cache_misses", "Look-ups that found no entry.", stats.misses);
  visit.Counter("lru_cache_evictions", "Entries removed because room was needed.", stats.evictions);
  visit.Counter("lru_cache_expired", "Entries removed because their time had passed.",
                stats.expired);
  visit.Gauge("lru_cache_entries", "Entries in the cache.", stats.entries);
  visit.Gauge("lru_cache_weight", "What the entries in the cache weigh together.", stats.weight);
}

// Compile-time settings. Derive from this and change what you need.
struct LruCacheTraits {
  using Mutex = GroupTraits::Mutex;         // any BasicLockable that is default-constructible
  using Clock = std::chrono::steady_clock;  // read only if entries expire
};

}  // namespace singleflight

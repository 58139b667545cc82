// SPDX-License-Identifier: MIT
#pragma once

// What a ReadThrough is given: ReadThroughOptions and ReadThroughTraits. What it keeps: CacheEntry.
// What a load may return: Cached. What a ReadThrough counts: ReadThroughStats.

#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "options.hpp"
#include "timeout.hpp"

namespace singleflight {

// A ReadThrough's settings. Those marked "needs times" need a cache that keeps CacheEntries, as the
// default one does. The constructor refuses them for one that keeps plain values.
template <class Key, class Value>
struct ReadThroughOptions {
  // How long a value is fresh after it was put. None: until the cache drops it. Needs times.
  std::optional<Duration> ttl = {};
  // Each value's time is shortened at random by up to this part of it, so that values which were
  // put together do not expire together. 0.1: by up to a tenth. Needs times.
  double jitter = 0;
  // For how long an expired value is still served, while it is refreshed in the background, or if
  // its load fails. (RFC 5861: stale-while-revalidate and stale-if-error.) Needs times.
  //
  // **Warning:** a load that runs in the background outlives the Get that found the value stale. So
  // with this or with early_refresh, a load must own what it uses: capture by value.
  Duration stale_for = {};
  // With this, a Get that finds an expired value first waits for a new one, but no longer than
  // this, nor than its own timeout. It then gets the expired value. DoMany, and callers that do not
  // block, get the expired value at once. None: so does Get.
  std::optional<Duration> soft_timeout = {};
  // Refreshes a value in the background before it expires: the longer its load took, the earlier,
  // at random. 1 is a good factor, and a larger one refreshes earlier. 0: not at all. A value that
  // was put by hand took no time. Needs times.
  double early_refresh = 0;
  // How long after a failed load nobody loads again. Meanwhile callers get the expired value, if
  // stale_for allows it, or else the same failure. Only an explicit Refresh loads. Failures are
  // kept for the last 10,000 keys whose load failed.
  Duration retry_after = {};
  // Whether "not found" is put into the cache, too: an empty std::optional, a null pointer, and
  // what IsNotFound says of your own types (see value_traits.hpp). If this is false, the next
  // caller loads again after a load that found nothing.
  bool cache_not_found = false;
  // Puts "not found", and says how long it is fresh. Needs times.
  std::optional<Duration> not_found_ttl = {};
  // A value for which this is false is not put. It still reaches the callers of its load.
  std::function<bool(const Value&)> keep_if = {};
  // Runs the loads of background refreshes: called as executor(task), where task takes no
  // arguments. None: each has a thread of its own.
  //
  // Lifetime: ~ReadThrough waits for the tasks, so a pool must outlive it.
  std::function<void(std::function<void()>)> executor = {};

  // Only if the ReadThrough has the default cache: see LruCacheOptions. Default: 10,000 entries.
  std::optional<std::size_t> capacity = {};
  std::function<std::size_t(const Key&, const Value&)> weigher = {};

  // The limits of the group whose calls are the loads.
  GroupOptions group = {};
};

// Stands for the cache of a ReadThrough that is given none: an LruCache of CacheEntries.
struct DefaultCache {};

// Compile-time settings. Derive from this and change what you need.
struct ReadThroughTraits : GroupTraits {
  using Clock = std::chrono::steady_clock;  // read only if values expire, and for each load
};

// What is said of one value.
struct CachedOptions {
  // How long it is fresh, instead of the ReadThrough's ttl or not_found_ttl. Zero or less: it is
  // not put. Longer than zero needs a cache that keeps CacheEntries, and else it is not put,
  // either.
  std::optional<Duration> ttl = {};
};

// What a load may return in place of a Value, and Put take:
//
//   users.Get(id, [=] { return singleflight::Cached(Load(id), {.ttl = 5s}); });
template <class T>
class Cached {
 public:
  explicit Cached(T its_value, CachedOptions its_options = {})
      : value(std::move(its_value)), options(its_options) {}

  T value;
  CachedOptions options;
};

// What the cache of a ReadThrough keeps for one key: the value and its times, in nanoseconds since
// the epoch of the ReadThrough's clock. A cache of your own that keeps CacheEntry<Value> instead of
// Value makes all policies possible.
template <class Value>
struct CacheEntry {
  Value value;
  std::chrono::nanoseconds::rep fresh_until;
  std::chrono::nanoseconds::rep usable_until;  // the cache may drop it then
  std::chrono::nanoseconds::rep load_time;     // how long its load took
};

// Exact counts since the ReadThrough was constructed. How long loads took: see
// ReadThrough::LoadTimes.
struct ReadThroughStats {
  std::uint64_t hits = 0;      // callers whose first look in the cache found a value, fresh or not
  std::uint64_t misses = 0;    // callers whose first look found none
  std::uint64_t loads = 0;     // loads begun, those of Refresh included
  std::uint64_t outdated = 0;  // values not put: invalidated, replaced, or no caller was left
  std::uint64_t get_failures = 0;     // how often the cache's Get threw
  std::uint64_t put_failures = 0;     // its Put or Erase, keep_if, a weigher or IsNotFound threw
  std::uint64_t stale = 0;            // callers that got a value that had expired
  std::uint64_t early_refreshes = 0;  // loads that early_refresh began
  std::uint64_t evictions = 0;        // of an LruCache: entries removed because room was needed
  Stats calls = {};                   // the group's statistics

  bool operator==(const ReadThroughStats&) const = default;
};

template <class Visitor>
void ForEachStat(const ReadThroughStats& stats, Visitor&& visit) {
  visit.Counter("read_through_hits", "Callers whose first look in the cache found a value.",
                stats.hits);
  visit.Counter("read_through_misses", "Callers whose first look in the cache found no value.",
                stats.misses);
  visit.Counter("read_through_loads", "Loads begun.", stats.loads);
  visit.Counter("read_through_outdated", "Loaded values that were outdated and not put.",
                stats.outdated);
  visit.Counter("read_through_get_failures", "How often reading the cache threw.",
                stats.get_failures);
  visit.Counter("read_through_put_failures", "How often writing the cache threw.",
                stats.put_failures);
  visit.Counter("read_through_stale", "Callers that got a value that had expired.", stats.stale);
  visit.Counter("read_through_early_refreshes", "Loads begun before a value expired.",
                stats.early_refreshes);
  visit.Counter("read_through_evictions", "Entries removed because room was needed.",
                stats.evictions);
  ForEachStat(stats.calls, visit);
}

}  // namespace singleflight

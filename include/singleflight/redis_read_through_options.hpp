// SPDX-License-Identifier: MIT
#pragma once

// What a redis::ReadThrough is given, and what it counts.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "redis_options.hpp"
#include "timeout.hpp"

namespace singleflight::redis {

// A ReadThrough's settings. Those that ReadThroughOptions of a process's own cache has, too, mean
// the same, but all times are the server's. Its constructor throws std::invalid_argument for one
// that is out of range. All processes should have the same, except for those of local caches.
template <class Value>
struct ReadThroughOptions {
  // How long a value is fresh after it was put. Must be set: what InvalidateAll leaves behind on
  // the server goes when its time is over. At least a millisecond.
  std::optional<Duration> ttl = {};
  // Each value's time is shortened at random by up to this part of it. 0.1: by up to a tenth.
  double jitter = 0;
  // For how long an expired value is still served, while one process of all loads a new one in the
  // background, or if that fails. While the server is away, values of the local cache are served
  // for so long.
  //
  // **Warning:** with this or with early_refresh, a load may outlive the caller that brought it. So
  // it must own what it uses: capture by value.
  Duration stale_for = {};
  // With this, callers that find an expired value first wait for a new one, but no longer than
  // this, also if the server does not answer and the local cache has an expired value. Every way of
  // waiting does so, unlike in a process's own cache. A caller whose own timeout passes first
  // leaves, and gets no value.
  std::optional<Duration> soft_timeout = {};
  // Loads a new value in the background before the old one expires: the longer its load took, the
  // earlier, at random. 1 is a good factor. 0: not at all. It is decided where the server is asked.
  // So with a local_ttl that is not much shorter than ttl, it has next to no effect.
  double early_refresh = 0;
  // How long after a failed load no process loads again. Meanwhile callers get the expired value,
  // or else the failure. In place of one larger than max_value, they get a RemoteError.
  Duration retry_after = {};
  // Whether "not found" is put, too: an empty std::optional, a null pointer, and what IsNotFound
  // says of your own types (see value_traits.hpp).
  bool cache_not_found = false;
  // Puts "not found", and says how long it is fresh.
  std::optional<Duration> not_found_ttl = {};
  // A value for which this is false is not put. It still reaches the callers of its load.
  std::function<bool(const Value&)> keep_if = {};

  // Keeps values in this process, too, for at most this long. A hit is then that of an LruCache,
  // and the server is not asked. An Invalidate in another process is known here as soon as its
  // message has come. Keys are invalidated here in 1,024 parts, by their hash, so that of one key
  // drops about one in 1,024 of the values kept here. Values that were kept before the connection
  // for messages was lost are not used any more once it is back. None: no local cache.
  std::optional<Duration> local_ttl = {};
  // Its size, in entries or in what the weigher returns.
  std::size_t local_capacity = 10'000;
  std::function<std::size_t(const std::string& key, const Value&)> local_weigher = {};

  // The lease, the outage policy, max_value, and the executor: that also runs the loads of
  // background refreshes.
  Options fleet = {};
};

// Counts exactly what a ReadThrough has done in this process since it was made.
struct ReadThroughStats {
  std::uint64_t local_hits = 0;       // callers whom the local cache had a fresh value for
  std::uint64_t hits = 0;             // calls that the server had a value for, fresh or not
  std::uint64_t loads = 0;            // loads begun in this process, those of refreshes included
  std::uint64_t stale = 0;            // calls that got a value that had expired
  std::uint64_t early_refreshes = 0;  // loads that early_refresh began in this process
  std::uint64_t invalidations = 0;    // messages about single keys that have come
  std::uint64_t emptied = 0;          // how often the local cache was emptied
  std::uint64_t evictions = 0;        // of the local cache: entries removed because of its size
  Stats fleet = {};                   // as for a redis::Group

  bool operator==(const ReadThroughStats&) const = default;
};

template <class Visitor>
void ForEachStat(const ReadThroughStats& stats, Visitor&& visit) {
  visit.Counter("redis_read_through_local_hits", "Callers whose value was in the local cache.",
                stats.local_hits);
  visit.Counter("redis_read_through_hits", "Calls that found a value on the server.", stats.hits);
  visit.Counter("redis_read_through_loads", "Loads begun in this process.", stats.loads);
  visit.Counter("redis_read_through_stale", "Calls that got a value that had expired.",
                stats.stale);
  visit.Counter("redis_read_through_early_refreshes", "Loads begun before a value expired.",
                stats.early_refreshes);
  visit.Counter("redis_read_through_invalidations", "Invalidations of a key that have come.",
                stats.invalidations);
  visit.Counter("redis_read_through_emptied", "How often the local cache was emptied.",
                stats.emptied);
  visit.Counter("redis_read_through_evictions", "Entries of the local cache removed for room.",
                stats.evictions);
  ForEachStat(stats.fleet, visit);
}

}  // namespace singleflight::redis

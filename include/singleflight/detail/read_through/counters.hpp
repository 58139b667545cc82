// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>

#include "../../options.hpp"
#include "../../read_through_options.hpp"
#include "striped_counter.hpp"

namespace singleflight::detail {

// What a ReadThrough counts: see ReadThroughStats.
struct Counters {
  using Counter = std::atomic<std::uint64_t>;

  static void Add(Counter& counter) noexcept { counter.fetch_add(1, std::memory_order_relaxed); }

  ReadThroughStats Get(std::uint64_t evictions, const Stats& calls) const {
    return {hits.Sum(),   misses, loads,           outdated,  get_failures,
            put_failures, stale,  early_refreshes, evictions, calls};
  }

  StripedCounter hits;
  Counter misses = 0;  // not on the cache line that hits read
  Counter loads = 0;
  Counter outdated = 0;
  Counter get_failures = 0;
  Counter put_failures = 0;
  Counter stale = 0;
  Counter early_refreshes = 0;
};

}  // namespace singleflight::detail

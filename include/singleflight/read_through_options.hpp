// SPDX-License-Identifier: MIT
#pragma once

// ReadThroughOptions: what a ReadThrough is given. ReadThroughStats: what it counts.

#include <cstdint>

#include "options.hpp"

namespace singleflight {

// A ReadThrough's settings.
struct ReadThroughOptions {
  // Whether "not found" is put into the cache, too: an empty std::optional, a null pointer, and
  // what IsNotFound says of your own types (see value_traits.hpp). The cache sees what it is given,
  // and may keep such values for a shorter time. If this is false, the next caller loads again
  // after a load that found nothing.
  bool cache_not_found = false;
  // The limits of the group whose calls are the loads.
  GroupOptions group = {};
};

// Exact counts since the ReadThrough was constructed.
struct ReadThroughStats {
  std::uint64_t hits = 0;          // callers whose first look in the cache found a value
  std::uint64_t misses = 0;        // callers whose first look found none
  std::uint64_t loads = 0;         // loads begun, those of Refresh included
  std::uint64_t outdated = 0;      // values not put: invalidated, replaced, or no caller was left
  std::uint64_t get_failures = 0;  // how often the cache's Get threw
  std::uint64_t put_failures = 0;  // Put, Erase, IsFailure or IsNotFound threw
  Stats calls = {};                // the group's statistics

  bool operator==(const ReadThroughStats&) const = default;
};

}  // namespace singleflight

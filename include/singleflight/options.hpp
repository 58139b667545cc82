// SPDX-License-Identifier: MIT
#pragma once

// What a user can set for a group or a single caller, and read of their work.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <mutex>
#include <optional>
#include <stop_token>

namespace singleflight {

// What a follower does when its leader failed.
enum class OnFailure : unsigned char {
  kShare,  // it gets the leader's exception
  kRetry,  // it asks again: leads, or joins who now does; what its own `fn` throws is final
};

// One caller's wishes: group.Do(key, fn, {.timeout = 50ms, .stop = token}).
struct CallOptions {
  // How long this caller waits as a follower, counted from when it first joins, before it gets
  // `timed_out`. Zero or negative: it does not wait. A leader's own `fn` is never cut short.
  std::optional<std::chrono::nanoseconds> timeout = {};
  // When requested, this caller leaves: a follower gets `operation_canceled`; a leader is no longer
  // counted as a caller, and returns when `fn` does, with what `fn` returned or threw.
  std::stop_token stop = {};
  OnFailure on_failure = OnFailure::kShare;
};

// One group's limits; by default there are none.
struct GroupOptions {
  static constexpr std::size_t kNoLimit = std::numeric_limits<std::size_t>::max();

  // The leader and all followers of one call; a caller beyond it is refused.
  std::size_t max_callers_per_call = kNoLimit;
  // Calls that run at the same time, forgotten ones included; a caller that would start one more is
  // refused.
  std::size_t max_calls_in_flight = kNoLimit;
  // A call older than this is forgotten by the next caller, who starts afresh.
  std::optional<std::chrono::nanoseconds> max_age = {};
};

// Exact counts since the group was made. Whenever a caller asks, just one of `executions`,
// `followers` and `refused` grows (none, if the asking itself threw: a stop requested
// before, a deadlock, a failed allocation, a hash); a caller that retries after a failure asks
// again.
struct Stats {
  std::uint64_t executions = 0;  // calls begun
  std::uint64_t followers = 0;   // callers that joined a call in flight
  std::uint64_t failures = 0;    // calls that landed with an exception
  std::uint64_t left = 0;        // callers that gave up: timed out, stopped or left
  std::uint64_t refused = 0;     // callers that a limit of GroupOptions turned away
  std::uint64_t in_flight = 0;   // calls that have not landed yet, forgotten ones included

  bool operator==(const Stats&) const = default;
};

// Compile-time settings. Derive from this and change what you need.
struct GroupTraits {
  using Mutex = std::mutex;                   // any BasicLockable that is default-constructible
  static constexpr std::size_t kShards = 64;  // a power of two: independent parts, 128 bytes each
};

}  // namespace singleflight

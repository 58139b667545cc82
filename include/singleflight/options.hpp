// SPDX-License-Identifier: MIT
#pragma once

// CallOptions and GroupOptions: what a user can set for one caller and for a group. Stats says what
// a group has done.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>

#include "detail/adaptive_mutex.hpp"
#include "detail/requirements.hpp"
#include "listener.hpp"
#include "stop_token.hpp"
#include "timeout.hpp"

namespace singleflight {

// Says what a follower does if its leader failed: threw, or returned what IsFailure says is one.
//
// The followers of a failed call that ask again share one second try, however many they are. If a
// limit leaves some of them no place in it, those are refused.
enum class OnFailure : unsigned char {
  kShare,  // it gets the leader's exception
  kRetry,  // it asks again, once, and then leads or follows. What that gives is final
};

// One caller's options: group.Do(key, fn, {.timeout = 50ms, .stop = token}).
struct CallOptions {
  // How long this caller waits as a follower before it gets `timed_out`: a duration, counted from
  // when it first joins, or a time_point. Zero, less or past: it does not wait. It does not limit a
  // leader: its own `fn` always finishes.
  Timeout timeout = {};
  // When a stop is requested, this caller leaves. A follower gets `operation_canceled`. A leader no
  // longer counts as a caller, but returns only when `fn` does, with what `fn` returned or threw.
  StopToken stop = {};
  OnFailure on_failure = OnFailure::kShare;
};

namespace detail {
// What Do refuses as its third argument.
template <class T>
concept NotCallOptions = !std::convertible_to<T, CallOptions>;
}  // namespace detail

// One group's limits. By default there are none.
struct GroupOptions {
  static constexpr std::size_t kNoLimit = (std::numeric_limits<std::size_t>::max)();

  // Callers of one call, its leader included. One more caller is refused.
  std::size_t max_callers_per_call = kNoLimit;
  // Callers of all calls, their leaders included. One more caller is refused.
  std::size_t max_callers = kNoLimit;
  // Calls in flight, forgotten ones included. A caller that would start one more is refused.
  std::size_t max_calls_in_flight = kNoLimit;
  // The next caller forgets a call that is older than this, and starts a new one.
  std::optional<Duration> max_age = {};
  // Whether Inspect says since when a call is in flight. A leader then reads the clock, as it does
  // with a max_age.
  bool timed = false;

  bool HasLimits() const noexcept {
    return max_callers != kNoLimit || max_calls_in_flight != kNoLimit;
  }
};

// Exact counts of what happened since construction. Each time a caller asks, exactly one of
// `executions`, `followers` and `refused` grows. None grows if asking itself threw: because of a
// stop requested before, a deadlock in Do, a failed allocation or a hash. A retry after a failure
// counts as asking again.
struct Stats {
  std::uint64_t executions = 0;  // calls begun
  std::uint64_t followers = 0;   // callers that joined a call in flight
  std::uint64_t failures = 0;    // calls that were cancelled, or landed with an exception or a
                                 // failure: see IsFailure
  std::uint64_t left = 0;        // callers that left before their call landed
  std::uint64_t refused = 0;     // callers refused by a limit of GroupOptions, or after Close
  std::uint64_t in_flight = 0;   // calls that have not landed yet, forgotten ones included

  bool operator==(const Stats&) const = default;
};

// Visits each count, with a name and a sentence: see observe.hpp.
template <class Visitor>
void ForEachStat(const Stats& stats, Visitor&& visit) {
  visit.Counter("executions", "Calls begun.", stats.executions);
  visit.Counter("followers", "Callers that joined a call in flight.", stats.followers);
  visit.Counter("failures", "Calls that landed with an exception or a failure.", stats.failures);
  visit.Counter("left", "Callers that left before their call landed.", stats.left);
  visit.Counter("refused", "Callers that were refused by a limit or after Close.", stats.refused);
  visit.Gauge("in_flight", "Calls that have not landed yet.", stats.in_flight);
}

// Compile-time settings. Derive from this and change what you need.
struct GroupTraits {
  // Any BasicLockable that is default-constructible, such as std::mutex. This one costs half of
  // what that does. For Helgrind, define SINGLEFLIGHT_HELGRIND: see detail/adaptive_mutex.hpp.
  using Mutex = detail::AdaptiveMutex;
  static constexpr std::size_t kShards = 64;  // a power of two: independent parts, 128 bytes each
  using Listener = NoListener;                // is told what happens to calls: see listener.hpp
};

}  // namespace singleflight

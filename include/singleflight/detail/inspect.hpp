// SPDX-License-Identifier: MIT
#pragma once

// How the calls in flight are listed, and forgotten, without locking a shard for long.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include "../call_info.hpp"
#include "call_table.hpp"
#include "errors.hpp"

namespace singleflight::detail {

// Collects what `add(call, found)` adds for each call in flight: at most one element. There is room
// for it, so nothing is allocated under a lock but by a key's copy.
//
// Errors: throws what `add` throws, or an allocation.
template <class Element, class Ledger, class Add>
std::vector<Element> CollectCalls(Ledger& ledger, const Add& add) {
  constexpr std::size_t kRoom = Ledger::kCallsInOneVisit;
  std::vector<Element> found;
  std::exception_ptr error;  // a visit must be finished
  const auto keep_error = [&error](const auto& run) {
    if (error != nullptr) return;
    try {
      run();
    } catch (...) {
      error = detail::Caught();
    }
  };
  const auto make_room = [&] {
    if (found.capacity() - found.size() >= kRoom) return;
    found.reserve((std::max)(2 * found.capacity(), found.size() + kRoom));
  };
  ledger.VisitCalls(
      [&] { keep_error(make_room); },
      [&](auto&, const CallBase& call) {
        keep_error([&] { add(static_cast<const typename Ledger::Call&>(call), found); });
      });
  if (error != nullptr) std::rethrow_exception(std::move(error));
  return found;
}

template <class Ledger>
std::vector<CallInfo<typename Ledger::Key>> Inspect(Ledger& ledger) {
  using Key = typename Ledger::Key;
  using Clock = std::chrono::steady_clock;
  return detail::CollectCalls<CallInfo<Key>>(ledger, [&ledger](const auto& call, auto& found) {
    CallInfo<Key> info{Key(call.key.get()), call.callers, call.Forgotten(), {}};
    if (ledger.StampsCalls()) {
      const auto since = std::chrono::nanoseconds(call.started);
      info.since = Clock::time_point(std::chrono::duration_cast<Clock::duration>(since));
    }
    found.push_back(std::move(info));
  });
}

// Copies the keys of the calls that are not forgotten.
template <class Ledger>
std::vector<typename Ledger::Key> KeysInFlight(Ledger& ledger) {
  using Key = typename Ledger::Key;
  return detail::CollectCalls<Key>(ledger, [](const auto& call, auto& found) {
    if (!call.Forgotten()) found.emplace_back(call.key.get());
  });
}

// Forgets all calls in flight.
template <class Ledger>
void ForgetAll(Ledger& ledger) {
  ledger.VisitCalls([] {},
                    [](auto& shard, CallBase& call) {
                      if (!call.Forgotten()) shard.Forget(call);
                    });
}

}  // namespace singleflight::detail

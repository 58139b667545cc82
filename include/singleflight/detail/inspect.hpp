// SPDX-License-Identifier: MIT
#pragma once

// How the calls in flight are listed, and forgotten, without locking a shard for long.

#include <chrono>
#include <cstddef>
#include <exception>
#include <utility>
#include <vector>

#include "../call_info.hpp"
#include "call_table.hpp"
#include "errors.hpp"

namespace singleflight::detail {

// Collects what `add(call, some)` adds for each call in flight: at most one element.
//
// The elements of one lock are made in a small vector that has room for them, and moved from it
// later. So nothing but a key's copy allocates under a lock, and the system gives no memory there,
// which may take longer than all else.
//
// Errors: throws what `add` throws, or an allocation.
template <class Element, class Ledger, class Add>
std::vector<Element> CollectCalls(Ledger& ledger, const Add& add) {
  std::vector<Element> all;
  std::vector<Element> some;
  some.reserve(Ledger::kCallsInOneVisit);
  std::exception_ptr error;  // a visit must be finished
  const auto keep_error = [&error](const auto& run) {
    if (error != nullptr) return;
    try {
      run();
    } catch (...) {
      error = detail::Caught();
    }
  };
  const auto collect = [&] {
    for (Element& each : some) all.push_back(std::move(each));
    some.clear();
  };
  ledger.VisitCalls(
      [&] { keep_error(collect); },
      [&](auto&, const CallBase& call) {
        keep_error([&] { add(static_cast<const typename Ledger::Call&>(call), some); });
      });
  keep_error(collect);
  if (error != nullptr) std::rethrow_exception(std::move(error));
  return all;
}

// Describes a call, whose shard is locked.
template <class Ledger>
CallInfo<typename Ledger::Key> InfoOf(const Ledger& ledger, const typename Ledger::Call& call) {
  using Key = typename Ledger::Key;
  using Clock = std::chrono::steady_clock;
  CallInfo<Key> info{Key(call.key.get()), call.callers, call.Forgotten(), {}};
  if (ledger.StampsCalls()) {
    const auto since = std::chrono::nanoseconds(call.started);
    info.since = Clock::time_point(std::chrono::duration_cast<Clock::duration>(since));
  }
  return info;
}

template <class Ledger>
std::vector<CallInfo<typename Ledger::Key>> Inspect(Ledger& ledger) {
  using Info = CallInfo<typename Ledger::Key>;
  return detail::CollectCalls<Info>(ledger, [&ledger](const auto& call, auto& found) {
    found.push_back(detail::InfoOf(ledger, call));
  });
}

// Copies the keys of the calls that are not forgotten.
template <class Ledger>
std::vector<typename Ledger::Key> KeysInFlight(Ledger& ledger) {
  using Key = typename Ledger::Key;
  return detail::CollectCalls<Key>(ledger, [](const auto& call, auto& some) {
    if (!call.Forgotten()) some.emplace_back(call.key.get());
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

// SPDX-License-Identifier: MIT
#pragma once

// CacheContext: what the calls of one redis::ReadThrough have in common: its policy, its local
// cache, and what it counts. PublishLoad: the last of a load's work: its value is put on the
// server, and goes to the processes that follow.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "../../latency_histogram.hpp"
#include "../../lru_cache.hpp"
#include "../../read_through_options.hpp"
#include "../../redis_read_through_options.hpp"
#include "../../value_traits.hpp"
#include "../cache_policy.hpp"
#include "../cached_load.hpp"
#include "../invoke.hpp"
#include "../new_thread.hpp"
#include "../outcome.hpp"
#include "../random.hpp"
#include "cache_state.hpp"
#include "fleet.hpp"
#include "publish_outcome.hpp"
#include "tenure.hpp"

namespace singleflight::redis::detail {

template <class Value>
struct LocalEntry {
  Value value;
  Clock::time_point fresh_until;
  Clock::time_point usable_until;
  CacheState::Epoch epoch;
};

// Returns a time in the words of a script. What is longer than a hundred years is that long.
inline std::string Milliseconds(singleflight::detail::CacheTime time) {
  constexpr singleflight::detail::CacheTime kMost = 3'153'600'000'000;
  return std::to_string(std::clamp<singleflight::detail::CacheTime>(time / 1'000'000, 1, kMost));
}

// Returns a time that can be added to that of a clock. What is longer than fifty years is that
// long.
inline Clock::duration ClockTime(Duration time) {
  constexpr std::chrono::nanoseconds kMost = std::chrono::hours(50 * 365 * 24);
  return std::chrono::duration_cast<Clock::duration>(
      std::min(std::chrono::nanoseconds(time.count()), kMost));
}

// An expired value of the local cache, for callers who get no other one. Once its epoch is over, it
// must not reach a caller who has begun since.
template <class Value>
struct OldValue {
  std::shared_ptr<const Value> value = {};  // null: there is none
  CacheState::Epoch epoch = 0;
};

template <class Value, class Traits>
class CacheContext final : public GroupContext {
 public:
  using Options = ReadThroughOptions<Value>;
  using Epoch = CacheState::Epoch;

  CacheContext(Fleet& its_fleet, std::string its_prefix, const Options& its_options,
               std::string its_tag)
      : GroupContext(its_fleet, std::move(its_prefix), its_options.fleet, std::move(its_tag)),
        options_(its_options),
        policy_(its_options) {
    Check();
    AskingPolicy asking{.uses_expired = options_.stale_for.count() > 0,
                        .early_refresh = options_.early_refresh};
    if (options_.soft_timeout) asking.patience = detail::ClockTime(*options_.soft_timeout);
    cache = std::make_shared<CacheState>(fleet, prefix, asking, options_.local_ttl.has_value());
    if (options_.local_ttl) local_.emplace(LocalOptions(options_));
  }

  const Options& CacheOptions() const noexcept { return options_; }

  // Notes it as an outage if the server refuses messages. Call it once, before anything is asked.
  void NoteRefusals() {
    cache->WhenRefused([weak = this->weak_from_this()](const std::string& why) {
      if (const auto self = weak.lock()) self->NoteOutage(why);
    });
  }

  // ---- The local cache. Thread: any.

  struct Found {
    std::optional<Value> value = {};
    bool is_fresh = false;
    Epoch epoch = 0;
  };
  Found LookLocal(std::string_view key) {
    if (!local_ || cache->MissesMessages()) return {};
    std::optional<LocalEntry<Value>> entry = local_->Get(key);
    if (!entry || entry->epoch != cache->EpochOf(key)) return {};
    const auto now = Clock::now();
    if (now < entry->fresh_until) return {std::move(entry->value), true, entry->epoch};
    if (now < entry->usable_until) return {std::move(entry->value), false, entry->epoch};
    return {};
  }
  // Whether a call may end with it, which nobody joins any more.
  bool MayGive(const OldValue<Value>& old, std::string_view key) const noexcept {
    return old.value != nullptr && old.epoch == cache->EpochOf(key);
  }
  // `epoch` is that of the moment `asked`, when the value was asked for. `fresh_for` is how long it
  // was fresh then. It is negative if the value had expired.
  void PutLocal(const std::string& key, const Value& value, Epoch epoch, Clock::time_point asked,
                Clock::duration fresh_for) {
    if (!local_ || cache->MissesMessages() || epoch != cache->EpochOf(key)) return;
    const auto local_ttl = detail::ClockTime(*options_.local_ttl);
    const auto fresh_until = asked + std::min(fresh_for, local_ttl);
    const auto usable_until = fresh_until + detail::ClockTime(options_.stale_for);
    if (usable_until <= Clock::now()) return;
    local_->Put(key, LocalEntry<Value>{value, fresh_until, usable_until, epoch});
  }
  // Does the same, unless the weigher, a copy or an allocation throws.
  void TryPutLocal(const std::string& key, const Value& value, Epoch epoch, Clock::time_point asked,
                   Clock::duration fresh_for) {
    try {
      return PutLocal(key, value, epoch, asked, fresh_for);
    } catch (...) {
      static_cast<void>(singleflight::detail::Caught());
    }
    DropLocal(key);
  }
  void DropLocal(const std::string& key) {
    if (local_) local_->Erase(key);
  }
  void EraseLocal(const std::string& key) {
    cache->EndEpoch(key);
    DropLocal(key);
  }
  void ClearLocal() {
    cache->EndAllEpochs();
    if (local_) local_->Clear();
  }
  std::uint64_t Evictions() const {
    return local_ && !Loop().IsForked() ? local_->GetStats().evictions : 0;
  }

  // ---- The policy. Thread: any.

  // Says what is to become of a value. None: it is not to be put.
  std::optional<PutOrder> OrderFor(const Value& value, const CachedOptions& own,
                                   std::chrono::nanoseconds load_time) const {
    const bool is_not_found = singleflight::IsNotFound(value);
    const singleflight::detail::CacheTimes times = policy_.TimesOf(
        0, load_time.count(), is_not_found, own.ttl, singleflight::detail::RandomUnit);
    if (times.fresh_until <= 0) return std::nullopt;
    PutOrder order;
    order.fresh = Milliseconds(times.fresh_until);
    order.usable = Milliseconds(times.usable_until);
    std::snprintf(order.load_time.data(), order.load_time.size() + 1, "%016lld",
                  static_cast<long long>(std::clamp<std::int64_t>(load_time.count() / 1000, 0,
                                                                  9'999'999'999'999'999)));
    return order;
  }
  // Returns how long a failure is kept.
  std::string RetryAfter() const {
    return policy_.RetryAfter() > 0 ? Milliseconds(policy_.RetryAfter()) : std::string();
  }

  LocalGroup<Value, Traits>* refreshes = nullptr;  // whose calls are the background loads
  std::atomic<std::uint64_t> local_hits = 0, hits = 0, stale = 0, early_refreshes = 0;
  LatencyHistogram load_times;

 private:
  void Check() const {
    const auto demand = [](bool holds, const char* otherwise) {
      if (!holds) throw std::invalid_argument(otherwise);
    };
    demand(options_.ttl.has_value(),
           "singleflight::redis: ttl is not set: what InvalidateAll leaves behind must expire");
    constexpr Duration kLeast = std::chrono::milliseconds(1);
    demand(*options_.ttl >= kLeast, "singleflight::redis: ttl is shorter than a millisecond");
    demand(!options_.not_found_ttl || *options_.not_found_ttl >= kLeast,
           "singleflight::redis: not_found_ttl is shorter than a millisecond");
    const bool has_not_found = options_.cache_not_found || options_.not_found_ttl;
    demand(!has_not_found || singleflight::detail::kCanBeNotFound<Value>,
           "singleflight::redis: cache_not_found and not_found_ttl need a Value that can say \"not "
           "found\": use std::optional or a pointer, or declare IsNotFound(const Value&)");
    demand(!options_.local_ttl || options_.local_ttl->count() > 0,
           "singleflight::redis: local_ttl is not positive");
    demand(options_.local_ttl || !options_.local_weigher,
           "singleflight::redis: local_weigher has no effect without local_ttl");
  }

  static LruCacheOptions<std::string, LocalEntry<Value>> LocalOptions(const Options& options) {
    LruCacheOptions<std::string, LocalEntry<Value>> its;
    its.capacity = options.local_capacity;
    if (options.local_weigher) {
      its.weigher = [weigher = options.local_weigher](const std::string& key,
                                                      const LocalEntry<Value>& entry) {
        return weigher(key, entry.value);
      };
    }
    return its;
  }

  const Options options_;
  const singleflight::detail::CachePolicy policy_;
  std::optional<LruCache<std::string, LocalEntry<Value>>> local_;
};

// The hook before a load's call lands.
template <class Value, class ValueCodec, class Traits>
struct PublishLoad : PublishOutcome<Value, ValueCodec, Traits> {
  using Base = PublishOutcome<Value, ValueCodec, Traits>;
  using Context = CacheContext<Value, Traits>;

  static constexpr bool kTakesCached = true;  // in place of a Value
  static constexpr bool kMayBeBackground = true;

  void operator()(typename Base::Ledger& ledger, singleflight::detail::CallBase& call,
                  const std::string& key, singleflight::detail::Outcome<Value>& outcome) const {
    const auto load_time = Clock::now() - started;
    context->load_times.Record(load_time);
    const bool failed = singleflight::detail::Failed(outcome);
    std::optional<PutOrder> order;
    if (failed) {
      order = PutOrder{.failure = context->RetryAfter()};
    } else {
      order = OrderFor(*outcome.value(), load_time);
    }
    const bool is_kept = !failed && order.has_value();
    if (!order) order = PutOrder{.fresh = "-"};
    const std::chrono::milliseconds fresh(is_kept ? std::stoll(order->fresh) : 0);
    if (!Base::operator()(ledger, call, key, outcome, std::move(order))) return;
    if (is_kept && outcome.value() != nullptr) {
      context->TryPutLocal(key, *outcome.value(), epoch, Clock::now(), fresh);
    } else if (!failed) {
      context->DropLocal(key);
    }
    if (failed && old.value != nullptr) {
      ledger.Forget(call);
      if (context->MayGive(old, key)) SetToOld(outcome);
    }
  }

  template <class Fn>
  requires(singleflight::detail::ReturnsCached<Fn>()) auto Heed(Fn&& load) {
    return singleflight::detail::Unpacking<Value>(std::forward<Fn>(load), own);
  }
  bool IsBackground() const noexcept { return is_background; }
  template <class Task>
  void RunInBackground(Task&& task) const {
    if (const auto& executor = context->options.executor) {
      executor(std::forward<Task>(task));
    } else {
      NewThread()(std::forward<Task>(task));
    }
  }

  std::shared_ptr<Context> context;
  CacheState::Epoch epoch = 0;
  Clock::time_point started = Clock::now();
  bool is_background = false;
  OldValue<Value> old = {};  // for its callers, if the load fails
  CachedOptions own = {};    // what the load says of its value

 private:
  // None: the value is not to be put. So if the user's functions throw.
  template <class Found>  // the Value
  std::optional<PutOrder> OrderFor(const Found& value, std::chrono::nanoseconds load_time) const {
    try {
      if (singleflight::detail::IsKept(context->CacheOptions(), value))
        return context->OrderFor(value, own, load_time);
    } catch (...) {
      static_cast<void>(singleflight::detail::Caught());
    }
    return std::nullopt;
  }
  void SetToOld(singleflight::detail::Outcome<Value>& outcome) const {
    std::exception_ptr error;
    try {
      outcome.SetValueFrom([this] { return *old.value; });
      ++context->stale;
      return;
    } catch (...) {
      error = singleflight::detail::Caught();
    }
    outcome.SetError(std::move(error));
  }
};

}  // namespace singleflight::redis::detail

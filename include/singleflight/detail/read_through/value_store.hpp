// SPDX-License-Identifier: MIT
#pragma once

// ValueStore: what a ReadThrough does with its cache. It looks, puts, invalidates, and decides by
// the policy. It knows of the calls in flight only what it is given.

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <variant>

#include "../../latency_histogram.hpp"
#include "../../lru_cache.hpp"
#include "../../read_through_options.hpp"
#include "../../value_traits.hpp"
#include "../cache_policy.hpp"
#include "../call.hpp"
#include "../errors.hpp"
#include "../key_ref.hpp"
#include "../outcome.hpp"
#include "../random.hpp"
#include "check_options.hpp"
#include "counters.hpp"
#include "default_cache.hpp"
#include "failures.hpp"
#include "guarded_cache.hpp"
#include "key_lock.hpp"
#include "load_note.hpp"

namespace singleflight::detail {

template <class Key, class Value, class CacheArg, class Hash, class KeyEqual, class Traits>
class ValueStore {
  using Cache = typename CacheOf<CacheArg, Key, Value, Hash, KeyEqual, Traits>::Type;
  using Entry = CacheEntry<Value>;
  using Clock = ClockOf<Traits>;
  using Options = ReadThroughOptions<Key, Value>;

 public:
  static constexpr bool kHasTimes = CacheFor<std::remove_reference_t<Cache>, Key, Entry>;

 private:
  static_assert(kHasTimes || CacheFor<std::remove_reference_t<Cache>, Key, Value>,
                "Cache needs `std::optional<Value> Get(const Key&)`, of just that type, and "
                "`Put(const Key&, const Value&)`");
  static_assert(!std::is_rvalue_reference_v<Cache>, "Cache must be a value or a `Cache&`");

  using Stored = std::conditional_t<kHasTimes, Entry, Value>;
  using GuardedCache = detail::GuardedCache<Cache, Key, Stored, typename Traits::Mutex>;
  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  // What is put: plain values are not copied before that.
  using ToPut = std::conditional_t<kHasTimes, Entry, std::reference_wrapper<const Value>>;
  using Prepared = typename GuardedCache::template Prepared<ToPut>;

  static constexpr bool kKeepsFailures = std::copy_constructible<Key>;
  using Failures =
      std::conditional_t<kKeepsFailures,
                         detail::Failures<Key, Value, Hash, KeyEqual, CacheTraits<Traits>>,
                         NoFailures>;

 public:
  static constexpr bool kCanErase = GuardedCache::kCanErase;
  static constexpr bool kCanClear = GuardedCache::kCanClear;
  static constexpr bool kCanEraseIf = GuardedCache::kCanEraseIf;

  struct Lookup {
    std::optional<Value> hit;
    Freshness freshness = Freshness::kFresh;
    CacheTime fresh_until = kNoEnd;
    bool failed = false;  // the cache threw, so it may hold a value
  };

  // From a cache, or with the default one.
  template <class From>
  ValueStore(Options&& options, From&& cache)
      : options_(std::move(options)),
        policy_(options_),
        cache_(std::in_place, std::forward<From>(cache)) {
    Check();
  }
  explicit ValueStore(Options&& options)
      : options_(std::move(options)),
        policy_(options_),
        cache_(std::in_place, detail::DefaultCacheOptions(options_)) {
    Check();
  }

  const Options& GetOptions() const noexcept { return options_; }
  static CacheTime Now() { return Duration(Clock::now().time_since_epoch()).count(); }

  // ---- Looking

  // A cache that throws counts as one that has nothing.
  template <class K>
  Lookup Look(const K& key) {
    return LookBy([&] { return cache_.Get(key); });
  }
  template <class K>
  Lookup Peek(const K& key) {
    return LookBy([&] { return cache_.Peek(key); });
  }

  // What a leader finds that makes its load unnecessary: a value that was put since its caller
  // looked, or a failure that still stands. None: it must load.
  //
  // A caller of AskForLoad must not get an old failure. So when a failure is the answer, `forget()`
  // forgets the leader's call under the key's lock: nobody joins it who has called AskForLoad.
  template <class K, class Forget>
  std::optional<Outcome<Value>> Answer(const K& key, std::uint64_t hash, const LoadNote& note,
                                       const Forget& forget) {
    if (note.LooksAgain()) {
      const bool is_miss = note.reason == LoadReason::kMiss;
      if (Lookup found = Look(key); found.hit && found.freshness != Freshness::kStale &&
                                    (is_miss || found.fresh_until != note.seen)) {
        return std::optional<Outcome<Value>>(std::in_place, std::in_place, std::move(*found.hit));
      }
    }
    if constexpr (kKeepsFailures) {
      if (note.reason == LoadReason::kAsked || !HasFailed(key)) return std::nullopt;
      const auto failure = [&] {
        const KeyLock::Holder changing(key_locks_, hash);
        auto found = failures_->Find(key);
        if (found != nullptr) forget();
        return found;
      }();
      if (failure != nullptr) return Failures::OutcomeOf(*failure);
    }
    return std::nullopt;
  }

  // From now on, no caller of `key` gets a failure from before.
  template <class K>
  void AskForLoad(const K& key, std::uint64_t hash) {
    if (!HasFailed(key)) return;
    Removed removed;
    const KeyLock::Holder changing(key_locks_, hash);
    ForgetFailure(key, removed);
  }

  // Whether the last load failed, and it is too early to try again.
  template <class K>
  bool HasFailed(const K& key) {
    if constexpr (kKeepsFailures) return failures_ && failures_->Has(key);
    return false;
  }

  // ---- Changing. Whoever changes a key's entry holds the key's lock, so that no load puts its
  // value in between. It is given a function that forgets the call in flight, which is last: a call
  // that began meanwhile may have looked in the cache before the change.

  // A load has finished, and its call is about to land. Puts its value, if the call is still
  // wanted. The key's lock keeps Invalidate from coming between these two steps, and loads of one
  // key from putting in the wrong order.
  template <class Ledger, class K>
  void Land(Ledger& ledger, const CallBase& call, const K& key, const LoadNote& note,
            const Outcome<Value>& outcome) {
    try {
      const CacheTime now = Now();
      const CacheTime load_time = Between(note.started, (std::max)(note.started, now));
      load_times_.Record(std::chrono::nanoseconds(load_time));
      const Value* const value = outcome.value();
      if (value == nullptr || singleflight::IsFailure(*value)) {
        return KeepFailure(ledger, call, key, outcome);
      }
      std::optional<Prepared> put = TryPrepare(key, *value, note.own, now, load_time);
      const bool changes = put || (note.MayBeCached() && kCanErase);
      if (!changes && !HasFailed(key)) return;
      Removed removed;  // destroyed without the key's lock
      const KeyLock::Holder changing(key_locks_, call.hash);
      if (!ledger.IsWanted(call)) {
        if (changes) Counters::Add(counters_.outdated);
        return;
      }
      ForgetFailure(key, removed);
      if (put) return PutOrErase(key, *put, note.MayBeCached(), removed);
      if constexpr (kCanErase) {
        if (changes) removed.entries.emplace(cache_.Erase(key));
      }
      return;
    } catch (...) {
      static_cast<void>(Caught());
    }
    Counters::Add(counters_.put_failures);
  }

  template <class K, class Forget>
  void Put(const K& key, std::uint64_t hash, const Value& value, const CachedOptions& own,
           const Forget& forget) {
    Removed removed;
    const CacheTime now = Now();
    std::optional<ToPut> made = Made(value, own, now, /*load_time=*/0);
    if (!made && !kCanErase) {
      throw std::invalid_argument(
          "singleflight: the cache cannot keep the value for that time, and has no Erase for the "
          "older one");
    }
    std::optional<Prepared> put;
    std::exception_ptr error;
    try {
      if (made) put.emplace(Prepare(key, std::move(*made), own, now));
    } catch (...) {
      error = Caught();
    }
    const KeyLock::Holder changing(key_locks_, hash);
    const auto change = [&] {
      ForgetFailure(key, removed);
      if (put) return PutOrErase(key, *put, /*erases=*/true, removed);
      if (error == nullptr) {
        if constexpr (kCanErase) removed.entries.emplace(cache_.Erase(key));
        return;
      }
      EraseQuietly(key, removed);
      std::rethrow_exception(error);
    };
    ChangeAndForget(change, forget);
  }

  template <class K, class Forget>
  void Erase(const K& key, std::uint64_t hash, const Forget& forget) {
    Removed removed;
    const KeyLock::Holder changing(key_locks_, hash);
    const auto change = [&] {
      ForgetFailure(key, removed);
      removed.entries.emplace(cache_.Erase(key));
    };
    ChangeAndForget(change, forget);
  }

  // For all keys, or for those of which `is_it(key)` is true. A load that began before this puts
  // nothing after it: either it is forgotten before it puts, or this waits until it has put. No key
  // is locked meanwhile. A load that begins meanwhile may put its value, which is new.
  template <class Forget>
  void Clear(const Forget& forget) {
    forget();
    key_locks_.AwaitHolders();
    const auto change = [this] {
      if (failures_) failures_->Clear();
      cache_.Clear();
    };
    ChangeAndForget(change, forget);
  }
  template <class Predicate, class Forget>
  void EraseIf(Predicate& is_it, const Forget& forget) {
    forget();
    key_locks_.AwaitHolders();
    const auto change = [&] {
      const auto is_key = [&is_it](const Key& key) { return static_cast<bool>(is_it(key)); };
      if (failures_) failures_->EraseIf(is_key);
      cache_.EraseIf(is_key);
    };
    ChangeAndForget(change, forget);
  }

  // ---- Counting

  void CountLook(const Lookup& found) noexcept {
    if (found.hit) {
      counters_.hits.Add();
    } else {
      Counters::Add(counters_.misses);
    }
  }
  void CountStale() noexcept { Counters::Add(counters_.stale); }
  // A load begins.
  void CountLoad(LoadNote& note) {
    Counters::Add(counters_.loads);
    if (note.reason == LoadReason::kEarly) Counters::Add(counters_.early_refreshes);
    note.started = Now();
  }

  ReadThroughStats GetStats(const Stats& calls) const {
    return counters_.Get(cache_.Evictions(), calls);
  }
  const LatencyHistogram& LoadTimes() const noexcept { return load_times_; }

 private:
  // What a change has taken out. It is destroyed when no lock is held.
  struct Removed {
    std::optional<typename GuardedCache::Removed> entries;
    std::optional<typename Failures::Removed> failures;
  };

  void Check() {
    detail::CheckCacheOptions<Key, Value>(options_, policy_, kHasTimes,
                                          std::same_as<CacheArg, DefaultCache>);
    if constexpr (kKeepsFailures) {
      if (policy_.RetryAfter() > 0) failures_.emplace(policy_.RetryAfter());
    }
  }

  template <class Ask>
  Lookup LookBy(const Ask& ask) {
    try {
      std::optional<Stored> found = ask();
      if constexpr (kHasTimes) {
        return found ? Judged(std::move(*found)) : Lookup{};
      } else {
        return {std::move(found)};
      }
    } catch (...) {
      static_cast<void>(Caught());
    }
    Counters::Add(counters_.get_failures);
    return {.hit = std::nullopt, .failed = true};
  }

  Lookup Judged(Entry&& found) const {
    const CacheTimes times{found.fresh_until, found.usable_until, found.load_time};
    const Freshness freshness = policy_.FreshnessOf(times, Now, RandomOf<Traits>);
    if (freshness == Freshness::kUseless) return {};
    return {std::move(found.value), freshness, found.fresh_until};
  }

  // Makes what is put. None: its time is not positive, or the cache cannot keep it for its time.
  std::optional<ToPut> Made(const Value& value, const CachedOptions& own, CacheTime now,
                            CacheTime load_time) const {
    if constexpr (kHasTimes) {
      const CacheTimes times = policy_.TimesOf(now, load_time, singleflight::IsNotFound(value),
                                               own.ttl, RandomOf<Traits>);
      if (times.fresh_until <= now) return std::nullopt;
      return ToPut{value, times.fresh_until, times.usable_until, times.load_time};
    } else {
      if (own.ttl && (own.ttl->count() <= 0 || !GuardedCache::kTakesTtl)) return std::nullopt;
      return std::cref(value);
    }
  }

  template <class K>
  Prepared Prepare(const K& key, ToPut&& put, const CachedOptions& own, CacheTime now) {
    std::optional<Duration> ttl = own.ttl;
    if constexpr (kHasTimes) {
      ttl.reset();
      if (put.usable_until != kNoEnd)
        ttl = std::chrono::nanoseconds(Between(now, put.usable_until));
    }
    return cache_.Prepare(key, std::move(put), ttl);
  }
  // For a load's value. None: it is not put, also if the user's functions throw, which is counted.
  template <class K>
  std::optional<Prepared> TryPrepare(const K& key, const Value& value, const CachedOptions& own,
                                     CacheTime now, CacheTime load_time) {
    try {
      if (!detail::IsKept(options_, value)) return std::nullopt;
      std::optional<ToPut> made = Made(value, own, now, load_time);
      if (!made) return std::nullopt;
      return Prepare(key, std::move(*made), own, now);
    } catch (...) {
      static_cast<void>(Caught());
    }
    Counters::Add(counters_.put_failures);
    return std::nullopt;
  }

  // If the cache throws, the older value is erased.
  template <class K>
  void PutOrErase(const K& key, Prepared& put, bool erases, Removed& removed) {
    try {
      removed.entries.emplace(cache_.template Put<K, ToPut>(key, put));
    } catch (...) {
      if (erases) EraseQuietly(key, removed);
      throw;
    }
  }

  // ---- Failures

  template <class Ledger, class K>
  void KeepFailure(Ledger& ledger, const CallBase& call, const K& key,
                   const Outcome<Value>& outcome) {
    if constexpr (kKeepsFailures) {
      if (!failures_) return;
      auto failure = failures_->Prepare(key, outcome);
      if (!failure) return;
      Removed removed;
      const KeyLock::Holder changing(key_locks_, call.hash);
      if (!ledger.IsWanted(call)) return;
      removed.failures.emplace(failures_->Keep(std::move(*failure)));
    }
  }

  template <class K>
  void EraseQuietly(const K& key, Removed& removed) {
    if constexpr (kCanErase) {
      try {
        removed.entries.emplace(cache_.Erase(key));
      } catch (...) {
        static_cast<void>(Caught());
      }
    }
  }

  template <class K>
  void ForgetFailure(const K& key, Removed& removed) {
    if constexpr (kKeepsFailures) {
      if (failures_) removed.failures.emplace(failures_->Erase(key));
    }
  }

  const Options options_;
  const CachePolicy policy_;
  GuardedCache cache_;
  std::optional<Failures> failures_;  // none unless there is a retry_after
  KeyLock key_locks_;                 // serialize changes of one key's entry
  Counters counters_;
  LatencyHistogram load_times_;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// GuardedCache: a user's cache, as a ReadThrough calls it.

#include <concepts>
#include <cstdint>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>

#include "../../lru_cache.hpp"
#include "../../lru_cache_options.hpp"
#include "../../options.hpp"
#include "../../read_through_options.hpp"
#include "../../timeout.hpp"
#include "../keeps_apart.hpp"
#include "cache_key.hpp"
#include "cache_mutex.hpp"

namespace singleflight {

// Says what a ReadThrough requires of a cache: see read_through.hpp.
template <class Cache, class Key, class Value>
concept CacheFor = requires(Cache& cache, const Key& key, const Value& value) {
  { cache.Get(key) } -> std::same_as<std::optional<Value>>;
  cache.Put(key, value);
};

namespace detail {

template <class T>
inline constexpr bool kIsEntry = false;
template <class Value>
inline constexpr bool kIsEntry<CacheEntry<Value>> = true;

template <class Cache, class Key>
concept CanErase = requires(Cache& cache, const Key& key) {
  cache.Erase(key);
};
template <class Cache>
concept CanClear = requires(Cache& cache) {
  cache.Clear();
};
template <class Cache, class Key>
concept CanEraseIf = requires(Cache& cache, bool (&predicate)(const Key&)) {
  cache.EraseIf(predicate);
};
template <class Cache, class Key, class Value>
concept TakesTtl = requires(Cache& cache, const Key& key, const Value& value, Duration ttl) {
  cache.Put(key, value, ttl);
};

// What is taken out of a cache that says so, such as an LruCache.
template <class Cache>
struct RemovedFrom {
  using Type = std::monostate;
};
template <class Cache>
requires requires { typename Cache::Removed; }
struct RemovedFrom<Cache> {
  using Type = typename Cache::Removed;
};

template <class Cache>
inline constexpr bool kIsLruCache = false;
template <class... Args>
inline constexpr bool kIsLruCache<LruCache<Args...>> = true;

// What is to be put into a cache. In an LruCache no user code runs any more but KeyEqual. `Put` is
// what is put: a value, or a reference to one.
template <class Cache, class Put>
struct PreparedFor {
  Put put;
  std::optional<Duration> ttl;
};
template <class Cache, class Put>
requires(kIsLruCache<Cache>) struct PreparedFor<Cache, Put> : Cache::Prepared {
};

// Calls a user's cache the way it asks for: under a lock unless it is kConcurrent, and with views
// of string keys if every operation accepts them. Results other than values are ignored. `Cache`
// may be a reference. All that refer to one cache lock the same mutex.
template <class Cache, class Key, class Value, class Mutex>
class GuardedCache {
  using Type = std::remove_reference_t<Cache>;

  template <class Call, class Taken>
  static constexpr bool CheckKey() {
    static_assert(detail::KeepsApart<Call, std::remove_cvref_t<Taken>>(),
                  "the Cache takes another type of key than the Key, so different keys could have "
                  "the same entry: let its functions take `const Key&`");
    return true;
  }

 public:
  static constexpr bool kCanErase = CanErase<Type, Key>;
  static constexpr bool kCanClear = CanClear<Type>;
  static constexpr bool kCanEraseIf = CanEraseIf<Type, Key>;
  static constexpr bool kTakesTtl = TakesTtl<Type, Key, Value>;
  using Removed = typename RemovedFrom<Type>::Type;

  // From a cache, or from what one is made of.
  template <class From>
  GuardedCache(std::in_place_t, From&& from) : mutex_(from), cache_(std::forward<From>(from)) {}

  template <class K>
  std::optional<Value> Get(const K& key) {
    auto&& taken = KeyFor(key);
    static_assert(CheckKey<CallsGet<Type>, decltype(taken)>());
    const std::lock_guard lock(mutex_);
    if constexpr (kIsEntry<Value> && requires {
                    cache_.GetAtAnyAge(taken);
                    cache_.HasTtl();
                  }) {
      if (!cache_.HasTtl()) return cache_.GetAtAnyAge(taken);  // the entry has its times
    }
    return cache_.Get(taken);
  }

  // Like Get, but leaves no trace, if the cache can do that.
  template <class K>
  std::optional<Value> Peek(const K& key) {
    auto&& taken = KeyFor(key);
    if constexpr (requires {
                    { cache_.Peek(taken) } -> std::same_as<std::optional<Value>>;
                  }) {
      const std::lock_guard lock(mutex_);
      return cache_.Peek(taken);
    } else {
      return Get(key);
    }
  }

  template <class ToPut>
  using Prepared = PreparedFor<Type, ToPut>;

  // Makes what Put puts. `put` is a Value, or a std::reference_wrapper of one. `ttl` is ignored by
  // a cache that does not take one.
  template <class K, class ToPut>
  Prepared<ToPut> Prepare(const K& key, ToPut&& put, const std::optional<Duration>& ttl) {
    if constexpr (kIsLruCache<Type>) {
      auto&& taken = KeyFor(key);
      static_assert(CheckKey<CallsPut<Type, Value>, decltype(taken)>());
      return {cache_.Prepare(taken, std::forward<ToPut>(put), ttl)};
    } else {
      return {std::forward<ToPut>(put), ttl};
    }
  }
  template <class K, class ToPut>
  Removed Put(const K& key, PreparedFor<Type, ToPut>& prepared) {
    if constexpr (kIsLruCache<Type>) {
      return cache_.PutPrepared(std::move(prepared));
    } else {
      auto&& taken = KeyFor(key);
      static_assert(CheckKey<CallsPut<Type, Value>, decltype(taken)>());
      std::conditional_t<std::same_as<ToPut, Value>, Value&&, const Value&> value =
          std::move(prepared.put);
      const std::lock_guard lock(mutex_);
      if constexpr (kTakesTtl) {
        if (prepared.ttl) {
          return Keep([&] {
            return cache_.Put(taken, static_cast<decltype(value)>(value), *prepared.ttl);
          });
        }
      }
      return Keep([&] { return cache_.Put(taken, static_cast<decltype(value)>(value)); });
    }
  }

  template <class K>
  Removed Erase(const K& key) {
    auto&& taken = KeyFor(key);
    static_assert(CheckKey<CallsErase<Type>, decltype(taken)>());
    const std::lock_guard lock(mutex_);
    return Keep([&] { return cache_.Erase(taken); });
  }

  void Clear() {
    const std::lock_guard lock(mutex_);
    static_cast<void>(cache_.Clear());
  }

  template <class Predicate>
  void EraseIf(const Predicate& predicate) {
    const std::lock_guard lock(mutex_);
    static_cast<void>(cache_.EraseIf(predicate));
  }

  // Of an LruCache. Others do not say.
  std::uint64_t Evictions() const {
    if constexpr (requires(const LruCacheStats& stats) {
                    { cache_.GetStats() } -> std::same_as<LruCacheStats>;
                  }) {
      return cache_.GetStats().evictions;
    } else {
      return 0;
    }
  }

 private:
  static constexpr bool IsConcurrent() {
    if constexpr (requires { Type::kConcurrent; }) {
      return Type::kConcurrent;
    } else {
      return false;
    }
  }
  // A user's cache may take long. The mutex that groups have by default is not made for that.
  using LongMutex = std::conditional_t<std::same_as<Mutex, GroupTraits::Mutex>, std::mutex, Mutex>;
  struct NoMutex {
    explicit NoMutex(const auto&) noexcept {}
    void lock() const noexcept {}
    void unlock() const noexcept {}
  };
  struct OwnMutex {
    explicit OwnMutex(const auto&) {}
    void lock() { mutex.lock(); }
    void unlock() { mutex.unlock(); }
    LongMutex mutex;
  };
  using MutexIfNeeded =
      std::conditional_t<std::is_reference_v<Cache>, CacheMutex<LongMutex>, OwnMutex>;

  // Ignores what an operation returns, unless that is what it has removed.
  template <class Operation>
  static Removed Keep(const Operation& operation) {
    if constexpr (std::same_as<Removed, std::monostate>) {
      static_cast<void>(operation());
      return {};
    } else {
      return operation();
    }
  }

  template <class K>
  static decltype(auto) KeyFor(const K& key) {
    if constexpr (CacheFor<Type, K, Value> && (CanErase<Type, K> || !kCanErase)) {
      return (key);
    } else {
      return Key(key);
    }
  }

  [[no_unique_address]] std::conditional_t<IsConcurrent(), NoMutex, MutexIfNeeded> mutex_;
  Cache cache_;  // guarded by mutex_
};

}  // namespace detail

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// GuardedCache: a user's cache, as a ReadThrough calls it.

#include <concepts>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>

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

template <class Cache, class Key>
concept CanErase = requires(Cache& cache, const Key& key) {
  cache.Erase(key);
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

  explicit GuardedCache(Cache&& cache) : mutex_(cache), cache_(std::forward<Cache>(cache)) {}

  template <class K>
  std::optional<Value> Get(const K& key) {
    auto&& taken = KeyFor(key);
    static_assert(CheckKey<CallsGet<Type>, decltype(taken)>());
    const std::lock_guard lock(mutex_);
    return cache_.Get(taken);
  }

  template <class K>
  void Put(const K& key, const Value& value) {
    auto&& taken = KeyFor(key);
    static_assert(CheckKey<CallsPut<Type, Value>, decltype(taken)>());
    const std::lock_guard lock(mutex_);
    static_cast<void>(cache_.Put(taken, value));
  }

  template <class K>
  void Erase(const K& key) {
    auto&& taken = KeyFor(key);
    static_assert(CheckKey<CallsErase<Type>, decltype(taken)>());
    const std::lock_guard lock(mutex_);
    static_cast<void>(cache_.Erase(taken));
  }

 private:
  static constexpr bool IsConcurrent() {
    if constexpr (requires { Type::kConcurrent; }) {
      return Type::kConcurrent;
    } else {
      return false;
    }
  }
  struct NoMutex {
    explicit NoMutex(const Type&) noexcept {}
    void lock() const noexcept {}
    void unlock() const noexcept {}
  };
  struct OwnMutex {
    explicit OwnMutex(const Type&) {}
    void lock() { mutex.lock(); }
    void unlock() { mutex.unlock(); }
    Mutex mutex;
  };
  using MutexIfNeeded = std::conditional_t<std::is_reference_v<Cache>, CacheMutex<Mutex>, OwnMutex>;

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

// SPDX-License-Identifier: MIT
#pragma once

// Failures: the outcomes of loads that failed, each until its load may be tried again.

#include <chrono>
#include <concepts>
#include <exception>
#include <memory>
#include <optional>
#include <utility>
#include <variant>

#include "../../lru_cache.hpp"
#include "../../value_traits.hpp"
#include "../cache_time.hpp"
#include "../outcome.hpp"

namespace singleflight::detail {

template <class Key, class Value, class Hash, class KeyEqual, class Traits>
class Failures {
  static constexpr bool kCopiesValues = std::copy_constructible<Value>;

  struct Failure {
    std::exception_ptr error;  // null: the value says that it is a failure
    std::conditional_t<kCopiesValues, std::optional<Value>, std::monostate> value;
  };
  // The cache copies a pointer, so no user code runs when it is asked for one.
  using Kept = std::shared_ptr<const Failure>;
  using Cache = LruCache<Key, Kept, Hash, KeyEqual, Traits>;

 public:
  using Removed = typename Cache::Removed;
  using Prepared = typename Cache::Prepared;

  explicit Failures(CacheTime retry_after) : retry_after_(retry_after) {}

  // Returns the failure that still stands for `key`, or null.
  template <class K>
  Kept Find(const K& key) {
    return cache_.Get(key).value_or(nullptr);
  }
  template <class K>
  bool Has(const K& key) {
    return cache_.Peek(key).has_value();
  }
  static Outcome<Value> OutcomeOf(const Failure& failure) {
    if constexpr (kCopiesValues) {
      if (failure.value) return Outcome<Value>(std::in_place, *failure.value);
    }
    return Outcome<Value>(failure.error);
  }

  // Makes what Keep keeps. None: the leader vanished, or the value cannot be copied.
  template <class K>
  std::optional<Prepared> Prepare(const K& key, const Outcome<Value>& outcome) {
    Failure failure{outcome.Error(), {}};
    bool has_value = false;
    if constexpr (kCopiesValues) {
      if (outcome.value() != nullptr) failure.value.emplace(*outcome.value());
      has_value = failure.value.has_value();
    }
    if (!has_value && failure.error == nullptr) return std::nullopt;
    return cache_.Prepare(key, std::make_shared<const Failure>(std::move(failure)),
                          std::chrono::nanoseconds(retry_after_));
  }
  Removed Keep(Prepared&& failure) { return cache_.PutPrepared(std::move(failure)); }

  template <class K>
  Removed Erase(const K& key) {
    return cache_.Erase(key);
  }
  void Clear() noexcept { cache_.Clear(); }
  template <class Predicate>
  void EraseIf(const Predicate& is_it) {
    cache_.EraseIf(is_it);
  }

 private:
  const CacheTime retry_after_;
  Cache cache_;
};

// For keys that cannot be copied.
struct NoFailures {
  using Removed = std::monostate;
  void Clear() noexcept {}
  void EraseIf(const auto&) noexcept {}
};

}  // namespace singleflight::detail

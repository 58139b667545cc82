// SPDX-License-Identifier: MIT
#pragma once

// Failures: the outcomes of loads that failed, each until its load may be tried again.

#include <chrono>
#include <concepts>
#include <exception>
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
  using Cache = LruCache<Key, Failure, Hash, KeyEqual, Traits>;

 public:
  using Removed = typename Cache::Removed;

  explicit Failures(CacheTime retry_after) : retry_after_(retry_after) {}

  // Returns the failure that still stands for `key`, if there is one.
  template <class K>
  std::optional<Outcome<Value>> Get(const K& key) {
    std::optional<Failure> failure = cache_.Get(key);
    if (!failure) return std::nullopt;
    std::optional<Outcome<Value>> outcome;
    if constexpr (kCopiesValues) {
      if (failure->value) {
        outcome.emplace(std::in_place, std::move(*failure->value));
        return outcome;
      }
    }
    outcome.emplace(std::move(failure->error));
    return outcome;
  }
  template <class K>
  bool Has(const K& key) {
    return cache_.Peek(key).has_value();
  }

  // Makes what Keep keeps. None: the leader vanished, or the value cannot be copied.
  static std::optional<Failure> Made(const Outcome<Value>& outcome) {
    Failure failure{outcome.Error(), {}};
    if constexpr (kCopiesValues) {
      if (outcome.value() != nullptr) failure.value.emplace(*outcome.value());
      if (failure.value) return failure;
    }
    if (failure.error == nullptr) return std::nullopt;
    return failure;
  }
  template <class K>
  Removed Keep(const K& key, Failure&& failure) {
    return cache_.Put(key, std::move(failure), std::chrono::nanoseconds(retry_after_));
  }

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
};

}  // namespace singleflight::detail

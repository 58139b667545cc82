// SPDX-License-Identifier: MIT
#pragma once

// Helpers for the tests of ReadThrough over real caches.

#include <cstddef>
#include <singleflight/read_through.hpp>
#include <string>
#include <vector>

#include "support/support.hpp"

namespace test {

// Returns the outcomes of `count` callers that ask for `key` at once. The load returns `value` when
// all of them are on its call.
template <class Users, class Value>
auto GetTogether(Users& users, const std::string& key, std::size_t count, const Value& value) {
  return AskAtOnce(count, [&] {
    return users.Get(key, [&] {
      AwaitCallers(users, key, count);
      return value;
    });
  });
}

// Returns the value for `key`. If the cache has none, the value that is loaded is `load`.
template <class Users, class Value>
Value GetOr(Users& users, const std::string& key, const Value& load) {
  return users.Get(key, [&] { return load; }).value();
}

// Uses a few keys of a cache again and again, from four threads at once. Returns whether every
// value that was found for key_of(i) was value_of(i).
template <class Cache, class KeyOf, class ValueOf>
bool SurvivesThreads(Cache& cache, KeyOf key_of, ValueOf value_of) {
  constexpr std::size_t kThreads = 4, kRounds = 500, kKeys = 10;
  std::vector<char> right(kThreads, true);
  std::vector<JoiningThread> threads;
  for (std::size_t t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (std::size_t round = 0; round < kRounds; ++round) {
        const std::size_t i = (round * (t + 1)) % kKeys;
        if (round % 7 == t) cache.Erase(key_of(i));
        if (const auto found = cache.Get(key_of(i)); found && *found != value_of(i)) {
          right[t] = false;
        }
        cache.Put(key_of(i), value_of(i));
      }
    });
  }
  threads.clear();
  return right == std::vector<char>(kThreads, true);
}

}  // namespace test

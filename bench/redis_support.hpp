// SPDX-License-Identifier: MIT
#pragma once

// What the benchmarks of redis.hpp and redis_read_through.hpp share: a server that has a processor
// to itself, and measurements that take turns.

#include <benchmark/benchmark.h>
#include <sched.h>

#include <algorithm>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <iterator>
#include <latch>
#include <singleflight/coro.hpp>
#include <singleflight/redis_client_options.hpp>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/redis_own_server.hpp"

inline std::string KeyOf(std::size_t number) {
  const std::string digits = std::to_string(number);
  return "user:" + std::string(16 - digits.size(), '0') + digits;
}

inline double SecondsSince(std::chrono::steady_clock::time_point time) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - time).count();
}

template <class Step>
double SecondsOf(const Step& step) {
  const std::chrono::steady_clock::time_point start = std::chrono::steady_clock::now();
  step();
  return SecondsSince(start);
}

// A coroutine that starts at once and destroys itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// ---- Many callers. Each asks `count` times, and caller number i for `key_of(i, n)` the n-th time.
// Their work costs nothing. Both return the seconds for each time that somebody has asked.

template <class Group, class KeyOfAsk>
double SecondsByThreads(Group& group, std::size_t threads, std::size_t asks,
                        const KeyOfAsk& key_of) {
  std::latch ready(static_cast<std::ptrdiff_t>(threads) + 1);
  std::vector<std::thread> all;
  for (std::size_t i = 0; i < threads; ++i) {
    all.emplace_back([&group, &ready, &key_of, i, count = asks / threads] {
      ready.arrive_and_wait();
      for (std::size_t n = 0; n < count; ++n) {
        const auto& key = key_of(i, n);
        if constexpr (requires { group.Get(key, [] { return 42; }); }) {
          benchmark::DoNotOptimize(group.Get(key, [] { return 42; }));
        } else {
          benchmark::DoNotOptimize(group.Do(key, [] { return 42; }));
        }
      }
    });
  }
  ready.arrive_and_wait();
  return SecondsOf([&all] {
           for (std::thread& each : all) each.join();
         }) /
         static_cast<double>(asks);
}

template <class Group, class KeyOfAsk>
Detached AskOneAfterAnother(Group& group, std::size_t i, std::size_t count, const KeyOfAsk& key_of,
                            std::latch& done) {
  const auto fn = [] { return 42; };
  for (std::size_t n = 0; n < count; ++n) {
    const auto& key = key_of(i, n);
    benchmark::DoNotOptimize(co_await singleflight::CoDo(group, key, fn));
  }
  done.count_down();
}

template <class Group, class KeyOfAsk>
double SecondsByCoroutines(Group& group, std::size_t coroutines, std::size_t asks,
                           const KeyOfAsk& key_of) {
  std::latch done(static_cast<std::ptrdiff_t>(coroutines));
  return SecondsOf([&] {
           for (std::size_t i = 0; i < coroutines; ++i) {
             AskOneAfterAnother(group, i, asks / coroutines, key_of, done);
           }
           done.wait();
         }) /
         static_cast<double>(asks);
}

// The keys of many callers, made before anything is measured.
class KeyOfEach {
 public:
  explicit KeyOfEach(std::size_t callers) {
    for (std::size_t i = 0; i < callers; ++i) keys_.push_back(KeyOf(i));
  }
  const std::string& operator()(std::size_t caller, std::size_t) const { return keys_[caller]; }

 private:
  std::vector<std::string> keys_;
};

// ---- Turns

struct Way {
  std::string name;
  std::function<double()> seconds;
  int in_a_row = 1;
};

inline void TakeTurns(benchmark::State& state, const std::vector<Way>& ways) {
  for (const Way& way : ways) way.seconds();  // connects
  std::vector<std::vector<double>> times(ways.size());
  for (auto _ : state) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      for (int n = 0; n < ways[i].in_a_row; ++n) times[i].push_back(ways[i].seconds());
    }
  }
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const auto middle = times[i].begin() + std::ssize(times[i]) / 2;
    std::ranges::nth_element(times[i], middle);
    state.counters[ways[i].name + "/median"] = *middle;
  }
}

// A slow machine does not count as an outage.
inline singleflight::redis::ClientOptions PatientClient(const std::string& socket) {
  return {.unix_socket = socket,
          .connect_timeout = std::chrono::minutes(1),
          .command_timeout = std::chrono::minutes(1)};
}
// ---- The server, and where it runs

// Keeps this thread, and those that it starts, on some of the processors that it may use.
class OnProcessors {
 public:
  enum class Which : unsigned char { kFirst, kOthers };
  explicit OnProcessors(Which which) {
    ::sched_getaffinity(0, sizeof(before_), &before_);
    if (CPU_COUNT(&before_) < 2) return;
    cpu_set_t chosen = before_;
    bool is_first = true;
    for (std::size_t i = 0; i < CPU_SETSIZE; ++i) {
      if (!CPU_ISSET(i, &before_)) continue;
      if ((which == Which::kFirst) != std::exchange(is_first, false)) CPU_CLR(i, &chosen);
    }
    ::sched_setaffinity(0, sizeof(chosen), &chosen);
  }
  ~OnProcessors() { ::sched_setaffinity(0, sizeof(before_), &before_); }
  OnProcessors(const OnProcessors&) = delete;
  OnProcessors& operator=(const OnProcessors&) = delete;

 private:
  cpu_set_t before_ = {};
};

inline const OwnRedisServer& Server() {
  const OnProcessors guard(OnProcessors::Which::kFirst);
  static const OwnRedisServer server;
  return server;
}

// SPDX-License-Identifier: MIT

// Measures ReadThrough for a caller that is alone: a hit against the cache alone, and a load
// against the naive pair. The pair looks in the cache and then asks a group. The load's cache costs
// nothing and has nothing.

#include "singleflight/read_through.hpp"

#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "allocations.hpp"

namespace {

const std::string key = "user:0000000000000042";

int Load() { return 42; }

struct Map {
  static constexpr bool kConcurrent = true;
  std::optional<int> Get(const std::string& its_key) {
    const std::lock_guard lock(mutex);
    const auto found = entries.find(its_key);
    return found != entries.end() ? std::optional(found->second) : std::nullopt;
  }
  void Put(const std::string& its_key, int value) {
    const std::lock_guard lock(mutex);
    entries[its_key] = value;
  }
  std::mutex mutex;
  std::unordered_map<std::string, int> entries;  // guarded by mutex
};

struct Nothing {
  static constexpr bool kConcurrent = true;
  std::optional<int> Get(const std::string&) { return std::nullopt; }
  void Put(const std::string&, int value) { benchmark::DoNotOptimize(value); }
};

template <class Cache>
using Numbers = singleflight::ReadThrough<std::string, int, Cache&>;

void HitOfCache(benchmark::State& state) {
  Map cache;
  cache.Put(key, 42);
  for (auto _ : state) benchmark::DoNotOptimize(cache.Get(key));
}
BENCHMARK(HitOfCache)->Name("read_through/hit_of_cache");

template <class Cache>
void Get(benchmark::State& state) {
  Cache cache;
  cache.Put(key, 42);
  Numbers<Cache> numbers(cache);
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) benchmark::DoNotOptimize(numbers.Get(key, Load));
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}
BENCHMARK(Get<Map>)->Name("read_through/hit");
BENCHMARK(Get<Nothing>)->Name("read_through/load");

// With the default cache, and nothing that expires.
void GetByDefault(benchmark::State& state) {
  singleflight::ReadThrough<std::string, int> numbers;
  numbers.Put(key, 42);
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) benchmark::DoNotOptimize(numbers.Get(key, Load));
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}
BENCHMARK(GetByDefault)->Name("read_through/hit_by_default");

// `kCounts`: it also counts the miss and the load, and measures how long the load takes.
template <bool kCounts>
void LoadOfPair(benchmark::State& state) {
  Nothing cache;
  singleflight::Group<std::string, int> group;
  std::atomic<std::uint64_t> misses = 0;
  std::atomic<std::uint64_t> loads = 0;
  singleflight::LatencyHistogram times;
  for (auto _ : state) {
    if (auto found = cache.Get(key)) continue;
    if constexpr (kCounts) misses.fetch_add(1, std::memory_order_relaxed);
    benchmark::DoNotOptimize(group.Do(key, [&] {
      std::chrono::steady_clock::time_point begin;
      if constexpr (kCounts) {
        loads.fetch_add(1, std::memory_order_relaxed);
        begin = std::chrono::steady_clock::now();
      }
      const int value = Load();
      cache.Put(key, value);
      if constexpr (kCounts) times.Record(std::chrono::steady_clock::now() - begin);
      return value;
    }));
  }
}
BENCHMARK(LoadOfPair<false>)->Name("read_through/load_of_naive_pair");
BENCHMARK(LoadOfPair<true>)->Name("read_through/load_of_pair_that_counts");

}  // namespace

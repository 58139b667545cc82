// SPDX-License-Identifier: MIT

// Measures LruCache: what a hit and a put cost beside a std::unordered_map with a mutex and beside
// LevelDB's cache, and how often it finds something beside a strict LRU. The traces are drawn from
// Zipf's law: the key of rank r is asked for in proportion to 1 / r^s. Some are mixed with a scan,
// whose keys are asked for once.

#include "singleflight/lru_cache.hpp"

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <list>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "allocations.hpp"

#if defined(BENCH_LEVELDB)
#include "adapters/lru_cache.hpp"
#endif

namespace {

constexpr int kEntries = 10'000;

std::vector<std::string> MakeKeys() {
  std::vector<std::string> keys;
  for (int i = 0; i < kEntries; ++i) keys.push_back("user:" + std::to_string(1'000'000 + i));
  return keys;
}

// What is written first: without limits, so nothing is evicted.
class Map {
 public:
  std::optional<int> Get(const std::string& key) {
    const std::lock_guard lock(mutex_);
    const auto found = entries_.find(key);
    return found != entries_.end() ? std::optional(found->second) : std::nullopt;
  }
  void Put(const std::string& key, int value) {
    const std::lock_guard lock(mutex_);
    entries_[key] = value;
  }

 private:
  std::mutex mutex_;
  std::unordered_map<std::string, int> entries_;  // guarded by mutex_
};

// A strict LRU, as in textbooks.
template <class Key>
class StrictLru {
 public:
  explicit StrictLru(std::size_t capacity) : capacity_(capacity) {}

  std::optional<int> Get(const Key& key) {
    const std::lock_guard lock(mutex_);
    const auto found = places_.find(key);
    if (found == places_.end()) return std::nullopt;
    entries_.splice(entries_.begin(), entries_, found->second);
    return found->second->second;
  }
  void Put(const Key& key, int value) {
    const std::lock_guard lock(mutex_);
    if (const auto found = places_.find(key); found != places_.end()) {
      found->second->second = value;
      return entries_.splice(entries_.begin(), entries_, found->second);
    }
    if (entries_.size() == capacity_) {
      places_.erase(entries_.back().first);
      entries_.pop_back();
    }
    entries_.emplace_front(key, value);
    places_[key] = entries_.begin();
  }

 private:
  const std::size_t capacity_;
  std::mutex mutex_;
  std::list<std::pair<Key, int>> entries_;  // guarded by mutex_, as is places_
  std::unordered_map<Key, typename std::list<std::pair<Key, int>>::iterator> places_;
};

// ---- Time

template <class Cache>
void Hit(benchmark::State& state, Cache& cache) {
  const auto keys = MakeKeys();
  for (const auto& key : keys) cache.Put(key, 42);
  std::size_t i = 0;
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) {
    benchmark::DoNotOptimize(cache.Get(keys[i]));
    i = i + 1 < 64 ? i + 1 : 0;  // popular ones
  }
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}

template <class Cache>
void Put(benchmark::State& state, Cache& cache) {
  const auto keys = MakeKeys();
  std::size_t i = 0;
  for (auto _ : state) {
    cache.Put(keys[i], 42);
    i = i + 1 < keys.size() ? i + 1 : 0;
  }
}

using Ours = singleflight::LruCache<std::string, int>;

void HitOfOurs(benchmark::State& state) {
  Ours cache({.capacity = kEntries});
  Hit(state, cache);
}
BENCHMARK(HitOfOurs)->Name("lru_cache/hit");
void HitWithTtl(benchmark::State& state) {
  Ours cache({.capacity = kEntries, .ttl = std::chrono::hours(1)});
  Hit(state, cache);
}
BENCHMARK(HitWithTtl)->Name("lru_cache/hit_with_ttl");
void HitOfMap(benchmark::State& state) {
  Map cache;
  Hit(state, cache);
}
BENCHMARK(HitOfMap)->Name("lru_cache/hit_of_map");
void HitOfStrict(benchmark::State& state) {
  StrictLru<std::string> cache(kEntries);
  Hit(state, cache);
}
BENCHMARK(HitOfStrict)->Name("lru_cache/hit_of_strict_lru");

// Each put evicts another entry.
void PutInOurs(benchmark::State& state) {
  Ours cache({.capacity = kEntries / 2});
  Put(state, cache);
}
BENCHMARK(PutInOurs)->Name("lru_cache/put");
void PutInOursWithTtl(benchmark::State& state) {
  Ours cache({.capacity = kEntries / 2, .ttl = std::chrono::hours(1)});
  Put(state, cache);
}
BENCHMARK(PutInOursWithTtl)->Name("lru_cache/put_with_ttl");
void PutInStrict(benchmark::State& state) {
  StrictLru<std::string> cache(kEntries / 2);
  Put(state, cache);
}
BENCHMARK(PutInStrict)->Name("lru_cache/put_in_strict_lru");

#if defined(BENCH_LEVELDB)
void HitOfLevelDb(benchmark::State& state) {
  LruCache<int> cache(kEntries);
  Hit(state, cache);
}
BENCHMARK(HitOfLevelDb)->Name("lru_cache/hit_of_leveldb");
void PutInLevelDb(benchmark::State& state) {
  LruCache<int> cache(kEntries / 2);
  Put(state, cache);
}
BENCHMARK(PutInLevelDb)->Name("lru_cache/put_in_leveldb");
#endif

// ---- Hit ratios

constexpr int kKeys = 100'000;
constexpr int kAsks = 1'000'000;

// Asks for a key, and puts it if it is not there.
template <class Cache>
double HitRatio(Cache& cache, const std::vector<int>& trace) {
  std::size_t hits = 0;
  for (const int key : trace) {
    if (cache.Get(key)) {
      ++hits;
    } else {
      cache.Put(key, key);
    }
  }
  return static_cast<double>(hits) / static_cast<double>(trace.size());
}

std::vector<int> ZipfTrace(double exponent, bool with_scan) {
  std::vector<double> sums;
  double sum = 0;
  for (int rank = 1; rank <= kKeys; ++rank) sums.push_back(sum += 1 / std::pow(rank, exponent));
  std::mt19937_64 random;  // not seeded
  std::uniform_real_distribution<double> uniform(0, sum);
  std::vector<int> trace;
  for (int i = 0, scanned = kKeys; i < kAsks; ++i) {
    if (with_scan && i % 5 == 0) {
      trace.push_back(scanned++);
    } else {
      const auto at = std::lower_bound(sums.begin(), sums.end(), uniform(random));
      trace.push_back(static_cast<int>(at - sums.begin()));
    }
  }
  return trace;
}

void Zipf(benchmark::State& state) {
  const auto trace = ZipfTrace(static_cast<double>(state.range(0)) / 100, state.range(2) != 0);
  const auto capacity = static_cast<std::size_t>(kKeys / 1000 * state.range(1));
  for (auto _ : state) {
    singleflight::LruCache<int, int> ours({.capacity = capacity});
    StrictLru<int> strict(capacity);
    state.counters["hit_ratio"] = HitRatio(ours, trace);
    state.counters["of_strict_lru"] = HitRatio(strict, trace);
  }
}
BENCHMARK(Zipf)
    ->Name("lru_cache/zipf")
    ->ArgNames({"exponent_percent", "capacity_per_mille", "scan"})
    ->ArgsProduct({{70, 90, 110}, {10, 100}, {0, 1}})
    ->Iterations(1)
    ->Unit(benchmark::kMillisecond);

}  // namespace

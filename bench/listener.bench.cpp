// SPDX-License-Identifier: MIT

// Measures what a listener adds to the Do of a caller that is alone. do.bench.cpp measures it
// without one. They are apart so that the compiler optimizes each as if it were alone.

#include "singleflight/listener.hpp"

#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <cstdint>
#include <string>
#include <string_view>

#include "allocations.hpp"
#include "singleflight/group.hpp"
#include "singleflight/observe.hpp"

namespace {

// Counts what it is told.
struct Counting {
  void OnLead(std::string_view) noexcept { Add(calls); }
  void OnFollow(std::string_view) noexcept { Add(followers); }
  void OnLand(std::string_view, const singleflight::Landing& landing) noexcept {
    if (landing.failed) Add(failures);
  }
  static void Add(std::atomic<std::uint64_t>& count) {
    count.fetch_add(1, std::memory_order_relaxed);
  }
  std::atomic<std::uint64_t> calls = 0, followers = 0, failures = 0;
};

// The same, with a tag of the size of the ids of a trace and of a span.
struct Tagging : Counting {
  using Tag = std::array<std::uint64_t, 3>;
  Tag OnLead(std::string_view) noexcept {
    return {calls.fetch_add(1, std::memory_order_relaxed), 2, 3};
  }
  void OnFollow(std::string_view, const Tag&) noexcept { Add(followers); }
  void OnLand(std::string_view, const Tag& tag, const singleflight::Landing&) noexcept {
    benchmark::DoNotOptimize(tag[0]);
  }
};

template <class ItsListener>
struct ToldTo : singleflight::GroupTraits {
  using Listener = ItsListener;
};

template <class Listener>
void UnsharedAndTold(benchmark::State& state) {
  singleflight::Group<std::string, int, singleflight::DefaultHash<std::string>,
                      singleflight::DefaultEqual<std::string>, ToldTo<Listener>>
      group;
  const std::string key = "user:0000000000000042";  // as in do.bench.cpp
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) benchmark::DoNotOptimize(group.Do(key, [] { return 42; }));
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}

BENCHMARK(UnsharedAndTold<Counting>)->Name("unshared/string/group_that_counts");
BENCHMARK(UnsharedAndTold<Tagging>)->Name("unshared/string/group_with_tags");
BENCHMARK(UnsharedAndTold<singleflight::LatencyListener>)
    ->Name("unshared/string/group_that_measures");

}  // namespace

// SPDX-License-Identifier: MIT

// Measures DoMany of a thousand keys that nobody else asks for, beside a Do for each of them. `fn`
// costs nothing, so only what a key costs the batch is measured.

#include "singleflight/many.hpp"

#include <benchmark/benchmark.h>

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "allocations.hpp"
#include "singleflight/group.hpp"

namespace {

using Group = singleflight::Group<int, int>;

void Each(benchmark::State& state, const auto& ask) {
  Group group;
  std::vector<int> keys(static_cast<std::size_t>(state.range(0)));
  std::iota(keys.begin(), keys.end(), 0);
  const std::uint64_t allocations_before = allocations_of_this_thread;
  const std::uint64_t bytes_before = allocated_bytes_of_this_thread;
  for (auto _ : state) ask(group, keys);
  const auto of_each = [&](std::uint64_t sum) {
    return benchmark::Counter(static_cast<double>(sum) / static_cast<double>(keys.size()),
                              benchmark::Counter::kAvgIterations);
  };
  state.counters["allocations"] = of_each(allocations_of_this_thread - allocations_before);
  state.counters["bytes"] = of_each(allocated_bytes_of_this_thread - bytes_before);
}

void Many(benchmark::State& state) {
  Each(state, [](Group& group, const std::vector<int>& keys) {
    const auto results = singleflight::DoMany(group, keys, [](std::span<const int> asked) {
      return std::vector<int>(asked.begin(), asked.end());
    });
    benchmark::DoNotOptimize(results.data());
  });
}
BENCHMARK(Many)->Name("many/group")->Arg(1000);

void One(benchmark::State& state) {
  Each(state, [](Group& group, const std::vector<int>& keys) {
    for (const int key : keys) {
      benchmark::DoNotOptimize(*group.Do(key, [key] { return key; }));
    }
  });
}
BENCHMARK(One)->Name("many/do")->Arg(1000);

}  // namespace

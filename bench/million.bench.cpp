// SPDX-License-Identifier: MIT

// Measures a million calls in flight at once, and a million followers on one call, against a
// million entries of a std::unordered_map. One thread makes them all, through Join. How long an
// operation takes must not depend on how many came before. What outgrows the caches may be slower
// to reach, as it is in a plain table. The slowest single operation shows the stall when a table
// grows.
//
// The last one lists a million calls in flight by Inspect, and measures for how long it locks a
// shard at most, in processor time: on a busy machine another program may run meanwhile. Interrupts
// count, so it takes the best of five.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <functional>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "singleflight/group.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Key = std::uint64_t;
using Group = singleflight::Group<Key, int>;

class Waiter final : public Group::Waiter {
 public:
  void OnLanded() noexcept override { benchmark::DoNotOptimize(*TakeResult()); }
};

// Makes a key of each number, scattered so that no table gains from keys that lie side by side.
Key KeyOf(std::size_t number) { return number * 0x9E3779B97F4A7C15u; }

// Runs `operation(i)` for each i below `count`. Reports how long the slowest took, and divides the
// whole iteration's time by `count`.
template <class Operation>
void TimeEach(benchmark::State& state, std::size_t count, Operation&& operation) {
  Clock::duration slowest{};
  Clock::time_point begun = Clock::now();
  for (std::size_t i = 0; i < count; ++i) {
    operation(i);
    const Clock::time_point ended = Clock::now();
    slowest = std::max(slowest, ended - begun);
    begun = ended;
  }
  state.counters["slowest"] = std::chrono::duration<double>(slowest).count();
  state.counters["each"] = benchmark::Counter(
      static_cast<double>(count), benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void Calls(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<Waiter> waiters(count);
  std::vector<Group::Lead> leads;
  leads.reserve(count);
  const auto launch = [&leads](Group::Lead lead) { leads.push_back(std::move(lead)); };
  for (auto _ : state) {
    Group group;
    TimeEach(state, count, [&](std::size_t i) { group.Join(KeyOf(i), waiters[i], launch); });
    for (Group::Lead& lead : leads) lead.Succeed(42);
    leads.clear();
  }
}

void Followers(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<Waiter> waiters(count);
  std::optional<Group::Lead> leader;
  const auto launch = [&leader](Group::Lead lead) { leader = std::move(lead); };
  for (auto _ : state) {
    Group group;
    TimeEach(state, count, [&](std::size_t i) { group.Join(KeyOf(1), waiters[i], launch); });
    leader->Succeed(42);
    leader.reset();
  }
}

void PlainTable(benchmark::State& state) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::vector<Waiter> waiters(count);
  for (auto _ : state) {
    std::unordered_map<Key, Waiter*> table;
    TimeEach(state, count, [&](std::size_t i) { table.emplace(KeyOf(i), &waiters[i]); });
    for (std::size_t i = 0; i < count; ++i) table.erase(KeyOf(i));
  }
}

// Measures for how long its owner runs.
struct TimedMutex {
  void lock() {
    mutex.lock();
    locked_at = Now();
  }
  void unlock() {
    longest = std::max(longest, Now() - locked_at);
    mutex.unlock();
  }
  static double Now() {
    std::timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
  }
  std::mutex mutex;
  static inline double locked_at = 0;
  static inline double longest = 0;
};
struct TimedTraits : singleflight::GroupTraits {
  using Mutex = TimedMutex;
};

void Inspect(benchmark::State& state) {
  using Timed = singleflight::Group<Key, int, std::hash<Key>, std::equal_to<Key>, TimedTraits>;
  const auto count = static_cast<std::size_t>(state.range(0));
  Timed group;
  std::vector<Timed::Lead> leads;
  std::vector<singleflight::Future<int>> callers;
  for (std::size_t i = 0; i < count; ++i) {
    callers.push_back(
        group.Join(KeyOf(i), [&leads](Timed::Lead lead) { leads.push_back(std::move(lead)); }));
  }
  double longest = 1;
  for (auto _ : state) {
    TimedMutex::longest = 0;
    benchmark::DoNotOptimize(group.Inspect().size());
    longest = std::min(longest, TimedMutex::longest);
  }
  state.counters["longest_lock"] = longest;
  for (Timed::Lead& lead : leads) lead.Succeed(42);
}

void Sizes(benchmark::internal::Benchmark* million) {
  million->Arg(100'000)->Arg(1'000'000)->Iterations(1);
}

BENCHMARK(Calls)->Name("million/calls")->Apply(Sizes);
BENCHMARK(Followers)->Name("million/followers")->Apply(Sizes);
BENCHMARK(PlainTable)->Name("million/plain_table")->Apply(Sizes);
BENCHMARK(Inspect)->Name("million/inspect")->Arg(1'000'000)->Iterations(5);

}  // namespace

// SPDX-License-Identifier: MIT

// Measures Do for a caller that is alone and for two threads, against its floor and the textbook
// version. `fn` costs nothing, so only the cost of a call is measured.
//
// Nothing that guards a map with a mutex can be faster than the floor. It hashes the key, runs one
// critical section to insert the call, `fn`, and one to remove it, with no map in either of them.
// A critical section costs it one atomic read-modify-write and a store.

#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <latch>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "allocations.hpp"
#include "singleflight/group.hpp"
#include "textbook.hpp"

namespace {

// Strings have 21 characters, more than a std::string holds without an allocation.
template <class Key>
Key KeyOf(int number) {
  if constexpr (std::same_as<Key, std::string>) {
    const std::string digits = std::to_string(number);
    return "user:" + std::string(16 - digits.size(), '0') + digits;
  } else {
    return number;
  }
}

// The measured functions call Do on one of these, each with a lambda of its own, as each caller in
// a program has one: then no two of them share a Do.

// The least that a mutex can be. It does not do for more threads than there are processors.
class BareMutex {
 public:
  void lock() {
    while (locked_.exchange(true, std::memory_order_acquire)) continue;
  }
  void unlock() { locked_.store(false, std::memory_order_release); }

 private:
  std::atomic<bool> locked_ = false;
};

template <class Key, std::size_t kShards>
class FloorOf {
 public:
  template <class Fn>
  int Do(const Key& key, Fn&& fn) {
    const std::uint64_t hash = mixer_.HashOf(singleflight::DefaultHash<Key>{}, key);
    Shard& shard = shards_[(hash >> 32) % kShards];
    shard.Store(hash);
    const int value = fn();
    shard.Store(0);
    return value;
  }

 private:
  struct alignas(64) Shard {
    void Store(std::uint64_t hash) {
      const std::lock_guard lock(mutex);
      benchmark::DoNotOptimize(current = hash);
    }
    BareMutex mutex;
    std::uint64_t current = 0;  // keeps the critical sections from being empty
  };
  std::array<Shard, kShards> shards_;
  const singleflight::detail::HashMixer mixer_;
};

template <class Key>
using Floor = FloorOf<Key, 1>;

template <class Key>
using ShardedFloor = FloorOf<Key, singleflight::GroupTraits::kShards>;

// Threads share nothing here, which shows how much two of them can do on this machine.
template <class Key>
struct FloorPerThread {
  template <class Fn>
  int Do(const Key& key, Fn&& fn) {
    thread_local Floor<Key> floor;
    return floor.Do(key, fn);
  }
};

template <class Key>
using Group = singleflight::Group<Key, int>;

// The same with std::mutex.
struct StdMutexTraits : singleflight::GroupTraits {
  using Mutex = std::mutex;
};
template <class Key>
using StdMutexGroup = singleflight::Group<Key, int, singleflight::DefaultHash<Key>,
                                          singleflight::DefaultEqual<Key>, StdMutexTraits>;

template <class Key>
struct GroupWithTimeout {
  template <class Fn>
  auto Do(const Key& key, Fn&& fn) {
    return group.Do(key, fn, {.timeout = std::chrono::seconds(1)});
  }
  Group<Key> group;
};

template <class Key>
struct GroupWithLimit {
  template <class Fn>
  auto Do(const Key& key, Fn&& fn) {
    return group.Do(key, fn);
  }
  Group<Key> group{singleflight::GroupOptions{.max_calls_in_flight = 1000}};
};

template <class Key>
using TextbookGroup = Textbook<Key, int>;

// Calls `fn`, as a caller without any Do does.
template <class Key>
struct NoFlight {
  template <class Fn>
  int Do(const Key&, Fn&& fn) {
    return fn();
  }
};

// The caller is alone in these benchmarks.

template <template <class> class Flight, class Key>
void Unshared(benchmark::State& state) {
  Flight<Key> flight;
  const Key key = KeyOf<Key>(42);
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) benchmark::DoNotOptimize(flight.Do(key, [] { return 42; }));
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}

BENCHMARK(Unshared<Floor, std::string>)->Name("unshared/string/floor");
BENCHMARK(Unshared<Group, std::string>)->Name("unshared/string/group");
BENCHMARK(Unshared<StdMutexGroup, std::string>)->Name("unshared/string/group_with_std_mutex");
BENCHMARK(Unshared<GroupWithTimeout, std::string>)->Name("unshared/string/group_with_timeout");
BENCHMARK(Unshared<GroupWithLimit, std::string>)->Name("unshared/string/group_with_limit");
BENCHMARK(Unshared<TextbookGroup, std::string>)->Name("unshared/string/textbook");
BENCHMARK(Unshared<Floor, int>)->Name("unshared/int/floor");
BENCHMARK(Unshared<Group, int>)->Name("unshared/int/group");
BENCHMARK(Unshared<TextbookGroup, int>)->Name("unshared/int/textbook");

// Catches what `fn` throws and throws it again, as whoever looks at the outcome must.
template <class Key>
struct CatchAndThrow {
  template <class Fn>
  int Do(const Key&, Fn&& fn) {
    try {
      return fn();
    } catch (...) {
      throw;
    }
  }
};

template <template <class> class Flight>
void UnsharedThrows(benchmark::State& state) {
  Flight<std::string> flight;
  const auto key = KeyOf<std::string>(42);
  const auto fn = []() -> int { throw std::runtime_error("no answer"); };
  for (auto _ : state) {
    try {
      benchmark::DoNotOptimize(flight.Do(key, fn));
    } catch (const std::runtime_error& error) {
      benchmark::DoNotOptimize(error.what());
    }
  }
}

BENCHMARK(UnsharedThrows<NoFlight>)->Name("unshared/throws/bare");
BENCHMARK(UnsharedThrows<CatchAndThrow>)->Name("unshared/throws/caught");
BENCHMARK(UnsharedThrows<Group>)->Name("unshared/throws/group");
BENCHMARK(UnsharedThrows<TextbookGroup>)->Name("unshared/throws/textbook");

// A call that its only caller leads through Join, as an asynchronous caller does.
void UnsharedJoin(benchmark::State& state) {
  using IntGroup = Group<std::string>;
  struct Waiter final : IntGroup::Waiter {
    void OnLanded() noexcept override { benchmark::DoNotOptimize(*TakeResult()); }
  };
  IntGroup group;
  const std::string key = "user:42";  // short, so that its copy allocates nothing
  Waiter waiter;
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) {
    group.Join(key, waiter, [](IntGroup::Lead lead) { lead.Run([] { return 42; }); });
  }
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}
BENCHMARK(UnsharedJoin)->Name("unshared/string/join");

// These benchmarks run on several threads. The time is the clock's, divided by the calls of all
// threads, so two threads that do not disturb each other halve it.

template <template <class> class Flight>
void SameKey(benchmark::State& state) {
  static Flight<std::string> flight;
  const auto key = KeyOf<std::string>(42);
  for (auto _ : state) benchmark::DoNotOptimize(flight.Do(key, [] { return 42; }));
}

void OnManyThreads(benchmark::internal::Benchmark* same_key) {
  same_key->Threads(2)->Threads(16)->Threads(64)->UseRealTime();
}

BENCHMARK(SameKey<Group>)->Name("same_key/group")->Apply(OnManyThreads);
BENCHMARK(SameKey<StdMutexGroup>)->Name("same_key/group_with_std_mutex")->Apply(OnManyThreads);
BENCHMARK(SameKey<TextbookGroup>)->Name("same_key/textbook")->Apply(OnManyThreads);

// How evenly 64 threads share one key, in a fifth of a second: Jain's fairness index of how often
// each of them was served. It is 1 if all were served as often, and 1/64 if only one was (Jain,
// Chiu and Hawe, "A Quantitative Measure of Fairness and Discrimination", 1984).
template <template <class> class Flight>
void Fairness(benchmark::State& state) {
  constexpr std::size_t kThreads = 64;
  double fairness = 0;
  for (auto _ : state) {
    Flight<std::string> flight;
    const auto key = KeyOf<std::string>(42);
    std::atomic<bool> ended = false;
    std::vector<double> served(kThreads);
    {
      std::latch begin(kThreads + 1);
      std::vector<std::jthread> threads;
      for (double& count : served) {
        threads.emplace_back([&] {
          begin.arrive_and_wait();
          for (; !ended; ++count) benchmark::DoNotOptimize(flight.Do(key, [] { return 42; }));
        });
      }
      begin.arrive_and_wait();
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
      ended = true;
    }
    double sum = 0;
    double squares = 0;
    for (const double count : served) {
      sum += count;
      squares += count * count;
    }
    fairness = sum * sum / (kThreads * squares);
  }
  state.counters["fairness"] = fairness;
}

BENCHMARK(Fairness<Group>)->Name("fairness/group")->Iterations(1)->UseRealTime();
BENCHMARK(Fairness<StdMutexGroup>)
    ->Name("fairness/group_with_std_mutex")
    ->Iterations(1)
    ->UseRealTime();

// Each thread cycles through keys of its own.
template <template <class> class Flight>
void DistinctKeys(benchmark::State& state) {
  static Flight<std::string> flight;
  std::vector<std::string> keys;
  for (int i = 0; i < state.range(0); ++i) {
    keys.push_back(KeyOf<std::string>(state.thread_index() * 1000 + i));
  }
  std::size_t next = 0;
  for (auto _ : state) {
    benchmark::DoNotOptimize(flight.Do(keys[next], [] { return 42; }));
    if (++next == keys.size()) next = 0;
  }
}

void OnOneAndTwoThreads(benchmark::internal::Benchmark* distinct_keys) {
  distinct_keys->ThreadRange(1, 2)->UseRealTime();
}

BENCHMARK(DistinctKeys<FloorPerThread>)
    ->Name("distinct_keys/floor_per_thread")
    ->Arg(256)
    ->Apply(OnOneAndTwoThreads);
BENCHMARK(DistinctKeys<ShardedFloor>)
    ->Name("distinct_keys/sharded_floor")
    ->Arg(256)
    ->Apply(OnOneAndTwoThreads);
BENCHMARK(DistinctKeys<Group>)
    ->Name("distinct_keys/group")
    ->Arg(1)
    ->Arg(256)
    ->Apply(OnOneAndTwoThreads);
BENCHMARK(DistinctKeys<TextbookGroup>)
    ->Name("distinct_keys/textbook")
    ->Arg(256)
    ->Apply(OnOneAndTwoThreads);

}  // namespace

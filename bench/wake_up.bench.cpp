// SPDX-License-Identifier: MIT

// Measures waking many threads that are blocked on one call, against as many that wait for a bare
// std::shared_future. The clock runs from the moment at which `fn` returns, or the promise is set,
// until the last thread has its result. The value is 1 MiB and counts its copies.

#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <future>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "singleflight/group.hpp"

namespace {

using Clock = std::chrono::steady_clock;

class Megabyte {
 public:
  Megabyte() : bytes_(std::size_t{1} << 20) {}
  Megabyte(const Megabyte& other) : bytes_(other.bytes_) { ++copies; }
  Megabyte(Megabyte&&) noexcept = default;
  Megabyte& operator=(const Megabyte&) = delete;

  static inline std::atomic<int> copies = 0;

 private:
  std::vector<char> bytes_;
};

// Threads that block until something wakes them all. Measures how long that takes.
class Crowd {
 public:
  explicit Crowd(std::size_t size) : size_(size), asleep_(size) {}

  // Starts the threads. Each runs `wait`, which blocks and returns the result that it waited for.
  // The thread then stays until all have theirs, so that no exit falls into another's wake-up time.
  template <class Wait>
  void Start(const Wait& wait) {
    const std::shared_future<void> released = release_.get_future().share();
    while (threads_.size() < size_) {
      threads_.emplace_back([this, wait, released] {
        const auto result = wait();
        benchmark::DoNotOptimize(&*result);
        if (--asleep_ == 0) awake_at_.set_value(Clock::now());
        released.wait();
      });
    }
  }

  // Returns when `all_came` says so and the last thread has had time to block. A future cannot be
  // asked whether it has.
  template <class AllCame>
  void WaitUntilBlocked(const AllCame& all_came) const {
    while (!all_came()) std::this_thread::yield();
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }

  double SecondsUntilAwake(Clock::time_point since) {
    const Clock::duration taken = awake_at_.get_future().get() - since;
    release_.set_value();
    for (std::thread& thread : threads_) thread.join();
    return std::chrono::duration<double>(taken).count();
  }

 private:
  const std::size_t size_;
  std::vector<std::thread> threads_;
  std::atomic<std::size_t> asleep_;  // threads that have no result yet
  std::promise<Clock::time_point> awake_at_;
  std::promise<void> release_;
};

void WakeGroup(benchmark::State& state) {
  const auto followers = static_cast<std::size_t>(state.range(0));
  const std::string key = "the one that all want";
  const int copies_before = Megabyte::copies;
  for (auto _ : state) {
    singleflight::Group<std::string, Megabyte> group;
    Crowd crowd(followers);
    Clock::time_point released;
    const auto result = group.Do(key, [&] {
      crowd.Start([&] { return group.Do(key, [] { return Megabyte(); }); });
      crowd.WaitUntilBlocked([&] { return group.Callers(key) == followers + 1; });
      Megabyte value;
      released = Clock::now();
      return value;
    });
    state.SetIterationTime(crowd.SecondsUntilAwake(released));
  }
  state.counters["copies"] = Megabyte::copies - copies_before;
}

void WakeFuture(benchmark::State& state) {
  const auto waiting = static_cast<std::size_t>(state.range(0));
  for (auto _ : state) {
    std::promise<Megabyte> promise;
    Crowd crowd(waiting);
    std::atomic<std::size_t> came = 0;
    crowd.Start([&came, landed = promise.get_future().share()] {
      ++came;
      return &landed.get();
    });
    crowd.WaitUntilBlocked([&] { return came == waiting; });
    Megabyte value;
    const Clock::time_point released = Clock::now();
    promise.set_value(std::move(value));
    state.SetIterationTime(crowd.SecondsUntilAwake(released));
  }
}

void Crowds(benchmark::internal::Benchmark* wake_up) {
  wake_up->Arg(100)->Arg(1000)->Iterations(1)->UseManualTime();
}

BENCHMARK(WakeGroup)->Name("wake_up/group")->Apply(Crowds);
BENCHMARK(WakeFuture)->Name("wake_up/future")->Apply(Crowds);

}  // namespace

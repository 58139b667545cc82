// SPDX-License-Identifier: MIT

// Measures the cost of a follower that does not block: a coroutine in CoDo, or a Future of DoAsync.
// Each iteration begins a call, has the followers join it, lands it and has each read its result
// and finish. Its time, the leader's part included, is divided by the number of followers. One
// thread does everything, as in an event loop.
//
// The floor of a coroutine that waits is one with an equally large frame, which puts itself into a
// list and is resumed from there.

#include <benchmark/benchmark.h>
#include <malloc.h>

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <functional>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "allocations.hpp"
#include "singleflight/async.hpp"
#include "singleflight/coro.hpp"

namespace {

using Group = singleflight::Group<std::string, int>;

const std::string key = "user:0000000000000042";

// Counts what followers allocate, from the first that joins until the last has its result, and
// divides an iteration's time among them.
class PerFollower {
 public:
  PerFollower(benchmark::State& state, std::size_t followers)
      : state_(state), followers_(static_cast<double>(followers)) {
    // Freed memory stays with the process, as it does in Go. Giving pages back to the kernel and
    // getting them again is not part of a follower's cost.
    mallopt(M_TRIM_THRESHOLD, std::numeric_limits<int>::max());
  }

  void Begin() { before_ = allocations_of_this_thread; }
  void End() { allocations_ += allocations_of_this_thread - before_; }

  ~PerFollower() {
    state_.counters["each"] = benchmark::Counter(
        followers_, benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
    state_.counters["allocations"] = benchmark::Counter(
        static_cast<double>(allocations_) / followers_, benchmark::Counter::kAvgIterations);
  }

 private:
  benchmark::State& state_;
  const double followers_;
  std::uint64_t before_ = 0;
  std::uint64_t allocations_ = 0;
};

// A coroutine that starts at once and destroys itself. It allocates nothing but its frame.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// The work of a call that lands when `work` is resumed.
struct Held {
  std::coroutine_handle<>& work;

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> handle) const noexcept { work = handle; }
  int await_resume() const noexcept { return 42; }
};

template <class Fn>
Detached Ask(Group& group, const Fn& fn, std::size_t& answered) {
  const auto result = co_await singleflight::CoDo(group, key, fn);
  benchmark::DoNotOptimize(*result);
  ++answered;
}

void Coroutines(benchmark::State& state) {
  const auto followers = static_cast<std::size_t>(state.range(0));
  PerFollower per_follower(state, followers);
  Group group;
  std::coroutine_handle<> work;
  const auto load = [&work] { return Held{work}; };
  for (auto _ : state) {
    std::size_t answered = 0;
    Ask(group, load, answered);
    per_follower.Begin();
    for (std::size_t i = 0; i < followers; ++i) Ask(group, load, answered);
    work.resume();
    per_follower.End();
    if (answered != followers + 1) std::abort();
  }
}

void Futures(benchmark::State& state) {
  const auto followers = static_cast<std::size_t>(state.range(0));
  PerFollower per_follower(state, followers);
  Group group;
  std::function<void()> work;
  const auto later = [&work](auto task) { work = std::move(task); };
  const auto load = [] { return 42; };
  std::vector<singleflight::Future<int>> futures;
  futures.reserve(followers);
  for (auto _ : state) {
    auto leader = singleflight::DoAsync(group, key, load, later);
    per_follower.Begin();
    for (std::size_t i = 0; i < followers; ++i) {
      futures.push_back(singleflight::DoAsync(group, key, load, later));
    }
    work();
    for (singleflight::Future<int>& future : futures) benchmark::DoNotOptimize(*future.Get());
    futures.clear();
    per_follower.End();
    benchmark::DoNotOptimize(*leader.Get());
  }
}

// The floor is measured with these.

struct Listed {
  explicit Listed(Listed*& list) : first(list) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> its_handle) noexcept {
    handle = its_handle;
    next = std::exchange(first, this);
  }
  int await_resume() const noexcept { return 42; }

  using Awaiter = decltype(singleflight::CoDo(std::declval<Group&>(), key, [] { return 42; }));
  Listed*& first;
  Listed* next = nullptr;
  std::coroutine_handle<> handle;
  std::array<std::byte, sizeof(Awaiter)> as_large_as_that;  // is not touched
};

Detached AwaitTurn(Listed*& first, std::size_t& answered) {
  benchmark::DoNotOptimize(co_await Listed(first));
  ++answered;
}

void BareCoroutines(benchmark::State& state) {
  const auto followers = static_cast<std::size_t>(state.range(0));
  PerFollower per_follower(state, followers);
  for (auto _ : state) {
    std::size_t answered = 0;
    Listed* first = nullptr;
    per_follower.Begin();
    for (std::size_t i = 0; i < followers; ++i) AwaitTurn(first, answered);
    while (first != nullptr) std::exchange(first, first->next)->handle.resume();
    per_follower.End();
    if (answered != followers) std::abort();
  }
}

void Sizes(benchmark::internal::Benchmark* followers) {
  followers->Arg(100)->Arg(10'000)->Arg(1'000'000);
}

BENCHMARK(Coroutines)->Name("followers/CoDo")->Apply(Sizes);
BENCHMARK(BareCoroutines)->Name("followers/bare_coroutine")->Apply(Sizes);
BENCHMARK(Futures)->Name("followers/DoAsync")->Apply(Sizes);

}  // namespace

// SPDX-License-Identifier: MIT

// Tests of Batcher: what its destructor does, and what may outlive what.

#include <pthread.h>

#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>

#include "batcher_support.hpp"
#include "support/allocations.hpp"
#include "support/cancellable_thread.hpp"
#include "support/coroutines.hpp"
#include "support/platform.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::Future;
using singleflight::Stats;

TEST_CASE(
    "Destroying a Batcher: keys that wait for their batch land with owner_dead, and are not "
    "loaded") {
  for (const BatcherOptions& options :
       {BatcherOptions{}, {.max_delay = 24h}, {.max_keys = 100, .max_delay = 24h}}) {
    IntGroup group;
    Calls calls;
    auto batcher = std::make_unique<IntBatcher>(group, Noting(calls), options);
    auto one = DoAsync(*batcher, 1);
    auto two = DoAsync(*batcher, 2);
    batcher.reset();
    CHECK(Get(one).error == std::errc::owner_dead);
    CHECK(Get(two).error == std::errc::owner_dead);
    CHECK(calls.Get().empty());
    CHECK(group.GetStats().in_flight == 0);
  }
}

TEST_CASE(
    "Destroying a Batcher: keys whose task the executor has land with owner_dead, and the task is "
    "dead") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  auto batcher = std::make_unique<IntBatcher>(group, Noting(calls), BatcherOptions{.max_keys = 2},
                                              tasks.Keep());
  auto one = DoAsync(*batcher, 1);
  auto two = DoAsync(*batcher, 2);
  auto three = DoAsync(*batcher, 3);
  batcher->Flush();
  REQUIRE(tasks.Count() == 2);
  batcher.reset();
  CHECK(Get(one).error == std::errc::owner_dead);
  CHECK(Get(two).error == std::errc::owner_dead);
  CHECK(Get(three).error == std::errc::owner_dead);
  tasks.RunOne();
  tasks.DropAll();
  CHECK(calls.Get().empty());
}

TEST_CASE("Destroying a Batcher: it destroys the function, even if the executor still has tasks") {
  IntGroup group;
  Tasks tasks;
  auto owned = std::make_shared<int>(0);
  const std::weak_ptr<int> watched = owned;
  auto batcher = std::make_unique<IntBatcher>(
      group, [owned = std::move(owned)](std::span<const int> keys) { return TenTimes(keys); },
      BatcherOptions{.max_delay = 0ms}, tasks.Keep());
  auto one = DoAsync(*batcher, 1);
  CHECK_FALSE(watched.expired());
  batcher.reset();
  CHECK(watched.expired());
  CHECK(tasks.Count() == 1);
}

TEST_CASE("Destroying a Batcher: a function that runs is asked to stop, and waited for") {
  for (const bool on_executor : {false, true}) {
    IntGroup group;
    std::optional<Pool> executor(std::in_place, 1);
    std::latch runs(1);
    std::atomic<bool> returned = false;
    const auto load = [&](std::span<const int> keys, const StopToken& stop) {
      runs.count_down();
      Await([&] { return stop.stop_requested(); });
      returned = true;
      return TenTimes(keys);
    };
    auto batcher =
        on_executor ? std::make_unique<IntBatcher>(group, load, BatcherOptions{}, executor->Post())
                    : std::make_unique<IntBatcher>(group, load, BatcherOptions{.max_delay = 24h});
    auto one = DoAsync(*batcher, 1);
    batcher->Flush();
    runs.wait();
    auto two = DoAsync(*batcher, 2);
    batcher.reset();
    CHECK(returned);
    CHECK(Get(one).value == 10);
    CHECK(Get(two).error == std::errc::owner_dead);
    executor.reset();
  }
}

TEST_CASE(
    "Destroying a Batcher: a batch whose function has not been called yet gets a requested stop") {
  // The stop comes between two calls of the function in one batch.
  IntGroup group;
  std::latch first_runs(1);
  std::vector<bool> asked;
  auto batcher = std::make_unique<IntBatcher>(
      group,
      [&](std::span<const int> keys, const StopToken& stop) {
        if (asked.empty()) {
          first_runs.count_down();
          Await([&] { return stop.stop_requested(); });
        }
        asked.push_back(stop.stop_requested());
        return TenTimes(keys);
      },
      BatcherOptions{.max_delay = 24h});
  auto old = DoAsync(*batcher, 1);
  group.Forget(1);
  auto current = DoAsync(*batcher, 1);
  batcher->Flush();
  first_runs.wait();
  batcher.reset();
  CHECK(asked == std::vector<bool>{true, true});
  CHECK(Get(old).value == 10);
  CHECK(Get(current).value == 10);
}

TEST_CASE(
    "Destroying a Batcher: a waiter that it notifies, and that asks again, gets owner_dead at "
    "once") {
  struct AsksAgain final : IntBatcher::Waiter {
    void OnLanded() noexcept override {
      again = ErrorOf([this] { return DoAsync(*batcher, 2).Get(); });
    }
    IntBatcher* batcher = nullptr;
    std::optional<std::errc> again;
  } waiter;
  IntGroup group;
  Calls calls;
  {
    Batcher batcher(group, Noting(calls));
    waiter.batcher = &batcher;
    batcher.Join(1, waiter);
  }
  CHECK(waiter.again == std::errc::owner_dead);
}

TEST_CASE(
    "Destroying a Batcher: it does not wait for the time of a batch, nor for an executor's queue") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  {
    Batcher timed(group, Noting(calls), {.max_delay = 24h});
    Batcher queued(group, Noting(calls), {.max_delay = 0ms}, tasks.Keep());
    static_cast<void>(DoAsync(timed, 1));
    static_cast<void>(DoAsync(queued, 2));
  }
  CHECK(calls.Get().empty());
}

TEST_CASE("Batcher: Futures may outlive it and its group") {
  auto group = std::make_unique<IntGroup>();
  Calls calls;
  auto batcher = std::make_unique<IntBatcher>(*group, Noting(calls));
  auto loaded = DoAsync(*batcher, 1);
  batcher->Flush();
  auto dropped = DoAsync(*batcher, 2);
  batcher.reset();
  group.reset();
  CHECK(Get(loaded).value == 10);
  CHECK(Get(dropped).error == std::errc::owner_dead);
}

TEST_CASE("Batcher: nothing is left of it when its tasks are gone") {
  const std::ptrdiff_t before = live_allocations;
  {
    IntGroup group;
    Tasks tasks;
    auto batcher = std::make_unique<IntBatcher>(
        group, TenTimes, BatcherOptions{.max_keys = 2, .max_delay = 24h}, tasks.Keep());
    auto one = DoAsync(*batcher, 1);
    auto two = DoAsync(*batcher, 2);
    auto three = DoAsync(*batcher, 3);
    tasks.RunOne();
    batcher.reset();
  }
  CHECK(live_allocations == before);
}

TEST_CASE("Batcher: a waiter that a batch notifies may destroy it, however the batch finishes") {
  struct Destroys final : IntBatcher::Waiter {
    void OnLanded() noexcept override { batcher->reset(); }
    std::unique_ptr<IntBatcher>* batcher = nullptr;
  };
  enum class How { kReturns, kThrows, kExecutorThrows, kTaskIsDropped, kThreadIsCancelled };
  std::vector<How> ways = {How::kReturns, How::kThrows, How::kExecutorThrows, How::kTaskIsDropped};
  if (TEST_UNWINDS_CANCELLED_THREADS) ways.push_back(How::kThreadIsCancelled);
  for (const How how : ways) {
    CAPTURE(static_cast<int>(how));
    IntGroup group;
    Destroys waiter;
    std::function<void()> task;
    auto batcher = std::make_unique<IntBatcher>(
        group,
        [how](std::span<const int> keys) {
          if (how == How::kThrows) throw std::runtime_error("down");
          if (how == How::kThreadIsCancelled) pthread_exit(nullptr);
          return TenTimes(keys);
        },
        BatcherOptions(),
        [&](auto its_task) {
          if (how == How::kExecutorThrows) throw std::runtime_error("full");
          task = its_task;
        });
    waiter.batcher = &batcher;
    batcher->Join(1, waiter);
    auto two = DoAsync(*batcher, 2);
    batcher->Flush();
    if (how == How::kTaskIsDropped) task = nullptr;
    if (task) CancellableThread([&] { task(); }).JoinWasUnwound();
    CHECK(batcher == nullptr);
    CHECK(Get(two).value.has_value() == (how == How::kReturns));
    CHECK(Keep([&] { return waiter.TakeResult(); }).value.has_value() == (how == How::kReturns));
  }
}

// ---- A batcher that lives in a coroutine, as a DataLoader lives in a request

namespace {

// Where the batch of a request runs.
enum class Mode { kInFlush, kOnOwnThread, kInTask };

struct Request {
  Mode mode;
  Tasks tasks = {};
  IntBatcher* batcher = nullptr;
  std::latch go{1};
  std::latch finished{1};
  Outcome<int> one = {};
  Future<int> two = {};
  Future<int> three = {};
};

FireAndForget Handle(Request& request) {
  {
    IntGroup group;
    std::optional<IntBatcher> batcher;
    const auto load = [&request](std::span<const int> keys) {
      request.go.wait();
      return TenTimes(keys);
    };
    switch (request.mode) {
      case Mode::kInFlush:
        batcher.emplace(group, load);
        break;
      case Mode::kOnOwnThread:
        batcher.emplace(group, load, BatcherOptions{.max_keys = 3, .max_delay = 24h});
        break;
      case Mode::kInTask:
        batcher.emplace(group, load, BatcherOptions{.max_keys = 3}, request.tasks.Keep());
        break;
    }
    request.batcher = &*batcher;
    const Future<int> one = DoAsync(*batcher, 1);
    request.two = DoAsync(*batcher, 2);
    request.three = DoAsync(*batcher, 3);
    const auto result = co_await CoDo(*batcher, 1);
    request.one.value = *result;
    // Now 1 has landed, and this thread would next land 2 and 3.
  }
  request.finished.count_down();
}

}  // namespace

TEST_CASE("Batcher: a coroutine that a batch resumes may destroy the batcher and its group") {
  for (const Mode mode : {Mode::kInFlush, Mode::kOnOwnThread, Mode::kInTask}) {
    CAPTURE(static_cast<int>(mode));
    Request request{mode};
    Handle(request);
    request.go.count_down();
    JoiningThread runs_task;
    if (mode == Mode::kInFlush) request.batcher->Flush();
    if (mode == Mode::kInTask) runs_task = JoiningThread([&] { request.tasks.RunOne(); });
    request.finished.wait();
    CHECK(request.one.value == 10);
    CHECK(Get(request.two).value == 20);
    CHECK(Get(request.three).value == 30);
  }
}

// SPDX-License-Identifier: MIT

// OnFailure::kRetry for callers that do not block: DoAsync, DoThen, CoDo.

#include <atomic>
#include <functional>
#include <latch>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::Future;
using singleflight::KeyResult;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = singleflight::Group<std::string, int>;

// Keeps tasks until they are run.
struct Queue {
  auto Executor() {
    return [this](auto task) { tasks.push_back(std::move(task)); };
  }
  void RunNext() {
    const auto task = std::move(tasks.at(next));
    ++next;
    task();
  }
  std::vector<std::function<void()>> tasks;
  std::size_t next = 0;
};

// Fails the first time.
auto FailsOnce(int& runs) {
  return [&runs] {
    if (++runs == 1) throw std::runtime_error("down");
    return runs;
  };
}

}  // namespace

TEST_CASE("Promise 17: futures whose call failed share one second try") {
  IntGroup group;
  Queue queue;
  int runs = 0;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 4; ++i) {
    futures.push_back(DoAsync(group, "key", FailsOnce(runs), queue.Executor(), OnFailure::kRetry));
  }
  queue.RunNext();
  CHECK(queue.tasks.size() == 2);
  for (std::size_t i = 1; i < 4; ++i) CHECK(futures[i].WaitFor(0s) == std::future_status::timeout);
  queue.RunNext();
  CHECK(Keep([&] { return futures[0].Get(); }).message == "down");
  CHECK(Keep([&] { return futures[1].Get(); }).role == Role::kLeader);
  for (std::size_t i = 2; i < 4; ++i) {
    const auto outcome = Keep([&] { return futures[i].Get(); });
    CHECK(outcome.value == 2);
    CHECK(outcome.shared);
    CHECK_FALSE(futures[i].valid());
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 5, .failures = 1});
}

TEST_CASE("Promise 17: a future asks again as soon as its call fails, not when it is waited for") {
  IntGroup group;
  std::latch fail(1);
  Caller leader([&] {
    return group.Do("key", [&]() -> int {
      fail.wait();
      throw std::runtime_error("down");
    });
  });
  AwaitCallers(group, "key", 1);
  std::atomic<bool> ran = false;
  auto future = DoAsync(
      group, "key",
      [&] {
        ran = true;
        return 5;
      },
      singleflight::NewThread(), OnFailure::kRetry);
  fail.count_down();
  Await([&] { return ran.load(); });
  CHECK(*future.Get() == 5);
  CHECK(leader.Join().message == "down");
}

TEST_CASE("A future that asks again can be waited for, shared, moved and dropped") {
  IntGroup group;
  Queue queue;
  int runs = 0;
  auto leader = DoAsync(group, "key", FailsOnce(runs), queue.Executor());
  auto future = DoAsync(group, "key", FailsOnce(runs), queue.Executor(), OnFailure::kRetry);
  auto dropped = DoAsync(group, "key", FailsOnce(runs), queue.Executor(), OnFailure::kRetry);
  CHECK(group.Callers("key") == 3);
  CHECK(future.WaitUntil(std::chrono::system_clock::now()) == std::future_status::timeout);
  queue.RunNext();
  CHECK(group.Callers("key") == 2);
  dropped = {};
  CHECK(group.Callers("key") == 1);
  auto moved = std::move(future);
  CHECK_FALSE(future.valid());  // NOLINT(bugprone-use-after-move): that is what is tested
  const auto shared = std::move(moved).Share();
  queue.RunNext();
  CHECK(*shared.Get() == 2);
  CHECK(*shared.Get() == 2);
  CHECK_THROWS_WITH(leader.Get(), "down");
}

TEST_CASE(
    "Promise 9: a future that asks again reports a wait that would never end, on both tries") {
  IntGroup group;
  Queue queue;
  Future<int> future;
  std::optional<std::errc> first_error;
  std::optional<std::errc> second_error;
  auto leader = DoAsync(
      group, "key",
      [&]() -> int {
        first_error = ErrorOf([&] { return future.Get(); });
        throw std::runtime_error("down");
      },
      queue.Executor());
  future = DoAsync(
      group, "key",
      [&] {
        second_error = ErrorOf([&] { return future.Get(); });
        return 1;
      },
      [](auto task) { task(); }, OnFailure::kRetry);
  queue.RunNext();
  CHECK(first_error == std::errc::resource_deadlock_would_occur);
  CHECK(second_error == std::errc::resource_deadlock_would_occur);
  CHECK(*future.Get() == 1);
  CHECK_THROWS_WITH(leader.Get(), "down");
}

TEST_CASE("Promise 17: callers that are called back share one second try") {
  IntGroup group;
  Queue queue;
  int runs = 0;
  std::vector<std::string> outcomes;
  std::vector<singleflight::Caller> callers;
  for (int i = 0; i < 4; ++i) {
    callers.push_back(DoThen(
        group, "key", FailsOnce(runs), queue.Executor(),
        [&](KeyResult<int> result) {
          outcomes.push_back(result ? std::to_string(*result) : "failed");
        },
        OnFailure::kRetry));
  }
  queue.RunNext();
  CHECK(outcomes == std::vector<std::string>{"failed"});
  CHECK(callers[3].Leave());
  queue.RunNext();
  CHECK(outcomes == std::vector<std::string>{"failed", "2", "2"});
  CHECK_FALSE(callers[1].Leave());
  CHECK(runs == 2);
}

TEST_CASE("DoThen: a caller that leaves while it asks again is not called back") {
  // The second try runs inside the failed call's landing, and makes the caller leave.
  IntGroup group;
  Queue queue;
  int runs = 0;
  auto leader = DoAsync(group, "key", FailsOnce(runs), queue.Executor());
  singleflight::Caller caller;
  bool left = false;
  bool called = false;
  DoThen(
      caller, group, "key",
      [&] {
        left = caller.Leave();
        return 3;
      },
      [](auto task) { task(); }, [&](KeyResult<int>) { called = true; }, OnFailure::kRetry);
  queue.RunNext();
  CHECK(left);
  CHECK_FALSE(called);
  CHECK(group.Callers("key") == 0);
  CHECK_THROWS_WITH(leader.Get(), "down");
}

TEST_CASE("DoThen: a caller that is refused when it asks again is called back with that") {
  IntGroup group({.max_calls_in_flight = 1});
  Queue queue;
  auto leader = DoAsync(
      group, "key", []() -> int { throw std::runtime_error("down"); }, queue.Executor());
  // Takes the place of the failed call before the caller asks again.
  std::optional<Future<int>> other;
  const auto takes_place = DoThen(
      group, "key", [] { return 0; }, queue.Executor(),
      [&](KeyResult<int>) {
        other = DoAsync(
            group, "other", [] { return 0; }, queue.Executor());
      });
  std::optional<std::errc> error;
  const auto refused = DoThen(
      group, "key", [] { return 0; }, queue.Executor(),
      [&](KeyResult<int> result) { error = ErrorOf([&] { return *result; }); }, OnFailure::kRetry);
  queue.RunNext();
  CHECK(error == std::errc::resource_unavailable_try_again);
  queue.RunNext();
}

TEST_CASE("Promise 17: threads, futures and callbacks that fail together try again together") {
  constexpr std::size_t kEach = 20;
  for (int round = 0; round < 20; ++round) {
    IntGroup group;
    std::atomic<int> runs = 0;
    const auto load = [&] {
      if (++runs == 1) {
        AwaitCallers(group, "key", 3 * kEach);
        throw std::runtime_error("down");
      }
      return 7;
    };
    std::atomic<std::size_t> served = 0;
    std::vector<singleflight::Caller> callers(kEach);
    std::vector<Future<int>> futures;
    {
      std::vector<std::jthread> threads;
      for (std::size_t i = 0; i < kEach; ++i) {
        threads.emplace_back([&] {
          served += Keep([&] {
                      return group.Do("key", load, {.on_failure = OnFailure::kRetry});
                    }).value == 7;
        });
        futures.push_back(
            DoAsync(group, "key", load, singleflight::NewThread(), OnFailure::kRetry));
        DoThen(
            callers[i], group, "key", load, singleflight::NewThread(),
            [&](KeyResult<int> result) { served += result && *result == 7; }, OnFailure::kRetry);
      }
      for (auto& future : futures) served += Keep([&] { return future.Get(); }).value == 7;
    }
    callers.clear();  // waits for callbacks that are running
    CHECK(runs == 2);
    CHECK(served <= 3 * kEach - 1);
    CHECK(served >= 2 * kEach - 1);  // a callback that had not begun was left
  }
}

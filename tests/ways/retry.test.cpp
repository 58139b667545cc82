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

#include "kept_tasks.hpp"
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
  KeptTasks queue;
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
  KeptTasks queue;
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
  KeptTasks queue;
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
  KeptTasks queue;
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
  KeptTasks queue;
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
  KeptTasks queue;
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
      std::vector<JoiningThread> threads;
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

TEST_CASE("A caller that leaves after its call has failed is not expected in the second try") {
  IntGroup group;
  KeptTasks queue;
  int runs = 0;
  const auto ignore = [](const KeyResult<int>&) {};
  singleflight::Caller leaves;
  bool left = false;
  // Called first, because it does not ask again: the others are notified after it.
  const auto leader = DoThen(group, "key", FailsOnce(runs), queue.Executor(),
                             [&](const KeyResult<int>&) { left = leaves.Leave(); });
  DoThen(leaves, group, "key", FailsOnce(runs), queue.Executor(), ignore, OnFailure::kRetry);
  auto asks_again = DoAsync(group, "key", FailsOnce(runs), queue.Executor(), OnFailure::kRetry);
  queue.RunNext();
  CHECK(left);
  CHECK(group.Callers("key") == 1);
  queue.RunNext();
  const auto outcome = Keep([&] { return asks_again.Get(); });
  CHECK(outcome.value == 2);
  CHECK_FALSE(outcome.shared);
}

TEST_CASE("A second try that finds its value in the cache serves futures and callbacks") {
  struct Cache {
    std::optional<int> Get(const std::string&) const { return value; }
    void Put(const std::string&, int) {}
    std::optional<int> value;
  } cache;
  singleflight::ReadThrough<std::string, int, Cache&> numbers(cache);
  for (const bool by_future : {true, false}) {
    cache.value.reset();
    KeptTasks queue;
    const auto load = [&]() -> int {
      cache.value = 7;  // somebody else puts it
      throw std::runtime_error("down");
    };
    auto leader = DoAsync(numbers, "key", load, queue.Executor());
    Future<int> future;
    singleflight::Caller caller;
    int got = 0;
    if (by_future) {
      future = DoAsync(numbers, "key", load, queue.Executor(), OnFailure::kRetry);
    } else {
      caller = DoThen(
          numbers, "key", load, queue.Executor(),
          [&got](const KeyResult<int>& result) { got = *result; }, OnFailure::kRetry);
    }
    queue.RunNext();
    CHECK(queue.tasks.size() == 1);
    if (by_future) {
      REQUIRE(future.WaitFor(0s) == std::future_status::ready);
      got = *future.Get();
    }
    CHECK(got == 7);
    CHECK_THROWS_WITH(leader.Get(), "down");
  }
}

TEST_CASE("A caller that may ask again keeps nothing once it has its outcome, or has left") {
  IntGroup group;
  KeptTasks queue;
  const auto in_fn = std::make_shared<int>(0);
  const auto in_executor = std::make_shared<int>(0);
  const auto in_callback = std::make_shared<int>(0);
  const auto ask = [&](singleflight::Caller& caller) {
    DoThen(
        caller, group, "key", [in_fn] { return *in_fn; },
        [&queue, in_executor](auto task) { queue.tasks.push_back(std::move(task)); },
        [in_callback](const KeyResult<int>&) {}, OnFailure::kRetry);
  };
  const auto kept = [&] {
    return in_fn.use_count() + in_executor.use_count() + in_callback.use_count() - 3;
  };
  singleflight::Caller leader;
  singleflight::Caller follower;
  singleflight::Caller leaves;
  ask(leader);
  ask(follower);
  ask(leaves);
  CHECK(kept() == 2 + 2 * 3);  // the leader's function is in its task, its executor is gone
  CHECK(leaves.Leave());
  CHECK(kept() == 2 + 3);
  queue.RunNext();
  queue.tasks.clear();
  CHECK(kept() == 0);
}

TEST_CASE("A callback that gets the error of its second try is called outside any catch block") {
  IntGroup group;
  KeptTasks queue;
  auto leader = DoAsync(
      group, "key", []() -> int { throw std::runtime_error("down"); }, queue.Executor());
  bool called = false;
  bool in_catch_block = false;
  const auto refused = DoThen(
      group, "key", [] { return 0; }, queue.Executor(),
      [&](const KeyResult<int>& result) {
        called = !result;
        in_catch_block = std::current_exception() != nullptr;
      },
      OnFailure::kRetry);
  const JoiningThread closing([&] { group.Close(); });
  Await([&] {  // until it refuses newcomers
    return ErrorOf([&] { return group.Join("key", [](IntGroup::Lead) {}); }).has_value();
  });
  queue.RunNext();
  CHECK(called);
  CHECK_FALSE(in_catch_block);
}

namespace {

// A key whose copy runs `during_copy`: a leader copies it while it joins.
struct HookedKey {
  explicit HookedKey(int its_number) : number(its_number) {}
  HookedKey(const HookedKey& other) : number(other.number) {
    if (during_copy) std::exchange(during_copy, nullptr)();
  }
  bool operator==(const HookedKey&) const = default;
  int number;
  static inline std::function<void()> during_copy;
};
struct HashKey {
  std::size_t operator()(const HookedKey& key) const {
    return static_cast<std::size_t>(key.number);
  }
};

}  // namespace

TEST_CASE("A Caller that is destroyed while it asks again on another thread is gone afterwards") {
  for (int round = 0; round < 100; ++round) {
    singleflight::Group<HookedKey, int, HashKey> group;
    const HookedKey key(1);
    KeptTasks queue;
    auto leader = DoAsync(
        group, key, []() -> int { throw std::runtime_error("down"); }, queue.Executor());
    const auto captured = std::make_shared<int>(0);
    std::optional<singleflight::Caller> caller = DoThen(
        group, key, [] { return 7; }, queue.Executor(),
        [captured](const KeyResult<int>&) { std::abort(); }, OnFailure::kRetry);
    std::latch asks_again(1);
    std::atomic<bool> destroying = false;
    HookedKey::during_copy = [&] {
      asks_again.count_down();
      Await([&] { return destroying.load(); });
      LetOthersRun(100);
    };
    JoiningThread landing([&] { queue.RunNext(); });
    asks_again.wait();
    CHECK(caller->Leave());  // does not wait
    destroying = true;
    caller.reset();
    CHECK(captured.use_count() == 1);
    landing.join();
    CHECK(group.Callers(key) == 0);
    queue.RunNext();
  }
}

TEST_CASE("Promise 17: callers that leave while they ask again disturb no other caller") {
  constexpr int kRounds = 1000;
  for (int round = 0; round < kRounds; ++round) {
    IntGroup group;
    KeptTasks queue;
    std::atomic<int> runs = 0;
    const auto load = [&] {
      if (++runs == 1) throw std::runtime_error("down");
      return 7;
    };
    const auto inline_executor = [](auto task) { task(); };
    auto leader = DoAsync(group, "key", load, queue.Executor());
    std::atomic<int> called = 0;
    singleflight::Caller leaves = DoThen(
        group, "key", load, inline_executor, [&](const KeyResult<int>&) { ++called; },
        OnFailure::kRetry);
    auto stays = DoAsync(group, "key", load, inline_executor, OnFailure::kRetry);
    auto dropped = DoAsync(group, "key", load, inline_executor, OnFailure::kRetry);
    bool left = false;
    std::latch together(3);
    {
      const JoiningThread landing([&] {
        together.arrive_and_wait();
        queue.RunNext();
      });
      const JoiningThread leaving([&] {
        together.arrive_and_wait();
        left = leaves.Leave();
      });
      together.arrive_and_wait();
      dropped = {};
    }
    REQUIRE(Keep([&] { return stays.Get(); }).value == 7);
    REQUIRE(called == (left ? 0 : 1));
    REQUIRE(runs == 2);
    REQUIRE(group.Callers("key") == 0);
    REQUIRE(group.GetStats().in_flight == 0);
  }
}

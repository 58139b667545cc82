// SPDX-License-Identifier: MIT

// Tests of CoDoMany. Functions that capture by value, and keys, are named before they are awaited,
// because of the bugs of GCC that many.hpp and coro.hpp describe.

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <span>

#include "cache/fake_cache.hpp"
#include "support/batches.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDoMany;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::Role;
using singleflight::Stats;

TEST_CASE("CoDoMany: a plain function runs at once for all keys, and nothing is suspended") {
  IntGroup group;
  Results results;
  std::vector<Keys> runs;
  const auto fn = [&](std::span<const int> keys) {
    runs.emplace_back(keys.begin(), keys.end());
    return TenTimes(keys);
  };
  const Routine routine = Ask(group, {3, 1, 3, 2}, fn, results);
  CHECK(routine.Done());
  CHECK(runs == std::vector<Keys>{{3, 1, 2}});
  REQUIRE(results.size() == 4);
  CHECK(*results[0] == 30);
  CHECK(&*results[0] == &*results[2]);
  CHECK(results[0].shared());
  CHECK(*results[1] == 10);
  CHECK_FALSE(results[1].shared());
  CHECK(results[1].role() == Role::kLeader);
  CHECK(*results[3] == 20);
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("CoDoMany: the task that the function returns may complete later, at once, or fail") {
  IntGroup group;
  Results later, at_once, failed;
  Signal signal;
  const Routine first = Ask(group, {3, 1}, AwaitSignal(signal), later);
  CHECK_FALSE(first.Done());
  signal.Fire();
  CHECK(first.Done());
  CHECK(*later[1] == 10);

  const auto complete = [](std::span<const int> keys) -> Task<Keys> { co_return TenTimes(keys); };
  const Routine second = Ask(group, {3, 1}, complete, at_once);
  CHECK(*at_once[0] == 30);

  const auto fail = [](std::span<const int>) -> Task<Keys> {
    throw std::runtime_error("down");
    co_return Keys();
  };
  const Routine third = Ask(group, {3, 1}, fail, failed);
  CHECK_THROWS_WITH(*failed[0], "down");
  CHECK_THROWS_WITH(*failed[1], "down");
  CHECK(group.GetStats() == Stats{.executions = 6, .failures = 2});
}

TEST_CASE("CoDoMany: what is awaited is read like what a plain function returns") {
  IntGroup group;
  Results results;
  const auto errors = [](std::span<const int>) -> Task<std::map<int, KeyResult<int>>> {
    std::map<int, KeyResult<int>> map;
    map.emplace(1, 10);
    map.emplace(2, KeyResult<int>::Failure(std::make_exception_ptr(std::runtime_error("down"))));
    co_return map;
  };
  const Routine first = Ask(group, {3, 2, 1}, errors, results);
  CHECK(ErrorOfKey(results[0]) == std::errc::no_message);
  CHECK_THROWS_WITH(*results[1], "down");
  CHECK(*results[2] == 10);
  const auto fewer = [](std::span<const int>) -> Task<Keys> { co_return Keys{7}; };
  const Routine second = Ask(group, {3, 2}, fewer, results);
  CHECK(ErrorOfKey(results[1]) == std::errc::invalid_argument);

  Group<int, std::string> names;
  std::string sum;
  const auto aggregates = [&](Signal& signal) -> Routine {
    const auto fn = [&](std::span<const int>) -> Task<std::array<std::string, 2>> {
      co_await signal;
      co_return std::array<std::string, 2>{std::string(100, 'a'), std::string(100, 'b')};
    };
    const Keys keys{1, 2};
    const auto found = co_await CoDoMany(names, keys, fn);
    sum = *found[0] + *found[1];
  };
  Signal signal;
  const Routine third = aggregates(signal);
  signal.Fire();
  CHECK(sum == std::string(100, 'a') + std::string(100, 'b'));

  Group<int, void> nothing;
  int succeeded = 0;
  const auto none = [&]() -> Routine {
    struct Awaited : std::suspend_never {};
    const Keys keys{1, 2};
    const auto done =
        co_await CoDoMany(nothing, keys, [](std::span<const int>) { return Awaited(); });
    for (const auto& result : done) succeeded += result.has_value() ? 1 : 0;
  };
  const Routine fourth = none();
  CHECK(succeeded == 2);
}

TEST_CASE("CoDoMany: keys in flight are joined, and the coroutine waits for all of them") {
  IntGroup group;
  Silent waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(2, waiter, [&](IntGroup::Lead its_lead) { lead = std::move(its_lead); });
  Results results;
  Keys got;
  const auto fn = [&](std::span<const int> keys) {
    got.assign(keys.begin(), keys.end());
    return TenTimes(keys);
  };
  const Routine routine = Ask(group, {1, 2, 3}, fn, results);
  CHECK(got == Keys{1, 3});
  CHECK(group.GetStats().in_flight == 1);  // its own have landed
  CHECK_FALSE(routine.Done());
  lead->Succeed(7);
  CHECK(routine.Done());
  CHECK(*results[0] == 10);
  CHECK(*results[1] == 7);
  CHECK(results[1].shared());
  CHECK(results[1].role() == Role::kFollower);
  CHECK(*results[2] == 30);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1});
}

TEST_CASE("CoDoMany: if all keys are in flight, or there are none, nothing is run") {
  IntGroup group;
  Signal signal;
  Later later;
  Results leading, following, none;
  const Routine leader = Ask(group, {1, 2}, AwaitSignal(signal), leading);
  const Routine follower = AskOn(later, group, {2, 1, 2}, MustNotRun, following);
  const Routine empty = AskOn(later, group, {}, MustNotRun, none);
  CHECK(empty.Done());
  CHECK(later.tasks.empty());
  CHECK(group.Callers(1) == 2);
  signal.Fire();
  REQUIRE(follower.Done());
  CHECK(*following[0] == 20);
  CHECK(*following[1] == 10);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2});
}

TEST_CASE("Promise 1: threads, futures, coroutines and batches share the calls of one batch") {
  IntGroup group;
  Signal signal;
  Results first, second;
  const Routine leader = Ask(group, {1, 2}, AwaitSignal(signal), first);
  const Routine batch = Ask(group, {2, 1}, MustNotRun, second);
  auto future = singleflight::DoAsync(group, 1, [] { return -1; });
  Outcome<int> coroutine;
  const auto co_do = [&]() -> Routine {
    coroutine.value = *co_await singleflight::CoDo(group, 1, [] { return -1; });
  };
  const Routine single = co_do();
  Caller thread([&] { return group.Do(1, [] { return -1; }); });
  Caller many([&] { return singleflight::DoMany(group, {1}, MustNotRun).front().result(); });
  AwaitCallers(group, 1, 6);
  signal.Fire();
  CHECK(*first[0] == 10);
  CHECK(*second[1] == 10);
  CHECK(*future.Get() == 10);
  CHECK(coroutine.value == 10);
  CHECK(thread.Join().value == 10);
  CHECK(many.Join().value == 10);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 6});
}

TEST_CASE("CoDoMany: with an executor, the work runs where the executor calls the task, once") {
  IntGroup group;
  Later later;
  Results results;
  int runs = 0;
  const auto fn = [&](std::span<const int> keys) {
    ++runs;
    return TenTimes(keys);
  };
  const Routine routine = AskOn(later, group, {1, 2}, fn, results);
  CHECK(runs == 0);
  REQUIRE(later.tasks.size() == 1);
  later.tasks.push_back(later.tasks.front());
  later.RunAll();
  CHECK(runs == 1);
  CHECK(*results[1] == 20);

  // A task that is awaited begins there, too.
  Signal signal;
  const Routine second = AskOn(later, group, {1, 2}, AwaitSignal(signal), results);
  CHECK_FALSE(signal.Awaited());
  later.RunAll();
  CHECK(signal.Awaited());
  results.clear();
  signal.Fire();
  CHECK(*results[0] == 10);
}

TEST_CASE("CoDoMany: an executor that throws or drops its task fails the calls that it had") {
  IntGroup group;
  Results results;
  const auto refuses = [](const auto&) { throw std::runtime_error("the pool is closed"); };
  const Routine first = AskOn(refuses, group, {1, 2}, MustNotRun, results);
  CHECK_THROWS_WITH(*results[0], "the pool is closed");
  CHECK_THROWS_WITH(*results[1], "the pool is closed");

  const auto drops = [](const auto&) {};
  const Routine second = AskOn(drops, group, {1, 2}, MustNotRun, results);
  CHECK(ErrorOfKey(results[0]) == std::errc::owner_dead);
  CHECK(ErrorOfKey(results[1]) == std::errc::owner_dead);

  // What has run has landed. What was refused is not run later.
  const auto runs_and_throws = [](const auto& task) {
    task();
    throw std::runtime_error("too late");
  };
  const Routine third = AskOn(runs_and_throws, group, {1}, TenTimes, results);
  CHECK(*results[0] == 10);
  std::function<void()> kept;
  const auto keeps_and_throws = [&](const auto& task) {
    kept = task;
    throw std::runtime_error("the pool is closed");
  };
  const Routine fourth = AskOn(keeps_and_throws, group, {1}, MustNotRun, results);
  CHECK_THROWS_WITH(*results[0], "the pool is closed");
  kept();
  CHECK(group.GetStats() == Stats{.executions = 6, .failures = 5});
}

TEST_CASE(
    "CoDoMany: a pool does not stop if its threads ask for keys whose work waits behind them") {
  // One thread runs what is posted. DoMany would block it, and key 2 would never be loaded.
  IntGroup group;
  Later pool;
  Results results;
  std::optional<singleflight::Future<int>> two;
  pool([&] {
    two = singleflight::DoAsync(
        group, 2, [] { return 20; }, pool);
  });
  Routine handler;
  pool([&] { handler = AskOn(pool, group, {1, 2}, TenTimes, results); });
  pool.RunAll();
  REQUIRE(handler.Done());
  CHECK(*results[0] == 10);
  CHECK(*results[1] == 20);
  CHECK(*two->Get() == 20);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1});
}

TEST_CASE("CoDoMany: after the function, an executor, a stop token and a resumption may follow") {
  IntGroup group;
  int ran = 0;
  const auto here = [&](const auto& task) {
    ++ran;
    task();
  };
  const auto resume_on = [](std::coroutine_handle<> handle) { handle.resume(); };
  StopSource stop;
  int sum = 0;
  const auto ask = [&]() -> Routine {
    const Keys keys{1};
    sum += *(co_await CoDoMany(group, keys, TenTimes))[0];
    sum += *(co_await CoDoMany(group, keys, TenTimes, stop.get_token()))[0];
    sum += *(co_await CoDoMany(group, keys, TenTimes, {}, resume_on))[0];
    sum += *(co_await CoDoMany(group, keys, TenTimes, here))[0];
    sum += *(co_await CoDoMany(group, keys, TenTimes, here, stop.get_token()))[0];
    sum += *(co_await CoDoMany(group, keys, TenTimes, here, {}, resume_on))[0];
  };
  const Routine routine = ask();
  CHECK(sum == 60);
  CHECK(ran == 3);
}

TEST_CASE("CoDoMany: a key that a limit refuses has its own error") {
  IntGroup group({.max_calls_in_flight = 2});
  Signal signal;
  Results results;
  const Routine routine = Ask(group, {1, 2, 3}, AwaitSignal(signal), results);
  signal.Fire();
  CHECK(*results[1] == 20);
  CHECK(ErrorOfKey(results[2]) == std::errc::resource_unavailable_try_again);
  CHECK(group.GetStats() == Stats{.executions = 2, .refused = 1});
}

TEST_CASE("CoDoMany: what the function captured and returned is destroyed before its calls land") {
  auto captured = std::make_shared<int>(7);
  struct Range : Keys {
    Range(Keys keys, std::shared_ptr<int> its_owner)
        : Keys(std::move(keys)), owner(std::move(its_owner)) {}
    std::shared_ptr<int> owner;
  };
  struct Looks final : IntGroup::Waiter {
    void OnLanded() noexcept override { uses = owner.use_count(); }
    std::shared_ptr<int> owner;
    long uses = 0;
  };
  IntGroup group;
  Later later;
  Signal signal;
  Results results;
  const auto check = [&](auto ask, auto run) {
    Looks looks;
    looks.owner = captured;
    const Routine routine = ask();
    group.Join(1, looks, [](IntGroup::Lead) {});
    run();
    CHECK(routine.Done());
    CHECK(*results[0] == 10);
    CHECK(looks.uses == 2);  // here, and in `looks`
  };
  const auto on_pool = [&]() -> Routine {
    auto fn = [captured](std::span<const int> keys) { return Range(TenTimes(keys), captured); };
    const Keys keys{1, 2};
    results = co_await CoDoMany(group, keys, std::move(fn), later);
  };
  check(on_pool, [&] { later.RunAll(); });
  const auto awaited = [&]() -> Routine {
    auto fn = [captured, &signal](std::span<const int> keys) -> Task<Range> {
      co_await signal;
      co_return Range(TenTimes(keys), captured);
    };
    const Keys keys{1, 2};
    results = co_await CoDoMany(group, keys, std::move(fn));
  };
  check(awaited, [&] { signal.Fire(); });
  CHECK(captured.use_count() == 1);
}

TEST_CASE("CoDoMany: it can be moved, awaited later, or not at all") {
  IntGroup group;
  Results results;
  int runs = 0;
  {
    auto call =
        CoDoMany(group, {1, 2}, [&](std::span<const int> keys) { return ++runs, TenTimes(keys); });
    const auto moved = std::move(call);
  }
  CHECK(group.GetStats() == Stats());

  const auto later = [&]() -> Routine {
    auto call =
        CoDoMany(group, {1, 2}, [&](std::span<const int> keys) { return ++runs, TenTimes(keys); });
    auto moved = std::move(call);
    results = co_await std::move(moved);
  };
  const Routine first = later();
  CHECK(*results[1] == 20);
  CHECK(runs == 1);
}

namespace {

// A coroutine whose await_transform passes every awaitable on.
struct Passing {
  struct promise_type : FireAndForget::promise_type {
    Passing get_return_object() noexcept { return {}; }
    template <class Awaitable>
    Awaitable&& await_transform(Awaitable&& awaitable) {
      return std::forward<Awaitable>(awaitable);
    }
  };
};

// A coroutine whose await_transform keeps the awaitable in an object of its own, as folly's does.
struct Keeping {
  template <class Awaitable>
  struct Kept {
    auto operator co_await() && { return std::move(awaitable).operator co_await(); }
    Awaitable awaitable;
  };
  struct promise_type : FireAndForget::promise_type {
    Keeping get_return_object() noexcept { return {}; }
    template <class Awaitable>
    Kept<Awaitable> await_transform(Awaitable&& awaitable) {
      return {std::forward<Awaitable>(awaitable)};
    }
  };
};

template <class Coroutine>
Coroutine Sum(IntGroup& group, Signal& signal, int& sum) {
  const auto fn = AwaitSignal(signal);
  const Keys keys{1, 2};
  for (const auto& result : co_await CoDoMany(group, keys, fn)) sum += *result;
  for (const auto& result : co_await CoDoMany(group, keys, TenTimes)) sum += *result;
}

}  // namespace

TEST_CASE("CoDoMany: it works in coroutines that transform what they await") {
  IntGroup group;
  Signal signal;
  int sum = 0;
  Sum<Passing>(group, signal, sum);
  signal.Fire();
  CHECK(sum == 60);
  Sum<Keeping>(group, signal, sum);
  signal.Fire();
  CHECK(sum == 120);
}

TEST_CASE("CoDoMany: a ReadThrough's hits, calls in flight and misses come in one batch") {
  FakeCache<int> cache;
  cache.Fill("hit", 1);
  singleflight::ReadThrough<std::string, int, FakeCache<int>&> users(cache);
  Signal signal;
  std::vector<std::string> got;
  Results results;
  const auto load = [&](std::span<const std::string> missing) -> Task<std::map<std::string, int>> {
    got.assign(missing.begin(), missing.end());
    co_await signal;
    co_return std::map<std::string, int>{{"miss", 3}, {"other", 4}};
  };
  const auto ask = [&](std::vector<std::string> keys) -> Routine {
    results = co_await CoDoMany(users, keys, load);
  };
  Silent waiter;
  std::optional<decltype(users)::Lead> lead;
  users.Join("followed", waiter,
             [&](decltype(users)::Lead its_lead) { lead = std::move(its_lead); });
  const Routine routine = ask({"miss", "hit", "followed", "hit", "other"});
  CHECK(got == std::vector<std::string>{"miss", "other"});
  signal.Fire();
  CHECK_FALSE(routine.Done());
  lead->Succeed(2);
  REQUIRE(routine.Done());
  CHECK(*results[0] == 3);
  CHECK(*results[1] == 1);
  CHECK(*results[2] == 2);
  CHECK(*results[3] == 1);
  CHECK(*results[4] == 4);
  CHECK(cache.Peek("miss") == 3);
  CHECK(cache.Peek("followed") == 2);

  const Routine cached = ask({"miss", "hit", "other"});
  CHECK(cached.Done());
  CHECK(*results[2] == 4);
  CHECK(users.GetStats().loads == 3);
}

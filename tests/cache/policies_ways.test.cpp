// SPDX-License-Identifier: MIT

// Tests that every way of waiting has the policies of a ReadThrough. Lambdas that capture by value
// are named before they are awaited: see coro.hpp on GCC 12.

#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "policy_support.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Cached;
using singleflight::CoDo;
using singleflight::CoDoMany;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::DoThen;
using singleflight::KeyResult;
using Clock = PolicyClock;

namespace {

using Users = InVirtualTime<int>;

// Users whose values for "a" and "b" have expired, and refreshes that wait for Run.
struct Expired {
  Expired() : users({.ttl = 10ms, .stale_for = 100ms, .executor = later.Executor()}) {
    users.Put("a", 1);
    users.Put("b", 2);
    Clock::Pass(10ms);
  }
  // After the refresh.
  void CheckRefreshed(std::size_t loads = 1) {
    CHECK(users.GetStats().loads == loads);
    CHECK(users.GetStats().calls.in_flight == 0);
    CHECK(*users.Get("a", MustNotLoad) == 10);
  }

  TaskQueue later;
  Users users;
};

int Load() { return 10; }

std::vector<int> LoadAll(std::span<const std::string> keys) {
  std::vector<int> values;
  for (const std::string& key : keys) values.push_back(key == "a" ? 10 : key == "b" ? 20 : 30);
  return values;
}

std::vector<int> ValuesOf(std::vector<KeyResult<int>> results) {
  std::vector<int> values;
  for (const auto& result : results) values.push_back(*result);
  return values;
}

template <class Fn>
Routine Await(Users& users, Fn& load, std::optional<int>& value) {
  value = *co_await CoDo(users, "a", load);
}
template <class Fn, class Executor>
Routine AwaitOn(Users& users, Fn& load, Executor executor, std::optional<int>& value) {
  value = *co_await CoDo(users, "a", load, executor);
}
template <class Fn>
Routine AwaitMany(Users& users, const std::vector<std::string>& keys, Fn& load,
                  std::vector<int>& values) {
  values = ValuesOf(co_await CoDoMany(users, keys, load));
}

}  // namespace

TEST_CASE("ReadThrough: DoAsync gets an expired value at once, and its executor refreshes it") {
  Expired expired;
  TaskQueue pool;
  CHECK(*DoAsync(expired.users, "a", Load, pool.Executor()).Get() == 1);
  CHECK(*DoAsync(expired.users, "a", Load, pool.Executor()).Get() == 1);
  CHECK(pool.Run() == 1);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: DoThen gets an expired value at once, and its executor refreshes it") {
  Expired expired;
  TaskQueue pool;
  int got = 0;
  const auto caller =
      DoThen(expired.users, "a", Load, pool.Executor(), [&](KeyResult<int> user) { got = *user; });
  CHECK(got == 1);
  CHECK(pool.Run() == 1);
  CHECK(got == 1);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: a caller in DoThen may leave while the executor gets the refresh") {
  Expired expired;
  TaskQueue pool;
  int got = 0;
  const auto captured = std::make_shared<int>();
  singleflight::Caller caller;
  const auto executor = [&](auto task) {
    CHECK(caller.Leave());
    pool.Executor()(std::move(task));
  };
  DoThen(caller, expired.users, "a", Load, executor,
         [&got, captured](KeyResult<int> user) { got = *user; });
  CHECK(got == 0);
  CHECK(captured.use_count() == 1);  // the callback is gone
  CHECK(pool.Run() == 1);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: CoDo gets an expired value at once, and waits for no plain function") {
  Expired expired;
  std::optional<int> value;
  const Routine routine = Await(expired.users, Load, value);
  CHECK(value == 1);
  CHECK(expired.users.GetStats().calls.in_flight == 1);
  CHECK(expired.later.Run() == 1);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: CoDo with an executor gives it the refresh") {
  Expired expired;
  TaskQueue pool;
  std::optional<int> value;
  const Routine routine = AwaitOn(expired.users, Load, pool.Executor(), value);
  CHECK(value == 1);
  CHECK(pool.Run() == 1);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: CoDo refreshes by a coroutine that nobody waits for") {
  Expired expired;
  Signal upstream;
  std::optional<int> value;
  const auto load = [&upstream]() -> Task<int> {
    co_await upstream;
    co_return 10;
  };
  const Routine routine = Await(expired.users, load, value);
  CHECK(value == 1);
  upstream.Fire();
  CHECK(expired.later.Count() == 0);
  expired.CheckRefreshed();
}

TEST_CASE("ReadThrough: DoMany that has all values, if expired, waits for no load") {
  Expired expired;
  CHECK(ValuesOf(DoMany(expired.users, {"a", "b"}, LoadAll)) == std::vector{1, 2});
  CHECK(expired.users.GetStats().calls.in_flight == 2);
  CHECK(expired.later.Run() == 1);  // one load for both
  expired.CheckRefreshed(2);
  CHECK(*expired.users.Get("b", MustNotLoad) == 20);
}

TEST_CASE("ReadThrough: DoMany that must load one key refreshes the others by the same load") {
  Expired expired;
  int loads = 0;
  const auto load = [&](std::span<const std::string> keys) {
    ++loads;
    return LoadAll(keys);
  };
  CHECK(ValuesOf(DoMany(expired.users, {"a", "c", "b"}, load)) == std::vector{1, 30, 2});
  CHECK(loads == 1);
  CHECK(expired.later.Count() == 0);
  expired.CheckRefreshed(3);
}

TEST_CASE(
    "ReadThrough: if the executor throws, DoMany has its values, and the next one refreshes") {
  bool throws = true;
  TaskQueue later;
  Users users({.ttl = 10ms, .stale_for = 100ms, .executor = [&](std::function<void()> task) {
                 if (throws) throw std::runtime_error("the pool is full");
                 later.Executor()(std::move(task));
               }});
  users.Put("a", 1);
  Clock::Pass(10ms);
  CHECK(ValuesOf(DoMany(users, {"a"}, LoadAll)) == std::vector{1});
  CHECK(users.GetStats().calls.in_flight == 0);
  throws = false;
  CHECK(ValuesOf(DoMany(users, {"a"}, LoadAll)) == std::vector{1});
  CHECK(later.Run() == 1);
  CHECK(users.Peek("a") == 10);
}

TEST_CASE("ReadThrough: DoManyAsync gives the refreshes to its executor") {
  Expired expired;
  TaskQueue pool;
  auto futures = DoManyAsync(expired.users, {"a", "b"}, LoadAll, pool.Executor());
  CHECK(*futures[0].Get() == 1);
  CHECK(*futures[1].Get() == 2);
  CHECK(pool.Run() == 1);
  expired.CheckRefreshed(2);
}

TEST_CASE("ReadThrough: CoDoMany that has all values, if expired, waits for no plain function") {
  Expired expired;
  const std::vector<std::string> keys = {"a", "b"};
  std::vector<int> values;
  const Routine routine = AwaitMany(expired.users, keys, LoadAll, values);
  CHECK(values == std::vector{1, 2});
  CHECK(expired.users.GetStats().calls.in_flight == 2);
  CHECK(expired.later.Run() == 1);
  expired.CheckRefreshed(2);
}

TEST_CASE("ReadThrough: CoDoMany that must load one key refreshes the others by the same load") {
  Expired expired;
  const std::vector<std::string> keys = {"a", "c"};
  std::vector<int> values;
  const Routine routine = AwaitMany(expired.users, keys, LoadAll, values);
  CHECK(values == std::vector{1, 30});
  CHECK(expired.later.Count() == 0);
  expired.CheckRefreshed(2);
}

TEST_CASE("ReadThrough: after a failure, no way of waiting loads again, and all get the failure") {
  Users users({.retry_after = 1h});
  CountedLoad load;
  CHECK_THROWS_WITH(DoAsync(users, "a", load.Failing(), [](auto task) { task(); }).Get(),
                    "the source is down");
  CHECK_THROWS_WITH(users.Get("a", Load), "the source is down");
  CHECK_THROWS_WITH(DoAsync(users, "a", Load).Get(), "the source is down");
  std::string message;
  const auto callback = [&](KeyResult<int> user) {
    try {
      static_cast<void>(user.result());
    } catch (const std::exception& error) {
      message = error.what();
    }
  };
  const auto caller = DoThen(users, "a", Load, callback);
  CHECK(message == "the source is down");
  CHECK_FALSE(DoMany(users, {"a"}, LoadAll).front().has_value());
  CHECK(load.count == 1);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough: a load that is run by an executor may say how long its value lives") {
  Users users({.ttl = 1h});
  const auto load = [] { return Cached(1, {.ttl = 10ms}); };
  const auto lives = [&] {
    const auto had = users.Peek("a");
    Clock::Pass(10ms);
    return had == 1 && !users.Peek("a").has_value();
  };
  CHECK(*DoAsync(users, "a", load, [](auto task) { task(); }).Get() == 1);
  CHECK(lives());
  int got = 0;
  const auto caller = DoThen(
      users, "a", load, [](auto task) { task(); }, [&](KeyResult<int> user) { got = *user; });
  CHECK(got == 1);
  CHECK(lives());
  std::optional<int> value;
  const Routine routine = Await(users, load, value);
  CHECK(value == 1);
  CHECK(lives());
  const Routine other = AwaitOn(
      users, load, [](auto task) { task(); }, value);
  CHECK(lives());
  const auto retried = [&] {
    return DoAsync(
        users, "a", load, [](auto task) { task(); }, singleflight::OnFailure::kRetry);
  };
  CHECK(*retried().Get() == 1);
  CHECK(lives());
}

TEST_CASE("ReadThrough: a plain function may take a stop token in a refresh, and is not asked to") {
  Expired expired;
  std::optional<int> value;
  const auto load = [](singleflight::StopToken stop) { return stop.stop_requested() ? -1 : 10; };
  const Routine routine = Await(expired.users, load, value);
  CHECK(value == 1);
  expired.later.Run();
  expired.CheckRefreshed();
}

// SPDX-License-Identifier: MIT

// Tests ReadThrough with callers that do not block and with threads that are cancelled. Lambdas
// that capture by value are named before they are awaited: see coro.hpp on GCC 12.

#include <pthread.h>

#include <array>
#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <span>

#include "fake_cache.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::ReadThrough;
using singleflight::Role;

namespace {

using IntCache = FakeCache<int>;
using Users = ReadThrough<std::string, int, IntCache&>;

int MustNotRun() { throw std::logic_error("this load must not run"); }

// An executor that keeps its tasks until Run.
struct Later {
  template <class Task>
  void operator()(Task task) {
    tasks.push_back(std::move(task));
  }
  void Run() {
    for (const auto& task : std::exchange(tasks, {})) task();
  }
  std::vector<std::function<void()>> tasks;
};

template <class G, class Fn = int (&)()>
Routine Ask(G& users, Outcome<int>& outcome, Fn&& load = MustNotRun, StopToken stop = {}) {
  try {
    const auto result = co_await CoDo(users, "key", load, stop);
    outcome.value = *result;
    outcome.shared = result.shared();
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  } catch (const std::exception& error) {
    outcome.message = error.what();
  }
}

auto AwaitSignal(Signal& signal, int value) {
  return [&signal, value]() -> Task<int> {
    co_await signal;
    co_return value;
  };
}

#if TEST_UNWINDS_CANCELLED_THREADS
// Makes a load that runs until its thread is cancelled.
auto BeCancelled(std::latch& begun) {
  return [&begun]() -> int {
    begun.count_down();
    for (;;) pthread_testcancel();
  };
}
#endif

}  // namespace

TEST_CASE("ReadThrough: DoAsync returns a ready Future for a cached value") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  Later later;
  auto future = DoAsync(users, "key", MustNotRun, later);
  CHECK(later.tasks.empty());
  CHECK(future.WaitFor(0s) == std::future_status::ready);
  const auto result = future.Get();
  CHECK(*result == 1);
  CHECK_FALSE(result.shared());
  CHECK(users.GetStats().hits == 1);
}

TEST_CASE("ReadThrough: a Future of a cached value can be shared, dropped and waited for") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  { const auto dropped = DoAsync(users, "key", MustNotRun); }
  const singleflight::SharedFuture<int> shared = DoAsync(users, "key", MustNotRun);
  shared.Wait();
  CHECK(*shared.Get() == 1);
  CHECK(*shared.Get() == 1);
}

TEST_CASE(
    "ReadThrough: DoAsync loads once, and the value is in the cache when the Future is ready") {
  IntCache cache;
  Users users(cache);
  Later later;
  auto first = DoAsync(
      users, "key", [] { return 1; }, later);
  auto second = DoAsync(users, "key", MustNotRun, later);
  std::future_status during_put = {};
  cache.before_put = [&] { JoiningThread([&] { during_put = first.WaitFor(0s); }).join(); };
  later.Run();
  CHECK(during_put == std::future_status::timeout);
  CHECK(cache.Peek("key") == 1);
  CHECK(*first.Get() == 1);
  CHECK(*second.Get() == 1);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough: futures, coroutines and blocked threads are callers of one load") {
  IntCache cache;
  Users users(cache);
  Later later;
  auto future = DoAsync(
      users, "key", [] { return 1; }, later);
  Outcome<int> of_coroutine;
  const Routine coroutine = Ask(users, of_coroutine);
  Caller thread([&] { return users.Get("key", MustNotRun); });
  AwaitCallers(users, "key", 3);
  later.Run();
  CHECK(*future.Get() == 1);
  CHECK(of_coroutine.value == 1);
  CHECK(thread.Join().value == 1);
  CHECK(thread.Join().shared);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough: a load in DoAsync that began before Invalidate does not put its value") {
  IntCache cache;
  Users users(cache);
  Later later;
  auto before = DoAsync(
      users, "key", [] { return 1; }, later);
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  later.Run();
  CHECK(*before.Get() == 1);
  CHECK(cache.Peek("key") == 2);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough: in DoAsync too, a load that landed since the miss is not repeated") {
  IntCache cache;
  Users users(cache);
  cache.after_get = [&] {
    cache.after_get = nullptr;
    CHECK(*users.Get("key", [] { return 1; }) == 1);
  };
  CHECK(*DoAsync(users, "key", MustNotRun).Get() == 1);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("Promise 11: a value that was loaded for a dropped Future is put") {
  IntCache cache;
  Users users(cache);
  Later later;
  {
    const auto dropped = DoAsync(
        users, "key", [] { return 1; }, later);
  }
  later.Run();
  CHECK(cache.Peek("key") == 1);
  CHECK(users.GetStats().outdated == 0);
}

TEST_CASE("Promise 11: a value whose load was asked to stop, for a dropped Future, is not put") {
  IntCache cache;
  Users users(cache);
  Later later;
  {
    const auto dropped = DoAsync(
        users, "key", [](StopToken) { return 1; }, later);
  }
  later.Run();
  CHECK(cache.puts == 0);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE(
    "Promise 11: callers that wait less long than a load takes leave its value in the cache") {
  IntCache cache;
  Users users(cache);
  Later later;
  for (int i = 0; i < 30; ++i) {
    const auto dropped = DoAsync(
        users, "key", [] { return 1; }, later);
  }
  later.Run();
  CHECK(users.GetStats().loads == 1);
  CHECK(*users.Get("key", MustNotRun) == 1);
}

TEST_CASE("ReadThrough: when the cache throws in Put, Futures still get the value") {
  IntCache cache;
  cache.before_put = [] { throw 42; };  // NOLINT(hicpp-exception-baseclass): any type may be thrown
  Users users(cache);
  CHECK(*DoAsync(users, "key", [] { return 1; }).Get() == 1);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough: if the executor throws, its call fails and nothing is put") {
  IntCache cache;
  Users users(cache);
  const auto full = [](auto) { throw std::runtime_error("the pool is full"); };
  auto future = DoAsync(
      users, "key", [] { return 1; }, full);
  CHECK_THROWS_WITH(future.Get(), "the pool is full");
  CHECK(cache.puts == 0);
}

TEST_CASE("ReadThrough: the destructor asks loads to stop, waits for them and puts nothing more") {
  IntCache cache;
  JoiningThread loading;
  singleflight::Future<int> future;  // stays a caller after the destructor
  {
    Users users(cache);
    future = DoAsync(
        users, "key",
        [](StopToken stop) {
          Await([&] { return stop.stop_requested(); });
          return -1;
        },
        [&](auto task) { loading = JoiningThread(task); });
  }
  CHECK(cache.puts == 0);
}

TEST_CASE("ReadThrough: a coroutine gets a cached value at once") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  Outcome<int> outcome;
  const Routine coroutine = Ask(users, outcome);
  CHECK(coroutine.Done());
  CHECK(outcome.value == 1);
  CHECK_FALSE(outcome.shared);
}

TEST_CASE(
    "ReadThrough: ten thousand coroutines cost one load, whose value is put before they resume") {
  IntCache cache;
  Users users(cache);
  Signal answer;
  std::vector<Outcome<int>> outcomes(10'000);
  std::vector<Routine> coroutines;
  for (auto& outcome : outcomes) coroutines.push_back(Ask(users, outcome, AwaitSignal(answer, 1)));
  CHECK(users.Callers("key") == outcomes.size());
  cache.before_put = [&] { CHECK_FALSE(outcomes[0].value.has_value()); };
  answer.Fire();
  int right = 0;
  for (const auto& outcome : outcomes) right += outcome.value == 1 && outcome.shared;
  CHECK(right == 10'000);
  CHECK(users.GetStats().loads == 1);
  CHECK(cache.puts == 1);
}

TEST_CASE("ReadThrough: an awaited load that began before Invalidate does not put its value") {
  IntCache cache;
  Users users(cache);
  Signal answer;
  Outcome<int> before, after;
  const Routine first = Ask(users, before, AwaitSignal(answer, 1));
  users.Invalidate("key");
  const Routine second = Ask(users, after, [] { return 2; });
  CHECK(after.value == 2);
  answer.Fire();
  CHECK(before.value == 1);
  CHECK(cache.Peek("key") == 2);
}

TEST_CASE("Promise 11: an awaited load whose only caller was stopped fills the cache") {
  IntCache cache;
  Users users(cache);
  Signal answer;
  StopSource stop;
  Outcome<int> outcome;
  const Routine coroutine = Ask(users, outcome, AwaitSignal(answer, 1), stop.get_token());
  stop.request_stop();
  CHECK(outcome.error == std::errc::operation_canceled);
  answer.Fire();
  CHECK(cache.Peek("key") == 1);
}

TEST_CASE("ReadThrough: a background Refresh runs once, on the executor") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  Later later;
  CHECK(users.Refresh(
            "key", [] { return 2; }, later) == Role::kLeader);
  CHECK(users.Refresh("key", MustNotRun, later) == Role::kFollower);
  CHECK(*users.Get("key", MustNotRun) == 1);
  CHECK(later.tasks.size() == 1);
  later.Run();
  CHECK(*users.Get("key", MustNotRun) == 2);
  CHECK(users.GetStats().loads == 1);
  CHECK(users.GetStats().calls == singleflight::Stats{.executions = 1});
}

TEST_CASE("ReadThrough: a stuck Refresh that is too old does not keep another from running") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache, {.group = {.max_age = 1ns}});
  Later stuck, later;
  CHECK(users.Refresh(
            "key", [] { return 2; }, stuck) == Role::kLeader);
  CHECK(users.Refresh(
            "key", [] { return 3; }, later) == Role::kLeader);
  later.Run();
  stuck.Run();
  CHECK(*users.Get("key", MustNotRun) == 3);
}

TEST_CASE("ReadThrough: a background Refresh that fails is counted") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  const auto at_once = [](auto task) { task(); };
  const auto full = [](auto) { throw std::runtime_error("the pool is full"); };
  users.Refresh(
      "key", []() -> int { throw std::runtime_error("no such user"); }, at_once);
  users.Refresh(
      "key", [] { return 2; }, full);
  users.Refresh(
      "key", [] { return 2; }, [](auto) { /* drops its task */ });
  CHECK(users.GetStats().calls.failures == 3);
  CHECK(*users.Get("key", MustNotRun) == 1);
}

TEST_CASE("ReadThrough: DoMany loads only the keys that are neither cached nor in flight") {
  IntCache cache;
  cache.Fill("cached", 1);
  Users users(cache);
  Later later;
  auto in_flight = DoAsync(
      users, "in flight", [] { return 2; }, later);
  std::vector<std::string> loaded;
  const std::vector<std::string> keys = {"cached", "in flight", "missing", "cached", "missing too"};
  const auto found = DoMany(users, keys, [&](std::span<const std::string> missing) {
    loaded.assign(missing.begin(), missing.end());
    later.Run();
    return std::vector<int>{3, 4};
  });
  CHECK(loaded == std::vector<std::string>{"missing", "missing too"});
  std::vector<int> values;
  for (const auto& value : found) values.push_back(*value);
  CHECK(values == std::vector<int>{1, 2, 3, 1, 4});
  CHECK(cache.Peek("missing") == 3);
  CHECK(cache.Peek("missing too") == 4);
  CHECK(*in_flight.Get() == 2);
}

TEST_CASE("ReadThrough: DoMany does not put a key that was invalidated while it loaded") {
  IntCache cache;
  Users users(cache);
  const auto found = DoMany(users, {"a", "b"}, [&](std::span<const std::string>) {
    users.Invalidate("a");
    return std::vector<int>{1, 2};
  });
  CHECK(*found[0] == 1);
  CHECK_FALSE(cache.Peek("a").has_value());
  CHECK(cache.Peek("b") == 2);
}

TEST_CASE("ReadThrough: only the first copy of a Lead to land the call puts its value") {
  IntCache cache;
  Users users(cache);
  std::optional<Users::Lead> lead;
  auto future = users.Join("key", [&](Users::Lead its_lead) { lead.emplace(its_lead); });
  CHECK(lead->Succeed(1));
  CHECK(cache.Peek("key") == 1);
  cache.Clear();
  CHECK_FALSE(Users::Lead(*lead).Succeed(2));
  CHECK(cache.puts == 1);
  CHECK(*future.Get() == 1);
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE(
    "ReadThrough: a thread that is cancelled in its load puts nothing, and the key is free again") {
  IntCache cache;
  Users users(cache);
  std::latch in_load(1);
  CancellableThread thread([&] { static_cast<void>(users.Get("key", BeCancelled(in_load))); });
  in_load.wait();
  Caller follower([&] { return users.Get("key", MustNotRun); });
  AwaitCallers(users, "key", 2);
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(follower.Join().error == std::errc::owner_dead);
  CHECK(cache.puts == 0);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
}
#endif

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("ReadThrough: a thread that is cancelled in the cache's Put makes nobody hang") {
  IntCache cache;
  Users users(cache);
  std::latch in_put(1);
  cache.before_put = BeCancelled(in_put);
  CancellableThread thread([&] { static_cast<void>(users.Get("key", [] { return 1; })); });
  in_put.wait();
  Caller follower([&] { return users.Get("key", MustNotRun); });
  AwaitCallers(users, "key", 2);
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(follower.Join().error == std::errc::owner_dead);
  cache.before_put = nullptr;
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(cache.Peek("key") == 2);
}
#endif

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("ReadThrough: a thread that is cancelled in Put for a batch makes nobody hang") {
  IntCache cache;
  Users users(cache);
  std::latch in_put(1);
  cache.before_put = BeCancelled(in_put);
  CancellableThread thread([&] {
    static_cast<void>(DoMany(users, {"key", "other"}, [](std::span<const std::string>) {
      return std::vector<int>{1, 2};
    }));
  });
  in_put.wait();
  Caller follower([&] { return users.Get("key", MustNotRun); });
  Caller of_other([&] { return users.Get("other", MustNotRun); });
  AwaitCallers(users, "key", 2);
  AwaitCallers(users, "other", 2);
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(follower.Join().value == 1);  // its value had been loaded
  CHECK(of_other.Join().error == std::errc::owner_dead);
}
#endif

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE(
    "ReadThrough: a thread that is cancelled in a background Refresh leaves no call in flight") {
  IntCache cache;
  Users users(cache);
  std::latch in_load(1), in_executor(1);
  SECTION("the thread is inside the load") {
    CancellableThread thread(
        [&] { users.Refresh("key", BeCancelled(in_load), [](auto task) { task(); }); });
    in_load.wait();
    thread.Cancel();
    CHECK(thread.JoinWasUnwound());
    CHECK(users.GetStats().calls.failures == 1);
    CHECK(*users.Get("key", [] { return 2; }) == 2);
  }
  SECTION("the thread is inside the executor, which has kept the task") {
    Later later;
    CancellableThread thread([&] {
      users.Refresh(
          "key", [] { return 1; },
          [&](auto task) {
            later(std::move(task));
            BeCancelled(in_executor)();
          });
    });
    in_executor.wait();
    thread.Cancel();
    CHECK(thread.JoinWasUnwound());
    later.Run();
    CHECK(*users.Get("key", MustNotRun) == 1);
  }
  CHECK(users.Callers("key") == 0);
}
#endif

// The leader's Put waits for a call of another group, whose fn waits for the leader.
template <class Ask>
void PutInACircle(Ask&& ask) {
  IntCache cache;
  Users users(cache);
  singleflight::Group<int, int> other;
  std::latch other_leads(1);
  cache.before_put = [&] {
    AwaitCallers(users, "key", 2);
    static_cast<void>(other.Do(1, MustNotRun));
  };
  Caller leader([&] {
    return ask(users, [&] {
      other_leads.wait();
      return 5;
    });
  });
  AwaitCallers(users, "key", 1);
  Caller follower([&] {
    return other.Do(1, [&] {
      other_leads.count_down();
      return users.Get("key", MustNotRun).value();
    });
  });
  CHECK(leader.Join().value == 5);
  CHECK(follower.Join().value == 5);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE("Promise 9: a deadlock through the cache's Put is an error of the Put") {
  PutInACircle([](Users& users, const auto& load) { return users.Get("key", load); });
}

TEST_CASE("Promise 9: a deadlock through Put in an asynchronous call is an error of the Put") {
  PutInACircle([](Users& users, const auto& load) { return DoAsync(users, "key", load).Get(); });
}

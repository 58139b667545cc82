// SPDX-License-Identifier: MIT

// Tests DoAsync and DoThen on a redis::Group.

#include <pthread.h>

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/group.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "server.hpp"
#include "support/allocations.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// The outcome of a callback, for the test's thread.
template <class Value>
struct Told {
  std::promise<KeyResult<Value>> promise;
  std::future<KeyResult<Value>> future = promise.get_future();

  auto Callback() {
    return [this](KeyResult<Value> result) { promise.set_value(std::move(result)); };
  }
};

std::errc CodeOf(const std::exception_ptr& error) {
  return ErrorOf([&]() -> int { std::rethrow_exception(error); }).value();
}

// An executor that runs each task before it returns.
const auto kInline = [](const auto& task) { task(); };

}  // namespace

TEST_CASE("fleet DoAsync: a caller that is alone leads, and fn runs where the executor says") {
  const RedisServer server;
  TaskThread worker;
  RedisPages pages(server);
  std::promise<std::thread::id> ran_on;
  Future<std::string> page = DoAsync(
      pages, "k",
      [&] {
        ran_on.set_value(std::this_thread::get_id());
        return "v"s;
      },
      worker.Executor());
  const Result<std::string> result = page.Get();
  CHECK(*result == "v");
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(ran_on.get_future().get() == worker.Id());
  CHECK(pages.GetStats().executions == 1);
  AwaitNothingOn(server);
}

TEST_CASE("fleet DoAsync: callers of a process share one execution, and so do those of another") {
  const RedisServer server;
  RedisPages here(server), there(server);
  HeldFn work;
  Future<std::string> leader = DoAsync(here, "k", [&] {
    work.Run();
    return "v"s;
  });
  work.AwaitBegun();
  Future<std::string> beside = DoAsync(here, "k", NeverRun);
  Future<std::string> elsewhere = DoAsync(there, "k", NeverRun);
  AwaitFollower(server, "k");
  work.Finish();
  const Outcome<std::string> second = Keep([&] { return beside.Get(); });
  const Outcome<std::string> third = Keep([&] { return elsewhere.Get(); });
  CHECK(Keep([&] { return leader.Get(); }).role == Role::kLeader);
  for (const Outcome<std::string>& each : {second, third}) {
    CHECK(each.value == "v");
    CHECK(each.shared);
    CHECK(each.role == Role::kFollower);
  }
  CHECK(work.Runs() == 1);
  CHECK(there.GetStats().remote == 1);
  CHECK(there.GetStats().executions == 0);
}

TEST_CASE(
    "fleet DoAsync: void, a value that only moves and one of a megabyte reach other processes") {
  const RedisServer server;
  SECTION("void") {
    RedisProcess<void> here(server), there(server);
    HeldFn work;
    Future<void> leader = DoAsync(here, "k", [&] { work.Run(); });
    work.AwaitBegun();
    Future<void> follower = DoAsync(there, "k", [] { throw std::logic_error("fn was run"); });
    AwaitFollower(server, "k");
    work.Finish();
    CHECK_NOTHROW(leader.Get());
    CHECK(follower.Get().role() == Role::kFollower);
  }
  SECTION("only moves") {
    RedisProcess<MovableNumber> here(server), there(server);
    HeldFn work;
    Future<MovableNumber> leader = DoAsync(here, "k", [&] {
      work.Run();
      return MovableNumber(42);
    });
    work.AwaitBegun();
    Future<MovableNumber> follower = DoAsync(there, "k", [] { return MovableNumber(0); });
    AwaitFollower(server, "k");
    work.Finish();
    CHECK(*leader.Get()->number == 42);
    CHECK(*follower.Get()->number == 42);
  }
  SECTION("a megabyte") {
    RedisPages here(server), there(server);
    const std::string large(std::size_t{1} << 20, 'x');
    HeldFn work;
    Future<std::string> leader = DoAsync(here, "k", [&] {
      work.Run();
      return large;
    });
    work.AwaitBegun();
    Future<std::string> follower = DoAsync(there, "k", NeverRun);
    AwaitFollower(server, "k");
    work.Finish();
    CHECK(*leader.Get() == large);
    CHECK(*follower.Get() == large);
  }
}

TEST_CASE("fleet DoAsync: what fn throws reaches its process unchanged, and another as it can") {
  const RedisServer server;
  RedisPages here(server), there(server);
  HeldFn work;
  const auto throws = [&](auto error) {
    return [&work, error]() -> std::string {
      work.Run();
      throw error;
    };
  };
  SECTION("a system_error keeps its code everywhere") {
    Future<std::string> leader =
        DoAsync(here, "k", throws(std::system_error(std::make_error_code(std::errc::io_error))));
    work.AwaitBegun();
    Future<std::string> follower = DoAsync(there, "k", NeverRun);
    AwaitFollower(server, "k");
    work.Finish();
    CHECK(ErrorOf([&] { return leader.Get(); }) == std::errc::io_error);
    CHECK(ErrorOf([&] { return follower.Get(); }) == std::errc::io_error);
  }
  SECTION("another exception is a RemoteError elsewhere") {
    Future<std::string> leader = DoAsync(here, "k", throws(std::out_of_range("too far")));
    work.AwaitBegun();
    Future<std::string> follower = DoAsync(there, "k", NeverRun);
    AwaitFollower(server, "k");
    work.Finish();
    CHECK_THROWS_AS(leader.Get(), std::out_of_range);
    CHECK_THROWS_AS(follower.Get(), redis::RemoteError);
  }
}

TEST_CASE("fleet DoAsync: an executor that throws fails the call, in every process") {
  const RedisServer server;
  RedisPages pages(server);
  Future<std::string> page =
      DoAsync(pages, "k", NeverRun, [](const auto&) { throw std::runtime_error("full"); });
  CHECK_THROWS_WITH(page.Get(), "full");
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
}

TEST_CASE("fleet DoAsync: if the executor drops the task, another process takes over at once") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::promise<std::function<void()>> given;
  Future<std::string> dropped = DoAsync(
      here, "k", NeverRun, [&](std::function<void()> task) { given.set_value(std::move(task)); });
  std::function<void()> task = given.get_future().get();
  Future<std::string> other = DoAsync(there, "k", [] { return "other"s; });
  AwaitFollower(server, "k");
  task = nullptr;
  CHECK(ErrorOf([&] { return dropped.Get(); }) == std::errc::owner_dead);
  CHECK(*other.Get() == "other");
  CHECK(there.GetStats().takeovers == 1);
}

TEST_CASE("fleet DoAsync: fn never runs on the event loop, and other keys are answered meanwhile") {
  const RedisServer server;
  RedisPages pages(server), others(server);
  HeldFn work;
  std::atomic<bool> on_loop = true;
  Future<std::string> slow = DoAsync(
      pages, "slow",
      [&] {
        on_loop = IsOnLoop(pages);
        work.Run();
        return "slow"s;
      },
      kInline);
  work.AwaitBegun();
  CHECK_FALSE(on_loop);
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  CHECK(*DoAsync(others, "k2", [] { return "w"s; }).Get() == "w");
  work.Finish();
  CHECK(*slow.Get() == "slow");
}

TEST_CASE("fleet DoAsync: a caller that leaves while the server is asked never leads") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");  // it is connected
  server.Stop();
  std::atomic<int> runs = 0;
  Future<std::string> page = DoAsync(pages, "k", [&] {
    ++runs;
    return "v"s;
  });
  CHECK(pages.Callers("k") == 1);
  page = {};
  CHECK(pages.Callers("k") == 0);
  server.Continue();
  AwaitNothingOn(server);
  Await([&] { return pages.GetStats().calls.in_flight == 0; });
  CHECK(runs == 0);
  CHECK(pages.GetStats().calls.failures == 0);
}

TEST_CASE(
    "fleet DoAsync: if the first caller leaves before it leads, another one of it gets the work") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return "v"s;
  };
  Future<std::string> first = DoAsync(pages, "k", fn);
  Future<std::string> second = DoAsync(pages, "k", fn);
  first = {};
  CHECK(pages.Callers("k") == 1);
  server.Continue();
  CHECK(*second.Get() == "v");
  CHECK(runs == 1);
}

TEST_CASE("fleet DoAsync: a caller that leaves another process's call disturbs nobody") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  Future<std::string> follower = DoAsync(there, "k", NeverRun);
  Future<std::string> beside = DoAsync(there, "k", NeverRun);
  AwaitFollower(server, "k");
  follower = {};
  CHECK(there.Callers("k") == 1);
  beside = {};
  CHECK(there.Callers("k") == 0);
  Await([&] { return there.GetStats().calls.in_flight == 0; });
  CHECK(leader.Finish().value == "v");
}

TEST_CASE(
    "fleet DoAsync: when the last caller leaves, fn is asked to stop and another process leads") {
  const RedisServer server;
  RedisPages here(server), there(server);
  HeldFn work;
  Future<std::string> leader = DoAsync(here, "k", [&](const StopToken& stop) {
    work.RunUntil(stop);
    return "late"s;
  });
  work.AwaitBegun();
  Future<std::string> other = DoAsync(there, "k", [] { return "other"s; });
  AwaitFollower(server, "k");
  leader = {};
  CHECK(*other.Get() == "other");
  CHECK(there.GetStats().takeovers == 1);
}

TEST_CASE("fleet DoAsync: with kRetry a caller asks again if another process fails") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return "second"s;
  };
  Future<std::string> first = DoAsync(there, "k", fn, NewThread(), OnFailure::kRetry);
  Future<std::string> second = DoAsync(there, "k", fn, NewThread(), OnFailure::kRetry);
  Future<std::string> shares = DoAsync(there, "k", NeverRun);
  AwaitFollower(server, "k");
  leader.Finish();
  CHECK(*first.Get() == "second");
  CHECK(*second.Get() == "second");
  CHECK_THROWS_AS(shares.Get(), redis::RemoteError);
  CHECK(runs == 1);
}

TEST_CASE("fleet DoAsync: with kRetry a caller whose own fn failed does not run it again") {
  const RedisServer server;
  RedisPages pages(server);
  std::atomic<int> runs = 0;
  Future<std::string> page = DoAsync(
      pages, "k",
      [&]() -> std::string {
        ++runs;
        throw std::runtime_error("no");
      },
      NewThread(), OnFailure::kRetry);
  CHECK_THROWS_WITH(page.Get(), "no");
  CHECK(runs == 1);
  CHECK(pages.GetStats().calls.executions == 1);
}

TEST_CASE("fleet DoAsync: a fn that waits for its own key gets a deadlock, not a hang") {
  const RedisServer server;
  RedisPages pages(server);
  Future<std::string> page =
      DoAsync(pages, "k", [&]() -> std::string { return *DoAsync(pages, "k", NeverRun).Get(); });
  CHECK(ErrorOf([&] { return page.Get(); }) == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("fleet DoAsync: limits refuse callers and calls") {
  const RedisServer server;
  RedisPages pages(server, {.group = {.max_callers_per_call = 1, .max_calls_in_flight = 1}});
  HeldFn work;
  Future<std::string> leader = DoAsync(pages, "k", [&] {
    work.Run();
    return "v"s;
  });
  work.AwaitBegun();
  const auto refused = std::errc::resource_unavailable_try_again;
  CHECK(ErrorOf([&] { return DoAsync(pages, "k", NeverRun); }) == refused);
  CHECK(ErrorOf([&] { return DoAsync(pages, "other", NeverRun); }) == refused);
  work.Finish();
  CHECK(*leader.Get() == "v");
}

TEST_CASE("fleet DoAsync: Close waits for calls of this process, and refuses new ones") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  Future<std::string> follower = DoAsync(there, "k", NeverRun);
  AwaitFollower(server, "k");
  std::promise<void> closed;
  std::future<void> is_closed = closed.get_future();
  JoiningThread closing([&] {
    there.Close();
    closed.set_value();
  });
  Await([&] {
    return ErrorOf([&] { return DoAsync(there, "other", [] { return "w"s; }).Get(); }) ==
           std::errc::resource_unavailable_try_again;
  });
  CHECK(is_closed.wait_for(0s) == std::future_status::timeout);
  leader.Finish();
  is_closed.wait();
  CHECK(*follower.Get() == "v");
}

TEST_CASE("fleet DoAsync: a group that is destroyed while it asks cancels its callers") {
  RedisServer server;
  auto pages = std::make_unique<RedisPages>(server);
  CHECK(*pages->Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  const SharedFuture<std::string> page = DoAsync(*pages, "k", NeverRun);
  JoiningThread continuing([&] {  // the client waits for what was sent
    page.Wait();
    server.Continue();
  });
  pages = nullptr;
  CHECK(ErrorOf([&] { return page.Get(); }) == std::errc::operation_canceled);
}

TEST_CASE("fleet DoAsync: a group that is destroyed while it follows cancels its callers") {
  const RedisServer server;
  RedisPages here(server);
  auto there = std::make_unique<RedisPages>(server);
  RedisLeader leader(here, "k", "v");
  Future<std::string> follower = DoAsync(*there, "k", NeverRun);
  AwaitFollower(server, "k");
  there = nullptr;
  CHECK(ErrorOf([&] { return follower.Get(); }) == std::errc::operation_canceled);
  CHECK(leader.Finish().value == "v");
}

TEST_CASE("fleet DoAsync: a group that is destroyed while it leads asks fn to stop") {
  const RedisServer server;
  auto pages = std::make_unique<RedisPages>(server);
  HeldFn work;
  Future<std::string> page = DoAsync(*pages, "k", [&](const StopToken& stop) {
    work.RunUntil(stop);
    return "late"s;
  });
  work.AwaitBegun();
  pages = nullptr;
  CHECK(*page.Get() == "late");
  AwaitNothingOn(server);
}

TEST_CASE("fleet DoAsync: a fn that is not needed is destroyed when the call lands") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  const auto captured = std::make_shared<int>(0);
  Future<std::string> follower = DoAsync(there, "k", [captured] { return "w"s; });
  AwaitFollower(server, "k");
  leader.Finish();
  const Result<std::string> result = follower.Get();
  CHECK(*result == "v");
  CHECK(captured.use_count() == 1);
}

TEST_CASE("fleet DoAsync: fn and the executor may be of types that only move") {
  const RedisServer server;
  RedisPages pages(server);
  const auto fn = [] { return [own = std::make_unique<std::string>("v")] { return *own; }; };
  const auto executor = [] {
    return [own = std::make_unique<int>(0)](const auto& task) { task(); };
  };
  CHECK(*DoAsync(pages, "k", fn(), executor()).Get() == "v");
  CHECK(*DoAsync(pages, "k", fn(), executor(), OnFailure::kRetry).Get() == "v");
  Told<std::string> told;
  const singleflight::Caller caller = DoThen(pages, "k", fn(), executor(), told.Callback());
  CHECK(told.future.get().value() == "v");
}

TEST_CASE("fleet DoThen: the callback gets the value, on no event loop, or the error") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  Told<std::string> told;
  std::atomic<bool> on_loop = true;
  const singleflight::Caller caller =
      DoThen(there, "k", NeverRun, NewThread(), [&](KeyResult<std::string> result) {
        on_loop = IsOnLoop(there);
        told.promise.set_value(std::move(result));
      });
  AwaitFollower(server, "k");
  leader.Finish();
  const KeyResult<std::string> result = told.future.get();
  CHECK(result.value() == "v");
  CHECK_FALSE(on_loop);
  Told<std::string> failed;
  const singleflight::Caller failing = DoThen(
      there, "k2", []() -> std::string { throw std::runtime_error("no"); }, kInline,
      failed.Callback());
  CHECK_THROWS_WITH(std::rethrow_exception(failed.future.get().error()), "no");
}

TEST_CASE("fleet DoThen: a caller that leaves is not called back, whatever it waits for") {
  RedisServer server;
  RedisPages here(server), there(server);
  CHECK(*there.Do("other", [] { return "v"s; }) == "v");
  std::atomic<bool> called = false;
  const auto callback = [&](const KeyResult<std::string>&) { called = true; };
  SECTION("for the server") {
    server.Stop();
    singleflight::Caller caller = DoThen(there, "k", NeverRun, NewThread(), callback);
    CHECK(caller.Leave());
    server.Continue();
  }
  SECTION("for another process") {
    RedisLeader leader(here, "k", "v");
    singleflight::Caller caller = DoThen(there, "k", NeverRun, NewThread(), callback);
    AwaitFollower(server, "k");
    CHECK(caller.Leave());
  }
  SECTION("for its own fn") {
    HeldFn work;
    singleflight::Caller caller = DoThen(
        there, "k",
        [&](const StopToken& stop) {
          work.RunUntil(stop);
          return "late"s;
        },
        NewThread(), callback);
    work.AwaitBegun();
    CHECK(caller.Leave());
  }
  Await([&] { return there.GetStats().calls.in_flight == 0; });
  CHECK_FALSE(called);
}

TEST_CASE("fleet DoThen: a callback may wait for another process's call") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader first(here, "first", "1");
  RedisLeader second(here, "second", "2");
  std::promise<void> waits;
  std::promise<std::string> got;
  Group<std::string, std::string> local;  // whose leader waits for the fleet
  std::optional<test::Caller<std::string>> leader;
  const auto ask = GENERATE(0, 1, 2, 3, 4);
  CAPTURE(ask);
  const singleflight::Caller caller =
      DoThen(there, "first", NeverRun, NewThread(), [&](const KeyResult<std::string>&) {
        waits.set_value();
        if (ask == 0) {
          got.set_value(*there.Do("second", NeverRun));
        } else if (ask == 1) {
          got.set_value(*DoAsync(there, "second", NeverRun).Get());
        } else if (ask == 2) {
          const std::vector<std::string> keys = {"second"};
          const auto fn = [](std::span<const std::string>) -> std::vector<std::string> {
            return {};
          };
          got.set_value(std::string(*DoMany(there, keys, fn).at(0)));
        } else if (ask == 3) {
          leader.emplace(
              [&] { return local.Do("x", [&] { return *there.Do("second", NeverRun); }); });
          AwaitCallers(local, "x", 1);
          got.set_value(*local.Do("x", NeverRun, {.timeout = 1min}));
        } else {
          Future<std::string> future =
              DoAsync(there, "second", NeverRun, NewThread(), OnFailure::kRetry);
          there.Close();
          got.set_value(*future.Get());
        }
      });
  AwaitFollower(server, "first");
  first.Finish();
  waits.get_future().wait();
  AwaitFollower(server, "second");
  second.Finish();
  CHECK(got.get_future().get() == "2");
}

TEST_CASE("fleet DoThen: a callback may destroy the group while it asks, follows and leads") {
  RedisServer server;
  RedisPages here(server);
  auto there = std::make_unique<RedisPages>(server);
  RedisLeader leader(here, "k", "v");
  RedisLeader other(here, "followed", "v");
  HeldFn work;
  Future<std::string> followed = DoAsync(*there, "followed", NeverRun);
  Future<std::string> led = DoAsync(*there, "led", [&](const StopToken& stop) {
    work.RunUntil(stop);
    return "late"s;
  });
  work.AwaitBegun();
  AwaitFollower(server, "followed");
  std::promise<void> destroyed;
  const singleflight::Caller caller =
      DoThen(*there, "k", NeverRun, NewThread(), [&](const KeyResult<std::string>&) {
        there = nullptr;  // with its client
        destroyed.set_value();
      });
  AwaitFollower(server, "k");
  leader.Finish();
  destroyed.get_future().wait();
  CHECK(ErrorOf([&] { return followed.Get(); }) == std::errc::operation_canceled);
  CHECK(*led.Get() == "late");
}

TEST_CASE("fleet DoThen: with kRetry the callback gets what the second try gives") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  Told<std::string> told;
  const singleflight::Caller caller = DoThen(
      there, "k", [] { return "second"s; }, NewThread(), told.Callback(), OnFailure::kRetry);
  AwaitFollower(server, "k");
  leader.Finish();
  CHECK(told.future.get().value() == "second");
}

TEST_CASE("fleet DoThen: a fn that cannot be kept leaves no caller behind") {
  const RedisServer server;
  RedisPages pages(server);
  struct ThrowsWhenKept {
    explicit ThrowsWhenKept(int its_moves) : moves(its_moves) {}
    ThrowsWhenKept(ThrowsWhenKept&& other) : moves(other.moves - 1) {
      if (moves == 0) throw std::runtime_error("cannot be moved");
    }
    std::string operator()() const { return "v"; }
    int moves;
  };
  HeldFn work;
  std::atomic<bool> called = false;
  int threw = 0;
  for (int moves = 1; moves <= 3; ++moves) {
    const std::string key = "k" + std::to_string(moves);
    try {
      singleflight::Caller caller = DoThen(pages, key, ThrowsWhenKept(moves), NewThread(),
                                           [&](const KeyResult<std::string>&) { called = true; });
      caller.Leave();
    } catch (const std::runtime_error&) {
      ++threw;
    }
    Await([&] { return pages.Callers(key) == 0; });
  }
  CHECK(threw > 0);
  CHECK_FALSE(called);
}

TEST_CASE("fleet Join: a Lead that has landed may outlive the group and its client") {
  const RedisServer server;
  auto pages = std::make_unique<RedisPages>(server);
  std::promise<RedisPages::Lead> given;
  Future<std::string> page =
      pages->Join("k", [&](RedisPages::Lead lead) { given.set_value(std::move(lead)); });
  std::optional<RedisPages::Lead> lead = given.get_future().get();
  CHECK(lead->Succeed("v"));
  CHECK(*page.Get() == "v");
  pages = nullptr;
  CHECK_FALSE(lead->Succeed("w"));
  lead.reset();
}

TEST_CASE(
    "fleet DoAsync: while there is no server, each process runs fn on its executor, or fails") {
  RedisServer server;
  RedisPages runs(server);
  RedisPages fails(server, {.on_outage = redis::OnOutage::kFail});
  server.Kill();
  TaskThread worker;
  std::promise<std::thread::id> ran_on;
  Future<std::string> page = DoAsync(
      runs, "k",
      [&] {
        ran_on.set_value(std::this_thread::get_id());
        return "v"s;
      },
      worker.Executor());
  CHECK(*page.Get() == "v");
  CHECK(ran_on.get_future().get() == worker.Id());
  Told<std::string> told;
  const singleflight::Caller caller = DoThen(fails, "k", NeverRun, kInline, told.Callback());
  CHECK(CodeOf(told.future.get().error()) == std::errc::not_connected);
}

TEST_CASE("fleet DoAsync: if its thread is cancelled in fn, another process takes over at once") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::promise<void> begun;
  std::promise<std::function<void()>> given;
  Future<std::string> page = DoAsync(
      here, "k",
      [&]() -> std::string {
        begun.set_value();
        for (;;) pthread_testcancel();
      },
      [&](std::function<void()> task) { given.set_value(std::move(task)); });
  const std::function<void()> kept = given.get_future().get();  // as a pool might
  CancellableThread thread([&kept] { kept(); });
  begun.get_future().wait();
  Future<std::string> other = DoAsync(there, "k", [] { return "taken over"s; });
  AwaitFollower(server, "k");
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(ErrorOf([&] { return page.Get(); }) == std::errc::owner_dead);
  CHECK(*other.Get() == "taken over");
}

TEST_CASE("fleet DoAsync: fn that begins after its lease was lost is asked to stop at once") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 200ms});
  std::promise<std::function<void()>> given;
  std::promise<bool> asked_to_stop;
  Future<std::string> page = DoAsync(
      pages, "k",
      [&](const StopToken& stop) {
        asked_to_stop.set_value(stop.stop_requested());
        return "v"s;
      },
      [&](std::function<void()> task) { given.set_value(std::move(task)); });
  const std::function<void()> task = given.get_future().get();
  const std::string lease = redis::detail::LeaseName(redis::detail::BaseOf("t", "k"));
  server.Ask("HSET", lease, "token", std::string(32, 'a'));  // another process has it
  Await([&] { return pages.GetStats().lost_leases == 1; });
  std::promise<void> told;
  pages.Deliver([&] { told.set_value(); });  // behind what tells the call
  told.get_future().wait();
  JoiningThread worker(task);
  CHECK(asked_to_stop.get_future().get());
  CHECK(*page.Get() == "v");
}

TEST_CASE("fleet Join: a lease that is lost before any work is offered does not cost the call") {
  RedisServer server;
  RedisPages pages(server, {.lease = 200ms});
  struct Waiting final : RedisPages::Waiter {
    void OnLanded() noexcept override { landed.set_value(); }
    std::promise<void> landed;
  } waiter;
  struct Launch {
    explicit Launch(std::function<void()> its_lose) : lose(std::move(its_lose)) {}
    Launch(const Launch& other) : lose(other.lose) { lose(); }  // Join is about to keep it
    void operator()(RedisPages::Lead lead) const {
      lead.Run(
          [](const StopToken& stop) { return stop.stop_requested() ? "asked to stop"s : ""s; });
    }
    std::function<void()> lose;
  };
  // The only caller who has offered to do the work leaves before the server answers.
  server.Stop();
  StopSource stop;
  std::optional<test::Caller<std::string>> first(
      std::in_place, [&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitCallers(pages, "k", 1);
  const Launch launch([&] {
    stop.request_stop();
    CHECK(first->Join().error == std::errc::operation_canceled);
    server.Continue();
    const auto is_lost = [&] { return pages.GetStats().lost_leases == 1; };
    // On a busy machine it may have expired already.
    Await([&] { return server.Keys().size() == 1 || is_lost(); });
    const std::string lease = redis::detail::LeaseName(redis::detail::BaseOf("t", "k"));
    server.Ask("HSET", lease, "token", std::string(32, 'a'));  // another process has it
    Await(is_lost);
    std::promise<void> told;
    pages.Deliver([&] { told.set_value(); });  // behind what tells the call
    told.get_future().wait();
  });
  pages.Join("k", waiter, launch);
  waiter.landed.get_future().wait();
  CHECK(*waiter.TakeResult() == "asked to stop");
}

TEST_CASE("fleet: a caller whose memory runs out fails alone, and leaves nothing behind") {
  const RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  const auto way = GENERATE(0, 1, 2);
  CAPTURE(way);
  const auto fn = [] { return "v"s; };
  const auto ask = [&] {
    if (way == 0) return *pages.Do("k", fn);
    if (way == 1) return *DoAsync(pages, "k", fn).Get();
    std::promise<KeyResult<std::string>> told;
    const singleflight::Caller caller =
        DoThen(pages, "k", fn, kInline,
               [&](KeyResult<std::string> result) { told.set_value(std::move(result)); });
    return std::string(*told.get_future().get());
  };
  bool answered = false;
  std::size_t failures = 0;
  for (std::size_t index = 0; !answered; ++index) {
    try {
      const FailAllocations failing(index);
      answered = ask() == "v";
    } catch (const std::bad_alloc&) {
      ++failures;
    }
    Await([&] { return pages.Callers("k") == 0 && pages.GetStats().calls.in_flight == 0; });
  }
  CHECK(failures > 0);
  AwaitNothingOn(server);
}

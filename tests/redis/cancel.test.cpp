// SPDX-License-Identifier: MIT

// Tests Cancel of a redis::Group and of a redis::ReadThrough. Callers of the process get the error
// at once, and no process waits for a lease to expire.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/coro.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"
#include "support/threads.hpp"
#include "ways.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::CallOptions;
using singleflight::DoMany;
using singleflight::Future;
using singleflight::KeyResult;
using singleflight::StopSource;
using singleflight::StopToken;
using singleflight::redis::Lease;
using singleflight::redis::OnOutage;

namespace {

constexpr std::errc kCanceled = std::errc::operation_canceled;

template <class Value>
std::optional<std::errc> CodeIn(const KeyResult<Value>& result) {
  return ErrorOf([&] { return result.value(); });
}

// Returns when no call is in flight, as far as the server knows.
void AwaitNoLeases(const RedisServer& server) {
  Await([&] { return server.Keys("t:{*}:lease").empty(); });
}

}  // namespace

// ---- This process leads

TEST_CASE("redis: Cancel gives the lease back so that another process leads at once") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  RedisLeader leader(here, "k", "late"s);
  test::Caller same_process([&] { return here.Do("k", NeverRun); });
  test::Caller elsewhere([&] { return there.Do("k", [] { return "theirs"s; }); });
  AwaitCallers(here, "k", 2);
  AwaitFollowers(server, "k", 1);
  CHECK(here.Cancel("k"));
  CHECK(here.Callers("k") == 0);
  CHECK(same_process.Join().error == kCanceled);
  CHECK(elsewhere.Join().value == "theirs");  // while the first function still runs
  AwaitNoLeases(server);
  CHECK(leader.Finish().error == kCanceled);
  CHECK(server.Keys("*lease").empty());
  CHECK(here.GetStats() ==
        singleflight::redis::Stats{.executions = 1,
                                   .calls = {.executions = 1, .followers = 1, .failures = 1}});
  CHECK(there.GetStats() ==
        singleflight::redis::Stats{.executions = 1, .takeovers = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: Cancel gives the lease back also if its function takes neither token nor lease") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  std::promise<void> begun, finish;
  test::Caller leader([&] {
    return here.Do("k", [&] {
      begun.set_value();
      finish.get_future().wait();
      return "late"s;
    });
  });
  begun.get_future().wait();
  CHECK(here.Cancel("k"));
  CHECK(*there.Do("k", [] { return "theirs"s; }) == "theirs");  // while it still runs
  finish.set_value();
  CHECK(leader.Join().error == kCanceled);
  AwaitNoLeases(server);
  CHECK(there.GetStats().remote == 0);
}

TEST_CASE("redis: Cancel lets the next caller of its own process lead a new call") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  RedisLeader first(pages, "k", "old"s);
  CHECK(pages.Cancel("k"));
  for (int i = 0; i < 20; ++i) {
    CHECK_FALSE(pages.Cancel("k"));
    CHECK(*pages.Do("k", [] { return "new"s; }) == "new");
  }
  CHECK(first.Finish().error == kCanceled);
  CHECK(pages.GetStats().executions == 21);
  CHECK(pages.GetStats().remote == 0);
  AwaitNoLeases(server);
}

TEST_CASE("redis: Cancel asks a function to stop and its lease is not held any more") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  std::promise<void> begun;
  bool was_held = false, is_held = true;
  test::Caller leader([&] {
    return pages.Do("k", [&](const Lease& lease) {
      was_held = lease.Held();
      begun.set_value();
      Await([&] { return lease.stop().stop_requested(); });
      is_held = lease.Held();
      return "v"s;
    });
  });
  begun.get_future().wait();
  CHECK(pages.Cancel("k"));
  CHECK(leader.Join().error == kCanceled);
  CHECK(was_held);
  CHECK_FALSE(is_held);
  AwaitNoLeases(server);
}

TEST_CASE("redis: Cancel after the leader was stopped gives everybody the error once") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  StopSource stop;
  RedisLeader leader(pages, "k", [](const auto&) { return "v"s; }, {.stop = stop.get_token()});
  Future<std::string> future = DoAsync(pages, "k", NeverRun);
  stop.request_stop();
  AwaitCallers(pages, "k", 1);
  CHECK(pages.Cancel("k"));
  CHECK(ErrorOf([&] { return future.Get(); }) == kCanceled);
  CHECK(leader.Finish().error == kCanceled);
  CHECK(pages.GetStats().calls.left == 1);
}

TEST_CASE("redis: Cancel of a key without a call does nothing") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  CHECK_FALSE(here.Cancel("k"));
  RedisLeader leader(there, "k", "v"s);
  CHECK_FALSE(here.Cancel("k"));  // the call is another process's
  RedisLeader forgotten(here, "f", "v"s);
  REQUIRE(here.Forget("f"));
  CHECK_FALSE(here.Cancel("f"));
  CHECK(leader.Finish().value == "v");
  CHECK(forgotten.Finish().value == "v");
}

TEST_CASE("redis: Cancel works on any key and on that key alone") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  for (const std::string& key : {""s, "}"s, "a}b"s, "\0x"s}) {
    RedisLeader canceled(pages, key, "v"s), other(pages, key + "2", "w"s);
    CHECK(pages.Cancel(key));
    CHECK(canceled.Finish().error == kCanceled);
    CHECK(other.Finish().value == "w");
  }
}

TEST_CASE("redis: Cancel of a call that runs without a server gives its callers the error") {
  RedisServer server;
  server.Kill();
  RedisPages pages(ShortTimeouts(server.Socket()), LongLease(OnOutage::kRunLocally));
  HeldFn held;
  test::Caller leader([&] {
    return pages.Do("k", [&] {
      held.Run();
      return "v"s;
    });
  });
  held.AwaitBegun();
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitCallers(pages, "k", 2);
  CHECK(pages.Cancel("k"));
  CHECK(follower.Join().error == kCanceled);
  held.Finish();
  CHECK(leader.Join().error == kCanceled);
}

// ---- Another process leads, or it is not known

TEST_CASE("redis: Cancel of a call that follows disturbs no other process") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  RedisLeader leader(there, "k", "v"s);
  test::Caller canceled([&] { return here.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  CHECK(here.Cancel("k"));
  CHECK(canceled.Join().error == kCanceled);
  Await([&] { return here.GetStats().calls.in_flight == 0; });
  test::Caller newcomer([&] { return here.Do("k", NeverRun); });  // follows again
  Await([&] {
    const auto calls = here.Inspect();
    return calls.size() == 1 && calls[0].phase == singleflight::redis::CallPhase::kFollowing;
  });
  CHECK(leader.Finish().value == "v");
  CHECK(newcomer.Join().value == "v");
  CHECK(here.GetStats() ==
        singleflight::redis::Stats{.remote = 1, .calls = {.executions = 2, .failures = 1}});
}

TEST_CASE("redis: Cancel does not wait for a server that does not answer") {
  RedisServer server;
  RedisPages pages(server, LongLease());
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  server.Stop();
  test::Caller asking([&] { return pages.Do("k", NeverRun); });
  AwaitCallers(pages, "k", 1);
  CHECK(pages.Cancel("k"));
  CHECK(asking.Join().error == kCanceled);
  server.Continue();
  AwaitNoLeases(server);  // the lease that it got too late is given back
  Await([&] { return pages.GetStats().calls.in_flight == 0; });
  CHECK(pages.GetStats().executions == 1);
}

// ---- Each way of waiting

TEST_CASE("redis: Cancel reaches callers of DoAsync and DoThen and CoDo") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  for (const bool follows : {false, true}) {
    INFO("follows " << follows);
    HeldFn held;
    std::optional<RedisLeader<>> remote;
    if (follows) remote.emplace(there, "k", "v"s);
    const auto fn = [&held] {
      held.Run();
      return "v"s;
    };
    Future<std::string> future = DoAsync(here, "k", fn);
    std::promise<std::optional<std::errc>> told, resumed;
    const auto caller = DoThen(here, "k", fn, singleflight::NewThread(),
                               [&](const auto& result) { told.set_value(CodeIn(result)); });
    const auto routine = [&]() -> Routine {
      std::optional<std::errc> error;
      try {
        static_cast<void>(co_await CoDo(here, "k", fn));
      } catch (const std::system_error& thrown) {
        error = static_cast<std::errc>(thrown.code().value());
      }
      resumed.set_value(error);
    };
    const auto running = routine();
    if (follows) {
      AwaitFollowers(server, "k", 1);
    } else {
      held.AwaitBegun();
    }
    AwaitCallers(here, "k", 3);
    CHECK(here.Cancel("k"));
    CHECK(ErrorOf([&] { return future.Get(); }) == kCanceled);
    CHECK(told.get_future().get() == kCanceled);
    CHECK(resumed.get_future().get() == kCanceled);
    held.Finish();
    CHECK(held.Runs() == (follows ? 0 : 1));
    Await([&] { return here.GetStats().calls.in_flight == 0; });
  }
  AwaitNoLeases(server);
}

TEST_CASE("redis: Cancel of a key of DoMany fails that key alone") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  RedisLeader remote(there, "b", "theirs"s), other(there, "c", "theirs"s);
  std::vector<std::string> led;
  std::promise<void> begun, finish;
  const std::vector<std::string> keys = {"a", "b", "c", "d"};
  std::vector<std::string> outcomes;
  {
    JoiningThread asking([&] {
      const auto results = DoMany(here, keys, [&](std::span<const std::string> missing) {
        led.assign(missing.begin(), missing.end());
        begun.set_value();
        finish.get_future().wait();
        return led;
      });
      for (const auto& result : results) {
        outcomes.push_back(CodeIn(result) == kCanceled ? "canceled" : *result);
      }
    });
    begun.get_future().wait();
    AwaitFollowers(server, "b", 1);
    CHECK(here.Cancel("a"));
    CHECK(here.Cancel("b"));
    finish.set_value();
    AwaitFollowers(server, "c", 1);
    other.Finish();
  }
  CHECK(led == std::vector{"a"s, "d"s});
  CHECK(outcomes == std::vector{"canceled"s, "canceled"s, "theirs"s, "d"s});
  CHECK(remote.Finish().value == "theirs");
}

TEST_CASE("redis: a Cancel at any moment gives each caller one outcome and leaves nothing behind") {
  constexpr int kRounds = 300;
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  std::atomic<int> canceled = 0, landed = 0, runs = 0;
  std::atomic<bool> stops = false;
  const auto count = [&](const std::optional<std::errc>& error) {
    ++(error == kCanceled ? canceled : landed);
    return error == std::nullopt || error == kCanceled;
  };
  std::atomic<bool> fine = true;
  {
    std::vector<JoiningThread> threads;
    threads.emplace_back([&] {
      while (!stops) static_cast<void>(here.Cancel("k"));
    });
    std::vector<JoiningThread> asking;
    for (RedisPages* const pages : {&here, &here, &there}) {
      asking.emplace_back([&, pages] {
        for (int i = 0; i < kRounds; ++i) {
          const auto fn = [&] {
            ++runs;
            return "v"s;
          };
          if (!count(ErrorOf([&] { return pages->Do("k", fn); }))) fine = false;
        }
      });
    }
    asking.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        const auto results = DoMany(here, std::vector{"k"s, "l"s}, [&](const auto& keys) {
          runs += static_cast<int>(keys.size());
          return std::vector<std::string>(keys.size());
        });
        for (const auto& result : results) {
          if (!count(CodeIn(result))) fine = false;
        }
      }
    });
    asking.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        Future<std::string> future = DoAsync(
            here, "k", [&] { return ++runs, "v"s; }, [](const auto& task) { task(); });
        if (!count(ErrorOf([&] { return future.Get(); }))) fine = false;
      }
    });
    asking.clear();
    stops = true;
  }
  CHECK(fine);
  CHECK(canceled + landed == 6 * kRounds);
  for (RedisPages* const pages : {&here, &there}) {
    Await([&] { return pages->GetStats().calls.in_flight == 0; });
  }
  AwaitPublished(here);
  AwaitAnswers(here);
  CHECK(server.Keys("t:{*}:lease").empty());
  CHECK(*there.Do("k", [] { return "last"s; }) == "last");
}

TEST_CASE("redis::ReadThrough: a Cancel at any moment gives each caller one outcome") {
  constexpr int kRounds = 300;
  const RedisServer server;
  PageOptions options = Stale();
  options.ttl = 1ms;  // most values have expired
  options.soft_timeout = 1ms;
  CachePages here(server, options), there(server, options);
  std::atomic<int> canceled = 0, landed = 0;
  std::atomic<bool> stops = false;
  {
    JoiningThread cancels([&] {
      while (!stops) static_cast<void>(here.Cancel("k"));
    });
    std::vector<JoiningThread> asking;
    for (CachePages* const pages : {&here, &here, &there}) {
      asking.emplace_back([&, pages] {
        for (int i = 0; i < kRounds; ++i) {
          const auto error = ErrorOf([&] { return pages->Get("k", [] { return "v"s; }); });
          if (error == std::nullopt) ++landed;
          if (error == kCanceled) ++canceled;
        }
      });
    }
    asking.clear();
    stops = true;
  }
  CHECK(canceled + landed == 3 * kRounds);
  for (CachePages* const pages : {&here, &there}) {
    Await([&] { return pages->Inspect().empty(); });
  }
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", [] { return "v"s; }) == "v");
}

// ---- A cache

TEST_CASE("redis::ReadThrough: a load that is cancelled puts nothing") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  CachePages here(server, options), there(server, LongTtl());
  AwaitListening(here);
  HeldLoad held("late");
  test::Caller leader([&] { return here.Get("k", held.Load()); });
  held.AwaitBegun();
  test::Caller follower([&] { return there.Get("k", [] { return "theirs"s; }); });
  AwaitCacheFollowers(server, "k", 1);
  CHECK(here.Cancel("k"));
  CHECK(follower.Join().value == "theirs");
  CHECK(*here.Get("k", NeverRun) == "theirs");
  there.Invalidate("k");
  held.Finish();
  CHECK(leader.Join().error == kCanceled);
  AwaitAnswersOf(here);
  CHECK_FALSE(Has(server, "k", "value"));
  CHECK(here.Peek("k") == std::nullopt);
  CHECK(*here.Get("k", [] { return "next"s; }) == "next");
}

TEST_CASE("redis::ReadThrough: a load that is cancelled is not kept in the process") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  CachePages pages(server, options);
  AwaitListening(pages);
  HeldLoad held("late");
  test::Caller leader([&] { return pages.Get("k", held.Load()); });
  held.AwaitBegun();
  CHECK(pages.Cancel("k"));
  held.Finish();
  CHECK(leader.Join().error == kCanceled);
  AwaitAnswersOf(pages);
  CHECK(pages.Peek("k") == std::nullopt);
  CHECK(*pages.Get("k", [] { return "next"s; }) == "next");
  CHECK(*pages.Get("k", NeverRun) == "next");
  CHECK(pages.GetStats().local_hits == 1);  // so one that is put is kept
}

TEST_CASE("redis::ReadThrough: a failure of a load that was cancelled is not kept") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.retry_after = 1h;
  CachePages pages(server, options);
  HeldLoad held(HeldLoad::And([]() -> std::string { throw std::runtime_error("late"); }));
  test::Caller leader([&] { return pages.Get("k", held.Load()); });
  held.AwaitBegun();
  CHECK(pages.Cancel("k"));
  held.Finish();
  CHECK(leader.Join().error == kCanceled);
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
}

TEST_CASE("redis::ReadThrough: Cancel stops a load in the background and its lease is free") {
  const RedisServer server;
  CachePages here(server, Stale()), there(server, Stale());
  PutExpired(server, here, "k");
  HeldLoad held("late"), next("new");
  CHECK(*here.Get("k", held.Load()) == "old");
  held.AwaitBegun();
  REQUIRE(HasLease(server, "k"));
  CHECK(here.Cancel("k"));
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", next.Load()) == "old");  // and refreshes it
  next.AwaitBegun();
  next.Finish();
  AwaitNoLease(server, "k");
  held.Finish();
  CHECK(*here.Get("k", NeverRun) == "new");
  CHECK_FALSE(here.Cancel("k"));
}

TEST_CASE("redis::ReadThrough: Cancel stops a load in the background that takes a stop token") {
  const RedisServer server;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  std::promise<void> begun;
  std::promise<bool> stopped;
  CHECK(*pages.Get("k", [&](StopToken stop) {
    begun.set_value();
    Await([&] { return stop.stop_requested(); });
    stopped.set_value(true);
    return "late"s;
  }) == "old");
  begun.get_future().wait();
  CHECK(pages.Cancel("k"));
  CHECK(stopped.get_future().get());
  AwaitNoLease(server, "k");
  CHECK(pages.Peek("k") == "old");
}

// A caller that still waited when the lease came back would lead again.
TEST_CASE("redis::ReadThrough: Cancel ends the waits before it stops the load that they wait for") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages pages(server, options);
  PutExpired(server, pages, "k");
  const auto callers = [&] {
    std::size_t count = 0;
    for (const auto& call : pages.Inspect()) count += call.callers;
    return count;
  };
  std::promise<std::size_t> when_stopped;
  std::promise<void> begun, finish;
  test::Caller waiting([&] {
    return pages.Get("k", [&](StopToken stop) {
      const std::stop_callback on_stop(stop, [&] { when_stopped.set_value(callers()); });
      begun.set_value();
      finish.get_future().wait();
      return "late"s;
    });
  });
  begun.get_future().wait();
  AwaitCacheFollowers(server, "k", 1);
  CHECK(callers() >= 1);
  CHECK(pages.Cancel("k"));
  CHECK(when_stopped.get_future().get() == 0);
  CHECK(waiting.Join().error == kCanceled);
  finish.set_value();
}

TEST_CASE("redis::ReadThrough: Cancel ends the wait for a newer value than an expired one") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad held("new");
  test::Caller waiting([&] { return here.Get("k", held.Load()); });
  held.AwaitBegun();
  test::Caller elsewhere([&] { return there.Get("k", [] { return "theirs"s; }); });
  AwaitCacheFollowers(server, "k", 2);  // both
  CHECK(here.Cancel("k"));
  CHECK(waiting.Join().error == kCanceled);
  CHECK(elsewhere.Join().value == "theirs");
  held.Finish();
}

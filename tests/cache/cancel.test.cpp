// SPDX-License-Identifier: MIT

// These tests cover ReadThrough::Cancel: a load's callers get `operation_canceled`, and nothing of
// it is kept.

#include <functional>
#include <latch>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "policy_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::KeyResult;
using Clock = PolicyClock;

namespace {

using Pages = InVirtualTime<int>;

constexpr auto kCancelledLoad = std::errc::operation_canceled;

}  // namespace

TEST_CASE("ReadThrough: Cancel frees the callers of a load and its value is not put") {
  Pages pages;
  CHECK_FALSE(pages.Cancel("key"));
  std::latch finish(1);
  Caller leader([&] {
    return pages.Get("key", [&] {
      finish.wait();
      return 1;
    });
  });
  AwaitCallers(pages, "key", 1);
  Caller follower([&] { return pages.Get("key", MustNotLoad); });
  AwaitCallers(pages, "key", 2);
  CHECK(pages.Cancel("key"));
  CHECK(follower.Join().error == kCancelledLoad);
  CHECK(*pages.Get("key", [] { return 2; }) == 2);  // it loads again at once
  finish.count_down();
  CHECK(leader.Join().error == kCancelledLoad);
  CHECK(pages.Peek("key") == 2);
  CHECK(pages.GetStats().loads == 2);
  CHECK(pages.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough: Cancel asks a load to stop that takes the token") {
  Pages pages;
  Caller leader([&] {
    return pages.Get("key", [](const StopToken& stop) {
      Await([&] { return stop.stop_requested(); });
      return 1;
    });
  });
  AwaitCallers(pages, "key", 1);
  CHECK(pages.Cancel("key"));
  CHECK(leader.Join().error == kCancelledLoad);
  CHECK_FALSE(pages.Peek("key"));
}

TEST_CASE("ReadThrough: Cancel is no failure that retry_after remembers") {
  Pages pages({.retry_after = 1h});
  CHECK(ErrorOf([&] {
          return pages.Get("key", [&]() -> int {
            pages.Cancel("key");
            throw std::runtime_error("late");
          });
        }) == kCancelledLoad);
  CHECK(*pages.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: Cancel leaves the value that the cache has") {
  Pages pages;
  pages.Put("key", 1);
  CHECK(ErrorOf([&] {
          return pages.Refresh("key", [&] { return pages.Cancel("key") ? 2 : 3; });
        }) == kCancelledLoad);
  CHECK(pages.Peek("key") == 1);
}

TEST_CASE("ReadThrough: Cancel ends a refresh in the background so that the next one may begin") {
  TaskQueue queue;
  Pages pages({.ttl = 10ms, .stale_for = 1h, .executor = queue.Executor()});
  std::optional<StopToken> token;
  pages.Put("key", 1);
  Clock::Pass(20ms);
  std::function<void()> in_the_load;
  const auto load = [&](StopToken stop) {
    token = std::move(stop);
    if (in_the_load) in_the_load();
    return 2;
  };
  SECTION("before it has begun") {
    CHECK(*pages.Get("key", load) == 1);
    CHECK(pages.Cancel("key"));
    CHECK(*pages.Get("key", load) == 1);
    CHECK(pages.Callers("key") == 1);  // the next refresh
    CHECK(queue.Count() == 2);
    CHECK(queue.Run() == 2);
    CHECK(pages.GetStats().calls.failures == 1);
    CHECK(pages.Peek("key") == 2);
  }
  SECTION("while it runs") {
    in_the_load = [&] {
      CHECK_FALSE(token->stop_requested());
      CHECK(pages.Cancel("key"));
      CHECK(token->stop_requested());
    };
    CHECK(*pages.Get("key", load) == 1);
    CHECK(queue.Run() == 1);
    CHECK(pages.Peek("key") == 1);  // still the expired value
    CHECK(pages.GetStats().outdated == 1);
  }
  CHECK(pages.GetStats().calls.in_flight == 0);
}

TEST_CASE("ReadThrough: Cancel gives a caller with a soft_timeout its expired value") {
  TaskQueue queue;
  Pages pages({.ttl = 10ms, .stale_for = 1h, .soft_timeout = 1h, .executor = queue.Executor()});
  pages.Put("key", 1);
  Clock::Pass(20ms);
  Caller caller([&] { return pages.Get("key", [] { return 2; }); });
  AwaitCallers(pages, "key", 1);
  CHECK(pages.Cancel("key"));
  CHECK(caller.Join().value == 1);
  queue.Drop();
  CHECK(pages.GetStats().calls.in_flight == 0);
}

TEST_CASE("ReadThrough: Cancel frees callers that do not block") {
  Pages pages;
  std::function<void()> task;
  std::optional<std::errc> error;
  auto future = DoAsync(
      pages, "key", [] { return 1; }, [&](auto its) { task = its; });
  const auto caller = DoThen(
      pages, "key", MustNotLoad, [](auto its) { its(); },
      [&](KeyResult<int> result) { error = ErrorOf([&] { return result.result(); }); });
  CHECK(pages.Cancel("key"));
  CHECK(error == kCancelledLoad);
  CHECK(ErrorOf([&] { return future.Get(); }) == kCancelledLoad);
  task();
  CHECK_FALSE(pages.Peek("key"));
}

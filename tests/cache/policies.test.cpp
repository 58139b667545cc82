// SPDX-License-Identifier: MIT

// Tests the policies of a ReadThrough in virtual time, with callers that block.

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>

#include "fake_cache.hpp"
#include "policy_support.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Cached;
using singleflight::CacheEntry;
using singleflight::ReadThrough;
using Clock = PolicyClock;

namespace {

using Users = InVirtualTime<int>;
using MaybeUsers = InVirtualTime<std::optional<int>>;

struct LruTraits : singleflight::LruCacheTraits {
  using Clock = PolicyClock;
};

// A value that may say that it is a failure.
struct Reply {
  int status;
  bool operator==(const Reply&) const = default;
  friend bool IsFailure(const Reply& reply) { return reply.status >= 500; }
};

// Resets what is random when the test ends.
struct Random {
  explicit Random(double next) { PolicyTraits::random = next; }
  ~Random() { PolicyTraits::random = 1; }
};

// Users of which "key" has expired, and refreshes that wait for Run.
struct Expired {
  explicit Expired(Users::Options options = {}) : users(WithExecutor(std::move(options))) {
    static_cast<void>(users.Get("key", [] { return 1; }));
    Clock::Pass(10ms);
  }
  Users::Options WithExecutor(Users::Options options) {
    options.ttl = 10ms;
    if (options.stale_for.count() == 0) options.stale_for = 100ms;
    options.executor = later.Executor();
    return options;
  }
  int Get(CountedLoad& load, int value) { return *users.Get("key", load.Returning(value)); }

  TaskQueue later;
  Users users;
};

}  // namespace

TEST_CASE("ReadThrough: without a cache of one's own, it keeps what it has loaded") {
  ReadThrough<std::string, int> users;
  const auto outcomes = AskAtOnce(10, [&] {
    return users.Get("key", [&] {
      AwaitCallers(users, "key", 10);
      return 1;
    });
  });
  for (const auto& outcome : outcomes) CHECK(outcome.value == 1);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  CHECK(users.GetStats().loads == 1);
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: the default cache has a capacity and a weigher") {
  ReadThrough<int, int> few({.capacity = 2});
  for (int key = 0; key < 5; ++key) CHECK(*few.Get(key, [key] { return key; }) == key);
  CHECK(few.GetStats().evictions == 3);
  ReadThrough<int, int> heavy(
      {.capacity = 10, .weigher = [](int, int value) { return std::size_t(value); }});
  CHECK(*heavy.Get(1, [] { return 8; }) == 8);
  CHECK(*heavy.Get(2, [] { return 3; }) == 3);
  CHECK_FALSE(heavy.Peek(1).has_value());
}

TEST_CASE("ReadThrough: a hit in the default cache allocates nothing, whatever the policy") {
  Users users({.ttl = 1h, .jitter = 0.5, .stale_for = 1h, .early_refresh = 1, .retry_after = 1h});
  const std::string_view key = "a key that is too long to be kept inside of a string object";
  static_cast<void>(users.Get(key, [] { return 1; }));
  const std::size_t before = allocations;
  const auto result = users.Get(key, [] { return 2; });
  CHECK(allocations == before);
  CHECK(*result == 1);
}

TEST_CASE("ReadThrough: a value is loaded again when its time to live has passed") {
  Users users({.ttl = 10ms});
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  Clock::Pass(9ms);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  Clock::Pass(1ms);
  CHECK_FALSE(users.Peek("key").has_value());
  CHECK(*users.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: a time to live counts from when the value was put") {
  Users users({.ttl = 10ms});
  static_cast<void>(users.Get("key", [] {
    Clock::Pass(1s);
    return 1;
  }));
  Clock::Pass(9ms);
  CHECK(users.Peek("key") == 1);
}

TEST_CASE("ReadThrough: jitter shortens times to live, and never lengthens them") {
  Users users({.ttl = 100ms, .jitter = 0.25});
  const auto lives = [&](double random, std::chrono::nanoseconds expected) {
    const Random next(random);
    users.Put("key", 1);
    Clock::Pass(expected - 1ns);
    CHECK(users.Peek("key") == 1);
    Clock::Pass(1ns);
    CHECK_FALSE(users.Peek("key").has_value());
  };
  lives(1.0, 75ms);
  lives(0.5, 87'500us);
  lives(1e-12, 100ms);
}

TEST_CASE("ReadThrough: an expired value is served while one refresh loads the new one") {
  Expired expired;
  CountedLoad load;
  for (int i = 0; i < 5; ++i) CHECK(expired.Get(load, 2) == 1);
  CHECK(expired.later.Count() == 1);
  CHECK(load.count == 0);
  CHECK(expired.users.GetStats().stale == 5);
  CHECK(expired.later.Run() == 1);
  CHECK(*expired.users.Get("key", MustNotLoad) == 2);
  CHECK(load.count == 1);
  CHECK(expired.users.GetStats().loads == 2);
}

TEST_CASE("ReadThrough: by default a refresh runs on a thread that no caller waits for") {
  std::latch finish(1);
  Users users({.ttl = 10ms, .stale_for = 100ms});
  static_cast<void>(users.Get("key", [] { return 1; }));
  Clock::Pass(10ms);
  CHECK(*users.Get("key", [&finish] {
    finish.wait();
    return 2;
  }) == 1);
  CHECK(users.Callers("key") == 1);
  finish.count_down();
  Await([&] { return users.GetStats().calls.in_flight == 0; });
  CHECK(*users.Get("key", MustNotLoad) == 2);
}

TEST_CASE(
    "ReadThrough: a value that is too old to be served stale is loaded while its callers wait") {
  Expired expired;
  Clock::Pass(99ms);
  CountedLoad load;
  CHECK(expired.Get(load, 2) == 1);
  expired.later.Drop();
  Clock::Pass(1ms);
  CHECK(expired.Get(load, 3) == 3);
}

TEST_CASE("ReadThrough: the destructor asks a refresh to stop, and waits for it") {
  std::atomic<bool> stopped = false;
  {
    Users users({.ttl = 10ms, .stale_for = 100ms});
    static_cast<void>(users.Get("key", [] { return 1; }));
    Clock::Pass(10ms);
    CHECK(*users.Get("key", [&stopped](singleflight::StopToken stop) {
      while (!stop.stop_requested()) std::this_thread::yield();
      stopped = true;
      return 2;
    }) == 1);
  }
  CHECK(stopped);
}

TEST_CASE("ReadThrough: a refresh is not asked to stop because no caller waits for it") {
  Expired expired;
  bool asked = true;
  CHECK(*expired.users.Get("key", [&asked](singleflight::StopToken stop) {
    asked = stop.stop_requested();
    return 2;
  }) == 1);
  expired.later.Run();
  CHECK_FALSE(asked);
  CHECK(expired.users.Peek("key") == 2);
}

TEST_CASE("ReadThrough: a caller that needs a new value joins the refresh") {
  Expired expired;
  CountedLoad load;
  CHECK(expired.Get(load, 2) == 1);
  Clock::Pass(100ms);
  Caller waiting([&] { return expired.users.Get("key", MustNotLoad); });
  AwaitCallers(expired.users, "key", 2);
  expired.later.Run();
  CHECK(waiting.Join().value == 2);
}

TEST_CASE("ReadThrough: if a refresh fails, the expired value is still served") {
  Expired expired;
  CountedLoad load;
  CHECK(*expired.users.Get("key", load.Failing()) == 1);
  expired.later.Run();
  CHECK(*expired.users.Get("key", load.Failing()) == 1);
  CHECK(expired.later.Run() == 1);
  CHECK(load.count == 2);
  CHECK(expired.users.GetStats().calls.failures == 2);
}

TEST_CASE("ReadThrough: an executor that throws or drops a refresh fails no caller") {
  TaskQueue later;
  bool throws = true;
  Users users({.ttl = 10ms, .stale_for = 100ms, .executor = [&](std::function<void()> task) {
                 if (throws) throw std::runtime_error("the pool is full");
                 later.Executor()(std::move(task));
               }});
  static_cast<void>(users.Get("key", [] { return 1; }));
  Clock::Pass(10ms);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  CHECK(users.GetStats().calls.failures == 1);
  throws = false;
  CHECK(*users.Get("key", MustNotLoad) == 1);
  later.Drop();
  CHECK(users.GetStats().calls.in_flight == 0);
  CHECK(*users.Get("key", [] { return 2; }) == 1);
  CHECK(later.Run() == 1);
  CHECK(users.Peek("key") == 2);
}

TEST_CASE("ReadThrough: if a limit refuses the refresh, the expired value is served") {
  TaskQueue later;
  Users users({.ttl = 10ms,
               .stale_for = 100ms,
               .executor = later.Executor(),
               .group = {.max_calls_in_flight = 1}});
  users.Put("key", 1);
  users.Put("other", 1);
  Clock::Pass(10ms);
  CHECK(*users.Get("other", [] { return 2; }) == 1);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  CHECK(users.GetStats().calls.refused == 1);
  CHECK(later.Run() == 1);
}

TEST_CASE("ReadThrough: a refresh loads nothing if the value was replaced since it was seen") {
  FakeCache<CacheEntry<int>> cache;
  InVirtualTime<int, decltype(cache)&> users(cache, {.ttl = 10ms, .stale_for = 100ms});
  users.Put("key", 1);
  Clock::Pass(10ms);
  cache.after_get = [&] {  // a caller has seen the expired value, and is overtaken by another
    cache.after_get = nullptr;
    users.Put("key", 2);
  };
  CHECK(*users.Get("key", MustNotLoad) == 1);
  Await([&] { return users.GetStats().calls.in_flight == 0; });
  CHECK(users.GetStats().loads == 0);
  CHECK(users.Peek("key") == 2);
}

TEST_CASE("ReadThrough: after a failure, the load is not tried again for a while") {
  Users users({.retry_after = 10ms});
  CountedLoad load;
  for (int i = 0; i < 3; ++i) {
    CHECK_THROWS_WITH(users.Get("key", load.Failing()), "the source is down");
  }
  CHECK(load.count == 1);
  Clock::Pass(9ms);
  CHECK_THROWS_WITH(users.Get("key", load.Returning(1)), "the source is down");
  CHECK(load.count == 1);
  Clock::Pass(1ms);
  CHECK(*users.Get("key", load.Returning(1)) == 1);
  CHECK(load.count == 2);
  CHECK(users.GetStats().loads == 2);
}

TEST_CASE("ReadThrough: however many callers ask after a failure, there is one load per period") {
  Users users({.retry_after = 10ms});
  CountedLoad load;
  for (int period = 1; period <= 3; ++period) {
    const auto outcomes = AskAtOnce(8, [&] { return users.Get("key", load.Failing()); });
    for (const auto& outcome : outcomes) CHECK(outcome.message == "the source is down");
    CHECK(load.count == period);
    Clock::Pass(10ms);
  }
}

TEST_CASE("ReadThrough: while a load is not tried again, the expired value is served") {
  Expired expired({.retry_after = 10ms});
  CountedLoad load;
  CHECK(*expired.users.Get("key", load.Failing()) == 1);
  CHECK(expired.later.Run() == 1);
  for (int i = 0; i < 3; ++i) CHECK(expired.Get(load, 2) == 1);
  CHECK(expired.later.Run() == 0);
  CHECK(expired.users.GetStats().calls.executions == 2);
  Clock::Pass(10ms);
  CHECK(expired.Get(load, 2) == 1);
  CHECK(expired.later.Run() == 1);
  CHECK(expired.users.Peek("key") == 2);
  CHECK(load.count == 2);
}

TEST_CASE("ReadThrough: a failure that is a value stands, too, and is returned as it is") {
  InVirtualTime<Reply> replies({.retry_after = 10ms});
  int loads = 0;
  const auto load = [&] {
    ++loads;
    return Reply{503};
  };
  CHECK(replies.Get("key", load)->status == 503);
  CHECK(replies.Get("key", load)->status == 503);
  CHECK(loads == 1);
  Clock::Pass(10ms);
  CHECK(replies.Get("key", [] { return Reply{200}; })->status == 200);
}

TEST_CASE("ReadThrough: whoever invalidates, puts or refreshes a key need not wait to load again") {
  Users users({.retry_after = 1h});
  CountedLoad load;
  const auto fail = [&] { CHECK_THROWS(users.Get("key", load.Failing())); };
  fail();
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  users.Invalidate("key");
  fail();
  users.InvalidateAll();
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  users.Invalidate("key");
  fail();
  users.InvalidateIf([](const std::string& key) { return key == "key"; });
  CHECK(*users.Get("key", [] { return 3; }) == 3);
  users.Invalidate("key");
  fail();
  CHECK(*users.Refresh("key", [] { return 4; }) == 4);
  users.Invalidate("key");
  fail();
  users.Put("key", 5);
  CHECK(*users.Get("key", MustNotLoad) == 5);
}

TEST_CASE(
    "ReadThrough: a load that fails after its key was invalidated stops nobody from loading") {
  Users users({.retry_after = 1h});
  CHECK_THROWS_WITH(users.Get("key",
                              [&]() -> int {
                                users.Invalidate("key");
                                throw std::runtime_error("old");
                              }),
                    "old");
  CHECK(*users.Get("key", [] { return 1; }) == 1);
}

TEST_CASE("ReadThrough: a cache of plain values keeps failures for a while, too") {
  FakeCache<int> cache;
  InVirtualTime<int, FakeCache<int>&> users(cache, {.retry_after = 10ms});
  CountedLoad load;
  CHECK_THROWS(users.Get("key", load.Failing()));
  CHECK_THROWS(users.Get("key", load.Failing()));
  CHECK(load.count == 1);
}

TEST_CASE("ReadThrough: with a soft timeout, a load that is fast enough gives the new value") {
  Expired expired({.soft_timeout = 1h});
  Caller caller([&] { return expired.users.Get("key", [] { return 2; }); });
  Await([&] { return expired.later.Count() == 1; });
  CHECK(expired.later.Run() == 1);
  CHECK(caller.Join().value == 2);
  CHECK(expired.users.GetStats().stale == 0);
}

TEST_CASE("ReadThrough: with a soft timeout, a slow load leaves the expired value, and goes on") {
  Expired expired({.soft_timeout = 1ns});
  CountedLoad load;
  CHECK(expired.Get(load, 2) == 1);
  CHECK(expired.users.GetStats().stale == 1);
  CHECK(expired.Get(load, 3) == 1);
  CHECK(expired.later.Run() == 1);
  CHECK(*expired.users.Get("key", MustNotLoad) == 2);
}

TEST_CASE(
    "ReadThrough: with a soft timeout, a caller waits no longer than its own timeout or stop") {
  Expired expired({.soft_timeout = 1h});
  CountedLoad load;
  CHECK(*expired.users.Get("key", load.Returning(2), {.timeout = 0s}) == 1);
  StopSource stop;
  stop.request_stop();
  CHECK(*expired.users.Get("key", MustNotLoad, {.stop = stop.get_token()}) == 1);
  StopSource later_stop;
  Caller caller(
      [&] { return expired.users.Get("key", MustNotLoad, {.stop = later_stop.get_token()}); });
  AwaitCallers(expired.users, "key", 1);
  later_stop.request_stop();
  CHECK(caller.Join().value == 1);
  CHECK(expired.later.Run() == 1);
}

TEST_CASE("ReadThrough: with a soft timeout, a load that fails leaves the expired value") {
  Users users({.ttl = 10ms,
               .stale_for = 100ms,
               .soft_timeout = 1h,
               .retry_after = 10ms,
               .executor = [](std::function<void()> task) { task(); }});
  users.Put("key", 1);
  Clock::Pass(10ms);
  CountedLoad load;
  CHECK(*users.Get("key", load.Failing()) == 1);
  CHECK(*users.Get("key", load.Failing()) == 1);
  CHECK(load.count == 1);
}

TEST_CASE("ReadThrough: a popular value is refreshed before it expires") {
  TaskQueue later;
  Users users({.ttl = 100ms, .early_refresh = 1, .executor = later.Executor()});
  const auto load = [](int value) {
    return [value] {
      Clock::Pass(10ms);
      return value;
    };
  };
  CHECK(*users.Get("key", load(1)) == 1);
  // -log(0.135) is 2.0025, so with this it is refreshed 20.025 ms before it expires.
  const Random next(0.135);
  Clock::Pass(79ms);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  CHECK(later.Count() == 0);
  Clock::Pass(1ms);
  CHECK(*users.Get("key", load(2)) == 1);
  CHECK(*users.Get("key", load(3)) == 1);
  CHECK(later.Run() == 1);
  CHECK(*users.Get("key", MustNotLoad) == 2);
  CHECK(users.GetStats().early_refreshes == 1);
  CHECK(users.GetStats().stale == 0);
}

TEST_CASE("ReadThrough: 'not found' may have a time to live of its own") {
  MaybeUsers users({.ttl = 100ms, .not_found_ttl = 10ms});
  int loads = 0;
  const auto load = [&] {
    ++loads;
    return std::optional<int>();
  };
  CHECK_FALSE(users.Get("key", load)->has_value());
  CHECK_FALSE(users.Get("key", load)->has_value());
  CHECK(loads == 1);
  Clock::Pass(10ms);
  CHECK(users.Get("key", [] { return 1; })->value() == 1);
  Clock::Pass(99ms);
  CHECK(users.Peek("key") == std::optional<std::optional<int>>(1));
}

TEST_CASE("ReadThrough: only values that the predicate wants are kept") {
  Users users({.keep_if = [](const int& value) { return value > 0; }});
  CHECK(*users.Get("key", [] { return -1; }) == -1);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  CHECK(*users.Refresh("key", [] { return -2; }) == -2);
  CHECK_FALSE(users.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a predicate that throws keeps its value from being put, and fails nobody") {
  Users users({.keep_if = [](int) -> bool { throw std::runtime_error("no"); }});
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  CHECK(users.GetStats().put_failures == 1);
  CHECK_FALSE(users.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a load may say how long its value lives") {
  Users users({.ttl = 100ms});
  CHECK(*users.Get("key", [] { return Cached(1, {.ttl = 10ms}); }) == 1);
  Clock::Pass(9ms);
  CHECK(users.Peek("key") == 1);
  Clock::Pass(1ms);
  CHECK_FALSE(users.Peek("key").has_value());
  CHECK(*users.Get("key", [](singleflight::StopToken) { return Cached(2); }) == 2);
  Clock::Pass(99ms);
  CHECK(users.Peek("key") == 2);
  CHECK(*users.Refresh("key", [] { return Cached(short(3), {.ttl = 1h}); }) == 3);
  Clock::Pass(101ms);
  CHECK(users.Peek("key") == 3);
}

TEST_CASE("ReadThrough: a load that runs in the background may say how long its value lives") {
  Expired expired;
  CHECK(*expired.users.Get("key", [] { return Cached(2, {.ttl = 1h}); }) == 1);
  expired.later.Run();
  Clock::Pass(59min);
  CHECK(*expired.users.Get("key", MustNotLoad) == 2);
  CHECK(expired.users.Refresh(
            "key", [] { return Cached(3, {.ttl = 0s}); }, expired.later.Executor()) ==
        singleflight::Role::kLeader);
  expired.later.Run();
  CHECK_FALSE(expired.users.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a caller may read the cache without writing to it") {
  Users users;
  CHECK(*users.Get("key", [] { return Cached(1, {.ttl = 0s}); }) == 1);
  CHECK_FALSE(users.Peek("key").has_value());
  users.Put("key", 2);
  CHECK(*users.Get("key", [] { return Cached(1, {.ttl = 0s}); }) == 2);
}

TEST_CASE("ReadThrough: a cache of plain values does not keep one for longer than its load says") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> users(cache);
  CHECK(*users.Get("key", [] { return Cached(1, {.ttl = 1h}); }) == 1);
  CHECK(cache.puts == 0);
  CHECK(*users.Get("key", [] { return Cached(1); }) == 1);
  CHECK(cache.puts == 1);
}

TEST_CASE("ReadThrough: a cache of one's own that keeps entries has all policies") {
  FakeCache<CacheEntry<int>> cache;
  TaskQueue later;
  InVirtualTime<int, decltype(cache)&> users(
      cache, {.ttl = 10ms, .stale_for = 100ms, .executor = later.Executor()});
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  Clock::Pass(10ms);
  CHECK(*users.Get("key", [] { return 2; }) == 1);
  later.Run();
  CHECK(cache.Peek("key")->value == 2);
}

TEST_CASE(
    "ReadThrough: an LruCache of one's own may be shared, and keeps each value for its time") {
  using Cache = singleflight::LruCache<std::string, int, singleflight::DefaultHash<std::string>,
                                       singleflight::DefaultEqual<std::string>, LruTraits>;
  Cache cache({.ttl = 100ms});
  InVirtualTime<int, Cache&> users(cache);
  CHECK(*users.Get("key", [] { return Cached(1, {.ttl = 10ms}); }) == 1);
  CHECK(cache.Get("key") == 1);
  Clock::Pass(10ms);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  Clock::Pass(99ms);
  CHECK(cache.Get("key") == 2);
  Clock::Pass(1ms);
  CHECK_FALSE(users.Peek("key").has_value());

  Cache without_ttl;
  InVirtualTime<int, Cache&> others(without_ttl);
  CHECK(*others.Get("key", [] { return Cached(1, {.ttl = 10ms}); }) == 1);
  Clock::Pass(10ms);
  CHECK(*others.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: the user's own timer may reload what it likes") {
  Users users({.ttl = 10ms});
  TaskQueue timer;
  CountedLoad load;
  users.Put("key", 0);
  for (int tick = 1; tick <= 3; ++tick) {
    Clock::Pass(9ms);
    CHECK(users.Refresh("key", load.Returning(tick), timer.Executor()) ==
          singleflight::Role::kLeader);
    timer.Run();
  }
  CHECK(*users.Get("key", MustNotLoad) == 3);
  CHECK(users.GetStats().misses == 0);
}

TEST_CASE(
    "ReadThrough: values in the default cache may use the ReadThrough when they are destroyed") {
  struct Uses {
    explicit Uses(std::function<void()> function)
        : last(std::make_shared<Last>(std::move(function))) {}
    struct Last {
      explicit Last(std::function<void()> its_function) : function(std::move(its_function)) {}
      ~Last() { function(); }
      std::function<void()> function;
    };
    std::shared_ptr<Last> last;
  };
  int destroyed = 0;
  InVirtualTime<Uses> users;
  const auto using_all = [&] {
    return Uses([&] {
      ++destroyed;
      users.Invalidate("key");
      users.InvalidateAll();
    });
  };
  users.Put("key", using_all());
  users.Put("key", using_all());
  CHECK(destroyed == 2);  // the first one's destructor has removed the second
  users.Put("key", using_all());
  static_cast<void>(users.Refresh("key", [] { return Uses([] {}); }));
  CHECK(destroyed == 3);
  users.Put("key", using_all());
  users.Invalidate("key");
  CHECK(destroyed == 4);
  users.Put("key", using_all());
  users.InvalidateIf([](const std::string&) { return true; });
  CHECK(destroyed == 5);
}

TEST_CASE("ReadThrough: it tells how long loads took") {
  Users users;
  for (int i = 1; i <= 100; ++i) {
    static_cast<void>(users.Get(std::to_string(i), [i] {
      Clock::Pass(std::chrono::milliseconds(i));
      return i;
    }));
  }
  CHECK(users.LoadTimes().Count() == 100);
  CHECK(users.LoadTimes().Sum() == 5050ms);
  CHECK(users.LoadTimes().Quantile(0.5) > 48ms);
  CHECK(users.LoadTimes().Quantile(0.5) < 52ms);
}

TEST_CASE("ReadThrough: options that make no sense are refused") {
  const auto refused = [](Users::Options options) {
    CHECK_THROWS_AS(Users(std::move(options)), std::invalid_argument);
  };
  refused({.ttl = 0s});
  refused({.jitter = 1.0});
  refused({.jitter = -0.1});
  refused({.jitter = std::numeric_limits<double>::quiet_NaN()});
  refused({.stale_for = -1s});
  refused({.soft_timeout = 1s});
  refused({.stale_for = 1s, .soft_timeout = -1s});
  refused({.early_refresh = -1});
  refused({.early_refresh = std::numeric_limits<double>::infinity()});
  refused({.retry_after = -1s});
  refused({.not_found_ttl = 1s});
  refused({.cache_not_found = true});
  refused({.capacity = 0});
  CHECK_THROWS_AS(MaybeUsers({.not_found_ttl = 0s}), std::invalid_argument);
}

TEST_CASE("ReadThrough: the ttl of an LruCache of its own holds also if it keeps CacheEntries") {
  using Key = std::string;
  using Cache = singleflight::LruCache<Key, CacheEntry<int>, singleflight::DefaultHash<Key>,
                                       singleflight::DefaultEqual<Key>, LruTraits>;
  Cache cache({.ttl = 10s});
  InVirtualTime<int, Cache&> users(cache);
  REQUIRE(*users.Get("key", [] { return 1; }) == 1);
  Clock::Pass(10s - 1ns);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  Clock::Pass(1ns);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
}

TEST_CASE("ReadThrough: options that a cache of plain values cannot fulfil are refused") {
  FakeCache<int> cache;
  using Plain = ReadThrough<std::string, int, FakeCache<int>&>;
  CHECK_THROWS_AS(Plain(cache, {.ttl = 1s}), std::invalid_argument);
  CHECK_THROWS_AS(Plain(cache, {.stale_for = 1s}), std::invalid_argument);
  CHECK_THROWS_AS(Plain(cache, {.early_refresh = 1}), std::invalid_argument);
  CHECK_THROWS_AS(Plain(cache, {.jitter = 0.1}), std::invalid_argument);
  CHECK_THROWS_AS(Plain(cache, {.capacity = 10}), std::invalid_argument);
  CHECK_NOTHROW(Plain(cache, {.retry_after = 1s, .keep_if = [](int) { return true; }}));
}

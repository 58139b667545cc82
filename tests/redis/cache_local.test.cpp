// SPDX-License-Identifier: MIT

// Tests the local cache of a redis::ReadThrough: what it keeps and for how long, and that no value
// is used which may have been invalidated elsewhere.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

PageOptions Local(std::chrono::nanoseconds local_ttl = 1h) {
  PageOptions options = LongTtl();
  options.local_ttl = local_ttl;
  return options;
}

struct User {
  const int id;
};

}  // namespace

template <>
struct singleflight::redis::Codec<User> {
  static std::string Encode(const User& user) { return std::to_string(user.id); }
  static std::optional<User> Decode(std::string_view text) {
    return User{std::stoi(std::string(text))};
  }
};

TEST_CASE("redis::ReadThrough: a local value is used until local_ttl, and then the server asked") {
  const RedisServer server;
  CachePages pages(server, Local(30ms));
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  const auto begin = std::chrono::steady_clock::now();
  REQUIRE(*pages.Get("k", NeverRun) == "v");  // the server's
  const auto hits = pages.GetStats().hits;
  Await([&] {
    REQUIRE(*pages.Get("k", NeverRun) == "v");
    return pages.GetStats().hits > hits;
  });
  CHECK(std::chrono::steady_clock::now() >= begin + 30ms);
}

TEST_CASE("redis::ReadThrough: a local value is fresh no longer than the server's") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, LongTtl());
  AwaitListening(here);
  here.Put("k", "old");
  Age(server, "k", 1h - 20ms);
  const std::string first = *here.Get("k", [] { return "new"s; });
  Await([&] { return *here.Get("k", [] { return "new"s; }) == "new"; });
  CHECK((first == "old" || first == "new"));
}

TEST_CASE("redis::ReadThrough: a local hit asks nobody, also while the server does not answer") {
  RedisServer server;
  CachePages pages(server, Local());
  AwaitListening(pages);
  REQUIRE(*pages.Get("k", [] { return "v"s; }) == "v");
  AwaitNoLease(server, "k");
  server.Stop();
  for (int i = 0; i < 100; ++i) REQUIRE(*pages.Get("k", NeverRun) == "v");
  CHECK(pages.Peek("k") == "v");
  auto future = DoAsync(pages, "k", NeverRun);
  CHECK(*future.Get() == "v");
  server.Continue();
  CHECK(pages.GetStats().local_hits == 101);
  CHECK(pages.GetStats().hits == 0);
}

TEST_CASE("redis::ReadThrough: a local hit allocates nothing but the copy") {
  const RedisServer server;
  PageOptions options = Local();
  CachePages pages(server, options);
  AwaitListening(pages);
  const std::string small = "v", large(1000, 'x');
  PutAndHear(pages, "small", small);
  PutAndHear(pages, "large", large);
  for (const char* key : {"small", "large"}) REQUIRE(!pages.Get(key, NeverRun)->empty());
  const auto allocated = [&](const char* key) {
    const std::size_t before = allocations;
    const auto result = pages.Get(key, NeverRun);
    return allocations - before;
  };
  CHECK(allocated("small") == 0);
  CHECK(allocated("large") == 1);
}

TEST_CASE("redis::ReadThrough: a message removes the value that was invalidated, and no other") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, LongTtl());
  AwaitListening(here);
  for (const char* key : {"a", "b"}) REQUIRE(*here.Get(key, [] { return "old"s; }) == "old");
  SECTION("Invalidate") { there.Invalidate("a"); }
  SECTION("Put") { there.Put("a", "put"); }
  Await([&] { return here.GetStats().invalidations == 1; });
  CHECK(*here.Get("a", [] { return "put"s; }) == "put");
  const auto hits = here.GetStats().local_hits;
  CHECK(*here.Get("b", NeverRun) == "old");
  CHECK(here.GetStats().local_hits == hits + 1);
}

TEST_CASE("redis::ReadThrough: its own changes reach the local cache before they return") {
  const RedisServer server;
  CachePages pages(server, Local());
  AwaitListening(pages);
  for (int i = 0; i < 20; ++i) {
    const std::string value = std::to_string(i);
    switch (i % 3) {
      case 0:
        pages.Put("k", value);
        break;
      case 1:
        pages.Invalidate("k");
        break;
      default:
        pages.InvalidateAll();
    }
    CHECK(*pages.Get("k", [&] { return value; }) == value);
    CHECK(*pages.Get("k", NeverRun) == value);
  }
}

TEST_CASE("redis::ReadThrough: InvalidateAll empties the local caches of other processes") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, Local());
  AwaitListening(here);
  for (const char* key : {"a", "b"}) REQUIRE(*here.Get(key, [] { return "old"s; }) == "old");
  const auto emptied = here.GetStats().emptied;
  there.InvalidateAll();
  Await([&] { return here.GetStats().emptied > emptied; });
  for (const char* key : {"a", "b"}) CHECK(*here.Get(key, [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: a value asked for before a message came is not kept after it") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, LongTtl());
  AwaitListening(here);
  SECTION("a load") {
    HeldLoad load("old");
    test::Caller loading([&] { return here.Get("k", load.Load()); });
    load.AwaitBegun();
    there.Invalidate("k");
    Await([&] { return here.GetStats().invalidations == 1; });
    load.Finish();
    CHECK(loading.Join().value == "old");
  }
  SECTION("a load elsewhere") {
    HeldLoad load("old");
    test::Caller loading([&] { return there.Get("k", load.Load()); });
    load.AwaitBegun();
    test::Caller following([&] { return here.Get("k", NeverRun); });
    AwaitCacheFollowers(server, "k", 1);
    there.InvalidateAll();
    const auto emptied = here.GetStats().emptied;
    static_cast<void>(emptied);
    Await([&] { return here.GetStats().emptied >= 3; });
    load.Finish();
    CHECK(following.Join().value == "old");
  }
  CHECK(*here.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: a hit whose answer comes after a message is not kept") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages here(LongTimeouts(proxy.Socket()), Local()), there(server, LongTtl());
  AwaitListening(here);
  there.Put("k", "old");
  Await([&] { return here.GetStats().invalidations == 1; });
  REQUIRE(here.Peek("k") == "old");
  REQUIRE(*there.Get("k", NeverRun) == "old");  // the server knows the script from now on
  AwaitAnswersOf(here);
  const HeldAnswer answer(proxy);
  test::Caller caller([&] { return here.Get("k", NeverRun); });
  answer.AwaitAnswered();
  there.Invalidate("k");
  Await([&] { return here.GetStats().invalidations == 2; });
  proxy.Release();
  CHECK(caller.Join().value == "old");
  CHECK(*here.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: an old value is not for callers who began after its invalidation") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  PageOptions options = Local(1ms);
  options.stale_for = 1h;
  CachePages here(LongTimeouts(proxy.Socket()), options), there(server, LongTtl());
  AwaitListening(here);
  there.Put("k", "old");
  Await([&] { return here.GetStats().invalidations == 1; });
  REQUIRE(*here.Get("k", NeverRun) == "old");
  const auto kept = std::chrono::steady_clock::now();
  Await([&] { return std::chrono::steady_clock::now() > kept + 1ms; });  // it has expired
  server.Ask("CONFIG", "RESETSTAT");
  const auto in_flight = [&] { return here.GetStats().fleet.calls.in_flight; };
  proxy.HoldAt(EndOfReplies(proxy));
  test::Caller asking([&] { return here.Get("k", NeverRun); });
  Await([&] { return Calls(server, "evalsha") + Calls(server, "eval") == 1; });
  const auto fail = []() -> std::string { throw std::runtime_error("the load has failed"); };
  // It has the old value, and waits until nobody else asks.
  test::Caller waiting([&] { return here.Get("k", fail); });
  Await([&] { return in_flight() == 2; });
  there.Invalidate("k");
  Await([&] { return here.GetStats().invalidations == 2; });
  test::Caller later([&] { return here.Get("k", fail); });
  Await([&] { return here.GetStats().fleet.calls.followers == 1; });
  proxy.Release();
  CHECK(asking.Join().value == "old");
  CHECK(later.Join().message == "the load has failed");
  waiting.Join();
}

TEST_CASE("redis::ReadThrough: when messages may have been lost, no older local value is used") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages here(LongTimeouts(proxy.Socket()), Local());
  CachePages there(server, LongTtl());
  AwaitListening(here);
  REQUIRE(*here.Get("k", [] { return "old"s; }) == "old");
  AwaitNoLease(server, "k");
  const auto emptied = here.GetStats().emptied;
  proxy.GoAway();
  there.Put("k", "new");  // nobody here hears of it
  proxy.ComeBack();
  Await([&] { return here.GetStats().emptied > emptied; });
  CHECK(*here.Get("k", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: while the server is away, callers get expired local values") {
  RedisServer server;
  PageOptions options = Local(1ns);
  options.stale_for = 1h;
  options.fleet.on_outage = GENERATE(redis::OnOutage::kFail, redis::OnOutage::kRunLocally);
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  server.Kill();
  for (int i = 0; i < 3; ++i) CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(pages.GetStats().stale == 3);
  server.Start();
  Await([&] { return *pages.Get("k", [] { return "new"s; }) == "new"; });
}

TEST_CASE(
    "redis::ReadThrough: without stale_for, an expired local value is not used in an outage") {
  RedisServer server;
  CachePages pages(server, Local(1ns));
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  server.Kill();
  CHECK((Keep([&] { return pages.Get("k", NeverRun); }).error == std::errc::not_connected));
}

TEST_CASE("redis::ReadThrough: with an expired local value, a hung server delays by soft_timeout") {
  RedisServer server;
  PageOptions options = Local(1ns);
  options.stale_for = 1h;
  options.soft_timeout = 20ms;
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  server.Stop();
  const auto begin = std::chrono::steady_clock::now();
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(std::chrono::steady_clock::now() - begin >= 20ms);
  CHECK(std::chrono::steady_clock::now() - begin < 30s);
  server.Continue();
}

TEST_CASE("redis::ReadThrough: a load that fails gets its callers the expired local value") {
  RedisServer server;
  PageOptions options = Local(1ns);
  options.stale_for = 1h;
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "old"s);
  REQUIRE(*pages.Get("k", NeverRun) == "old");
  server.Ask("DEL", CacheName(server, "k", "value"));
  Await([&] { return !pages.Peek("k").has_value(); });
  CHECK(*pages.Get("k", []() -> std::string { throw 7; }) == "old");
  CHECK(pages.GetStats().stale == 1);
  CHECK(*pages.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: a local value is of no use when stale_for is over on the server") {
  const RedisServer server;
  PageOptions options = Local();
  options.stale_for = 1h;
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "old"s);
  Age(server, "k", 2h - 300ms);
  const auto load = []() -> std::string { throw std::runtime_error("down"); };
  REQUIRE(*pages.Get("k", load) == "old");  // kept here, too
  Await([&] { return Keep([&] { return pages.Get("k", load); }).value != "old"; });
}

TEST_CASE(
    "redis::ReadThrough: the local cache is bounded by entries, or by what the weigher says") {
  const RedisServer server;
  PageOptions options = Local();
  options.local_capacity = 100;
  if (GENERATE(false, true)) {
    options.local_weigher = [](const std::string& key, const std::string& value) {
      return key.size() + value.size();
    };
  }
  CachePages pages(server, options);
  AwaitListening(pages);
  for (int i = 0; i < 300; ++i) {
    REQUIRE(*pages.Get(std::to_string(i), [] { return std::string(17, 'x'); }) ==
            std::string(17, 'x'));
  }
  const auto evictions = pages.GetStats().evictions;
  CHECK(evictions >= 200);
  CHECK(evictions < 300);
  CHECK((evictions >= 295) == static_cast<bool>(options.local_weigher));
  CHECK(*pages.Get("0", NeverRun) == std::string(17, 'x'));  // it is on the server
}

TEST_CASE("redis::ReadThrough: a value need not be assignable") {
  const RedisServer server;
  redis::ReadThroughOptions<User> options{.ttl = 1h, .stale_for = 1h, .local_ttl = 1h};
  CacheProcess<User> here(server, options), there(server, options);
  CHECK(here.Get("k", [] { return User{1}; })->id == 1);
  AwaitNoLease(server, "k");
  CHECK(there.Get("k", [] { return User{2}; })->id == 1);
  CHECK(there.Peek("k")->id == 1);
  const auto load = [](std::span<const std::string>) { return std::vector<User>{{3}}; };
  CHECK(DoMany(here, std::vector<std::string>{"m"}, load)[0]->id == 3);
}

TEST_CASE("redis::ReadThrough: a weigher that throws keeps the value from being kept here") {
  const RedisServer server;
  PageOptions options = Local();
  options.local_weigher = [](const std::string&, const std::string&) -> std::size_t { throw 7; };
  CachePages pages(server, options);
  AwaitListening(pages);
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
  AwaitNoLease(server, "k");
  for (int i = 0; i < 2; ++i) CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(pages.GetStats().hits == 2);
  CHECK(pages.GetStats().local_hits == 0);
}

TEST_CASE("redis::ReadThrough: a value that is not put is not kept here, either") {
  const RedisServer server;
  PageOptions options = Local();
  options.keep_if = [](const std::string& value) { return value != "unwanted"; };
  CachePages pages(server, options);
  AwaitListening(pages);
  CHECK(*pages.Get("k", [] { return "unwanted"s; }) == "unwanted");
  CHECK(*pages.Get("k", [] { return Cached("zero"s, {.ttl = 0s}); }) == "zero");
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
}

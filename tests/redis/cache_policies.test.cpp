// SPDX-License-Identifier: MIT

// Tests the policies of redis::ReadThrough: how long values are fresh, when one process of all
// loads a new one, and what is not put.

#include <atomic>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <set>
#include <singleflight/redis_read_through.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

struct Reply {
  int status = 0;
};
[[maybe_unused]] bool IsFailure(const Reply& reply) { return reply.status >= 500; }
[[maybe_unused]] bool IsNotFound(const Reply& reply) { return reply.status == 404; }

// One that does not work is a failure, of which its codec has nothing to say.
struct Mute {
  bool works = true;
};
[[maybe_unused]] bool IsFailure(const Mute& mute) { return !mute.works; }

[[noreturn]] std::string Fail(const std::string& why = "the load has failed") {
  throw std::runtime_error(why);
}

std::string MessageOf(const std::function<void()>& make) {
  try {
    make();
    return "none";
  } catch (const std::invalid_argument& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("redis::ReadThrough: who follows a forgotten load does not wait for what nobody loads") {
  const RedisServer server;
  PageOptions options = Stale();
  options.fleet.linger = 50ms;  // whoever follows asks again that often
  CachePages leading(server, options), following(server, options), other(server, options);
  HeldLoad load("old");
  test::Caller leader([&] { return leading.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller follower([&] { return following.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  PutExpired(server, other, "other");
  other.Invalidate("k");
  server.Ask("COPY", CacheName(server, "other", "value"), CacheName(server, "k", "value"));
  CHECK(follower.Join().value == "old");
  load.Finish();
  CHECK(leader.Join().value == "old");
}

template <>
struct singleflight::redis::Codec<Reply> {
  static std::string Encode(const Reply& reply) { return std::to_string(reply.status); }
  static std::optional<Reply> Decode(std::string_view text) {
    return Reply{std::stoi(std::string(text))};
  }
};

template <>
struct singleflight::redis::Codec<Mute> {
  static std::string Encode(const Mute& mute) {
    if (!mute.works) throw std::runtime_error("nothing to say");
    return "works";
  }
  static std::optional<Mute> Decode(std::string_view) { return Mute{true}; }
};

// ---- ttl

TEST_CASE("redis::ReadThrough: a value is fresh for its ttl after it was put, and no longer") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  const auto before = ServerTime(server);
  REQUIRE(*here.Get("k", [] { return "first"s; }) == "first");
  AwaitNoLease(server, "k");
  const auto after = ServerTime(server);
  CHECK(FreshUntil(server, "k") >= before + 1h);
  CHECK(FreshUntil(server, "k") <= after + 1h);
  CHECK(TimeLeft(server, "k") <= 1h);  // nobody has a use for it after that
  Age(server, "k", 59min);
  CHECK(*there.Get("k", NeverRun) == "first");
  Age(server, "k", 1min);
  CHECK(*there.Get("k", [] { return "second"s; }) == "second");
  CHECK(*here.Get("k", NeverRun) == "second");
  CHECK(here.GetStats().loads == 1);
  CHECK(there.GetStats().hits == 1);
}

TEST_CASE(
    "redis::ReadThrough: without stale_for no expired value is used, and no load outlives Get") {
  // The server's own expiry is in milliseconds, and may come later.
  const RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "old");
  const std::string name = CacheName(server, "k", "value");
  server.Ask("EVAL",
             "local v, t = redis.call('GET', KEYS[1]), redis.call('TIME') "
             "redis.call('SET', KEYS[1], string.format('%010d%06d', t[1], t[2]) .. "
             "string.sub(v, 17), 'KEEPTTL')",
             "1", name);
  REQUIRE(TimeLeft(server, "k") > 59min);
  CHECK_FALSE(pages.Peek("k").has_value());
  std::thread::id ran_on;
  CHECK(*pages.Get("k", [&] {
    ran_on = std::this_thread::get_id();
    return "new"s;
  }) == "new");
  CHECK(ran_on == std::this_thread::get_id());
}

TEST_CASE("redis::ReadThrough: no process tells the server what time it is") {
  // So processes whose clocks differ agree about a value: only durations and what the server has
  // said are sent.
  const RedisServer server;
  PageOptions options = Stale();
  options.jitter = 0.1;
  options.early_refresh = 1;
  options.retry_after = 1min;
  options.local_ttl = 1min;
  CachePages here(server, options), there(server, options);
  server.Ask("CONFIG", "SET", "slowlog-log-slower-than", "0");
  server.Ask("CONFIG", "SET", "slowlog-max-len", "1000");
  HeldLoad load("v");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  const auto fence_of = [&](const std::string& key) {
    return server.Ask("HGET", CacheName(server, key, "lease"), "fence").text;
  };
  std::set<std::string> known = {GenerationOf(server), fence_of("k")};
  load.Finish();
  REQUIRE(following.Join().value == "v");
  const auto load_w = [&] {
    known.insert(fence_of("k2"));
    return "w"s;
  };
  REQUIRE(Keep([&] { return here.Get("k2", load_w); }).value == "w");
  here.Put("k", "w");
  here.Invalidate("k");
  std::size_t words = 0;
  const auto now = static_cast<long double>(ServerTime(server).count());
  for (const RedisAnswer& entry : server.Ask("SLOWLOG", "GET", "1000").elements) {
    if (!entry.elements.at(3).elements.at(0).text.starts_with("EVAL")) continue;  // a script's own
    for (const RedisAnswer& word : entry.elements.at(3).elements) {
      ++words;
      if (known.contains(word.text) || word.text.size() < 10 || word.text.size() > 20 ||
          word.text.find_first_not_of("0123456789") != std::string::npos) {
        continue;
      }
      INFO(word.text);
      for (const long double unit : {1e6L, 1e3L, 1.0L, 1e-3L}) {
        const long double apart = std::stold(word.text) * unit - now;
        CHECK((apart < -86'400e6L || apart > 86'400e6L));
      }
    }
  }
  CHECK(words > 100);
}

TEST_CASE(
    "redis::ReadThrough: jitter makes values expire earlier, by up to its part, not together") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.jitter = 0.5;
  CachePages pages(server, options);
  const auto before = ServerTime(server);
  std::set<std::int64_t> minutes;
  for (int i = 0; i < 40; ++i) {
    const std::string key = std::to_string(i);
    pages.Put(key, "v");
    const auto fresh_for = FreshUntil(server, key) - before;
    CHECK(fresh_for >= 30min - 1ms);
    CHECK(fresh_for <= 1h + (ServerTime(server) - before));
    minutes.insert(std::chrono::duration_cast<std::chrono::minutes>(fresh_for).count());
  }
  CHECK(minutes.size() > 5);  // 40 values in 30 minutes: all in 5 of them has odds of 1 : 10^25
}

// ---- stale_for

TEST_CASE("redis::ReadThrough: an expired value is served while one process of all loads") {
  const RedisServer server;
  CachePages here(server, Stale()), there(server, Stale());
  PutExpired(server, here, "k");
  CHECK(TimeLeft(server, "k") > 59min);
  HeldLoad load("new");
  CHECK(*here.Get("k", load.Load()) == "old");  // it does not wait for the load
  load.AwaitBegun();
  for (int i = 0; i < 5; ++i) {
    CHECK(*there.Get("k", NeverRun) == "old");
    CHECK(*here.Get("k", NeverRun) == "old");
  }
  CHECK(load.Runs() == 1);
  CHECK(here.GetStats().stale == 6);
  load.Finish();
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", NeverRun) == "new");
  CHECK(*here.Get("k", NeverRun) == "new");
  CHECK(here.GetStats().loads == 1);
  CHECK(there.GetStats().loads == 0);
  CHECK(there.GetStats().stale == 5);
}

TEST_CASE("redis::ReadThrough: a value is not served after stale_for") {
  const RedisServer server;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  Age(server, "k", 1h);
  CHECK(*pages.Get("k", [] { return "new"s; }) == "new");
  CHECK(pages.GetStats().stale == 0);
}

TEST_CASE("redis::ReadThrough: a refresh that fails leaves the expired value, and the next tries") {
  const RedisServer server;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  for (int i = 0; i < 3; ++i) {
    HeldLoad load(HeldLoad::And([] { return Fail(); }));
    CHECK(*pages.Get("k", load.Load()) == "old");
    load.AwaitBegun();
    load.Finish();
    AwaitNoLease(server, "k");
  }
  CHECK(pages.GetStats().loads == 3);
  CHECK(*pages.Get("k", [] { return "new"s; }) == "old");
  AwaitNoLease(server, "k");
  CHECK(*pages.Get("k", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: a process that dies while it refreshes is replaced") {
  const RedisServer server;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  {
    CachePages doomed(server, Stale());
    HeldLoad load("never");
    REQUIRE(*doomed.Get("k", load.Load()) == "old");
    load.AwaitBegun();
    REQUIRE(*pages.Get("k", NeverRun) == "old");
    server.Ask("DEL", CacheName(server, "k", "lease"));  // as if the lease had expired
    CHECK(*pages.Get("k", [] { return "new"s; }) == "old");
    Await([&] { return pages.Peek("k") == "new"; });
    load.Finish();
  }
  CHECK(*pages.Get("k", NeverRun) == "new");  // what was loaded without a lease was not put
}

// ---- soft_timeout

TEST_CASE(
    "redis::ReadThrough: with soft_timeout, callers of all processes wait for the new value") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load("new");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller beside([&] { return here.Get("k", NeverRun); });
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 2);  // this process follows its own load, too
  load.Finish();
  CHECK(loading.Join().value == "new");
  CHECK(beside.Join().value == "new");
  CHECK(following.Join().value == "new");
  CHECK(load.Runs() == 1);
  CHECK(here.GetStats().stale == 0);
}

TEST_CASE(
    "redis::ReadThrough: after soft_timeout callers get the expired value, the load goes on") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = GENERATE(as<Duration>(), 0ms, 5ms);
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load("new");
  CHECK(*here.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  CHECK(*there.Get("k", NeverRun) == "old");
  CHECK(*here.Get("k", NeverRun) == "old");
  CHECK(load.Runs() == 1);
  CHECK(here.GetStats().stale == 2);
  load.Finish();
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", NeverRun) == "new");
}

TEST_CASE(
    "redis::ReadThrough: if the load fails, callers with soft_timeout get the expired value") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load(HeldLoad::And([] { return Fail(); }));
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 2);
  load.Finish();
  CHECK(loading.Join().value == "old");
  CHECK(following.Join().value == "old");
}

// ---- early_refresh

TEST_CASE("redis::ReadThrough: a value whose load took long is refreshed early, by one process") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.early_refresh = 1;
  CachePages here(server, options), there(server, options);
  here.Put("k", "old");
  CHECK(*here.Get("k", NeverRun) == "old");  // a value that was put by hand took no time
  SetLoadTime(server, "k", std::chrono::hours(1'000'000));
  HeldLoad load("new");
  CHECK(*here.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  CHECK(*there.Get("k", NeverRun) == "old");
  CHECK(here.GetStats().stale == 0);
  load.Finish();
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", NeverRun) == "new");
  CHECK(here.GetStats().early_refreshes == 1);
  CHECK(there.GetStats().early_refreshes == 0);
}

TEST_CASE("redis::ReadThrough: without early_refresh, a fresh value is not loaded again") {
  const RedisServer server;
  CachePages pages(server, Stale());
  pages.Put("k", "old");
  SetLoadTime(server, "k", std::chrono::hours(1'000'000));
  CHECK(*pages.Get("k", NeverRun) == "old");
  CHECK(pages.GetStats().loads == 0);
}

TEST_CASE("redis::ReadThrough: with a value, the server keeps how long its load took") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  HeldLoad load("v");
  const auto before = std::chrono::steady_clock::now();
  test::Caller caller([&] { return pages.Get("k", load.Load()); });
  load.AwaitBegun();
  const auto begun = std::chrono::steady_clock::now();
  Await([&] { return std::chrono::steady_clock::now() >= begun + 20ms; });
  const auto at_least = std::chrono::steady_clock::now() - begun;
  load.Finish();
  caller.Join();
  AwaitNoLease(server, "k");
  const std::chrono::microseconds kept(
      std::stoll(server.Get(CacheName(server, "k", "value")).value().substr(16, 16)));
  CHECK(kept >= std::chrono::duration_cast<std::chrono::microseconds>(at_least));
  CHECK(kept <= std::chrono::steady_clock::now() - before);
  CHECK(pages.LoadTimes().Count() == 1);
}

// ---- Counts

TEST_CASE("redis::ReadThrough: who waits for a new value counts as a hit of the expired one") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load("new");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 2);
  load.Finish();
  CHECK(loading.Join().value == "new");
  CHECK(following.Join().value == "new");
  for (const CachePages* pages : {&here, &there}) {
    CHECK(pages->GetStats().hits == 1);
    CHECK(pages->GetStats().stale == 0);
  }
  CHECK(here.GetStats().loads == 1);
  CHECK(here.GetStats().fleet.remote == 0);
  CHECK(there.GetStats().fleet.remote == 1);
}

TEST_CASE("redis::ReadThrough: a value that is fresh for less than a millisecond is not stale") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.early_refresh = 1e-9;  // so that every Get asks by the script
  CachePages pages(server, options);
  pages.Put("k", "v");
  Await([&] {
    server.Ask("EVAL", R"lua(
      local now, value = redis.call('TIME'), redis.call('GET', KEYS[1])
      local fresh_until = now[1] * 1000000 + now[2] + 900
      value = string.format('%016.0f', fresh_until) .. string.sub(value, 17)
      redis.call('SET', KEYS[1], value, 'KEEPTTL')
    )lua",
               "1", CacheName(server, "k", "value"));
    REQUIRE(*pages.Get("k", [] { return "v"s; }) == "v");
    return pages.GetStats().hits >= 5;
  });
  CHECK(pages.GetStats().stale == 0);
}

// ---- retry_after

TEST_CASE("redis::ReadThrough: after a failure no process loads until retry_after is over") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.retry_after = 1min;
  CachePages here(server, options), there(server, options);
  CHECK(Keep([&] { return here.Get("k", [] { return Fail("why"); }); }).message == "why");
  AwaitNoLease(server, "k");
  CHECK(TimeLeft(server, "k", "failed") <= 1min);
  CHECK(TimeLeft(server, "k", "failed") > 50s);
  CHECK(Keep([&] { return there.Get("k", NeverRun); }).message == "why");
  CHECK(Keep([&] { return here.Get("k", NeverRun); }).message == "why");
  Age(server, "k", 1min);
  CHECK(*there.Get("k", [] { return "v"s; }) == "v");
  CHECK(*here.Get("k", NeverRun) == "v");
}

TEST_CASE("redis::ReadThrough: until retry_after is over, callers get the expired value") {
  const RedisServer server;
  PageOptions options = Stale();
  options.retry_after = 1min;
  if (GENERATE(false, true)) options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load(HeldLoad::And([] { return Fail(); }));
  load.Finish();
  CHECK(*here.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  AwaitNoLease(server, "k");
  CHECK(*here.Get("k", NeverRun) == "old");
  CHECK(*there.Get("k", NeverRun) == "old");
  CHECK(here.GetStats().loads == 1);
  server.Ask("DEL", CacheName(server, "k", "failed"));  // its time is over
  HeldLoad next("new");
  next.Finish();
  CHECK((*there.Get("k", next.Load()) == (options.soft_timeout ? "new" : "old")));
  next.AwaitBegun();
  AwaitNoLease(server, "k");
  CHECK(*here.Get("k", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: without retry_after, the caller after a failure loads") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  CHECK(Keep([&] { return pages.Get("k", [] { return Fail("1"); }); }).message == "1");
  CHECK(Keep([&] { return pages.Get("k", [] { return Fail("2"); }); }).message == "2");
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
}

TEST_CASE("redis::ReadThrough: Invalidate ends retry_after") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.retry_after = 1h;
  CachePages here(server, options), there(server, options);
  CHECK(Keep([&] { return here.Get("k", [] { return Fail("why"); }); }).message == "why");
  AwaitNoLease(server, "k");
  there.Invalidate("k");
  CHECK(*here.Get("k", [] { return "v"s; }) == "v");
}

TEST_CASE("redis::ReadThrough: a value that is a failure is not put, and counts for retry_after") {
  const RedisServer server;
  redis::ReadThroughOptions<Reply> options{.ttl = 1h};
  if (GENERATE(false, true)) options.retry_after = 1min;
  CacheProcess<Reply> here(server, options), there(server, options);
  CHECK(here.Get("k", [] { return Reply{503}; })->status == 503);
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
  CHECK(Has(server, "k", "failed") == (options.retry_after.count() > 0));
  const int status = there.Get("k", [] { return Reply{200}; })->status;
  CHECK(status == (options.retry_after.count() > 0 ? 503 : 200));
}

TEST_CASE("redis::ReadThrough: a refresh that returns a failure leaves the expired value") {
  const RedisServer server;
  redis::ReadThroughOptions<Reply> options{.ttl = 1h, .stale_for = 1h, .soft_timeout = 1h};
  CacheProcess<Reply> pages(server, options);
  pages.Put("k", Reply{200});
  Age(server, "k", 61min);
  CHECK(pages.Get("k", [] { return Reply{503}; })->status == 200);
  AwaitNoLease(server, "k");
  CHECK(pages.Peek("k").value().status == 200);
}

// ---- What is put, and for how long

TEST_CASE("redis::ReadThrough: not found is put only if the options say so") {
  const RedisServer server;
  redis::ReadThroughOptions<Reply> options{.ttl = 1h};
  options.cache_not_found = GENERATE(false, true);
  CacheProcess<Reply> pages(server, options);
  CHECK(pages.Get("k", [] { return Reply{404}; })->status == 404);
  AwaitNoLease(server, "k");
  CHECK(Has(server, "k", "value") == options.cache_not_found);
  CHECK(pages.Get("k", [] { return Reply{200}; })->status == (options.cache_not_found ? 404 : 200));
}

TEST_CASE("redis::ReadThrough: not_found_ttl says how long not found is fresh") {
  const RedisServer server;
  CacheProcess<std::optional<int>> pages(server, {.ttl = 1h, .not_found_ttl = 1min});
  const auto before = ServerTime(server);
  CHECK_FALSE(pages.Get("k", [] { return std::optional<int>(); })->has_value());
  CHECK(**pages.Get("found", [] { return std::optional<int>(1); }) == 1);
  AwaitNoLease(server, "k");
  AwaitNoLease(server, "found");
  CHECK(FreshUntil(server, "k") >= before + 1min);
  CHECK(FreshUntil(server, "k") <= ServerTime(server) + 1min);
  CHECK(FreshUntil(server, "found") >= before + 1h);
  REQUIRE(pages.Peek("k").has_value());
  CHECK_FALSE(pages.Peek("k").value().has_value());
}

TEST_CASE("redis::ReadThrough: not found that is not put removes the value that has expired") {
  const RedisServer server;
  redis::ReadThroughOptions<Reply> options{.ttl = 1h, .stale_for = 1h, .soft_timeout = 1h};
  CacheProcess<Reply> pages(server, options);
  pages.Put("k", Reply{200});
  Age(server, "k", 61min);
  CHECK(pages.Get("k", [] { return Reply{404}; })->status == 404);
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
}

TEST_CASE("redis::ReadThrough: a load may say how long its value is fresh") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  const auto before = ServerTime(server);
  CHECK(*here.Get("k", [] { return Cached("v"s, {.ttl = 1min}); }) == "v");
  AwaitNoLease(server, "k");
  CHECK(FreshUntil(server, "k") >= before + 1min);
  CHECK(FreshUntil(server, "k") <= ServerTime(server) + 1min);
  CHECK(*there.Get("k", NeverRun) == "v");
  there.Put("k", Cached("put"s, {.ttl = 2min}));
  CHECK(FreshUntil(server, "k") >= before + 2min);
  CHECK(FreshUntil(server, "k") <= ServerTime(server) + 2min);
  CHECK(*here.Get("k", NeverRun) == "put");
}

TEST_CASE("redis::ReadThrough: a value whose load says zero is not put, and reaches its callers") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  HeldLoad load("v");
  test::Caller loading(
      [&] { return here.Get("k", [&] { return Cached(load.Load()(), {.ttl = 0s}); }); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(loading.Join().value == "v");
  CHECK(following.Join().value == "v");
  CHECK_FALSE(there.Peek("k").has_value());
  here.Put("k", "w");
  here.Put("k", Cached("v"s, {.ttl = 0s}));
  CHECK_FALSE(there.Peek("k").has_value());
}

TEST_CASE("redis::ReadThrough: a value that keep_if does not want is not put, and replaces one") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  options.keep_if = [](const std::string& value) { return value != "unwanted"; };
  CachePages pages(server, options);
  CHECK(*pages.Get("k", [] { return "unwanted"s; }) == "unwanted");
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
  PutExpired(server, pages, "k");
  CHECK(*pages.Get("k", [] { return "unwanted"s; }) == "unwanted");
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
  pages.Put("k", "unwanted");  // a Put is not asked
  CHECK(*pages.Get("k", NeverRun) == "unwanted");
}

TEST_CASE("redis::ReadThrough: if keep_if throws, the value is not put, and all callers get it") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.keep_if = [](const std::string&) -> bool { throw 7; };
  CachePages here(server, options), there(server, options);
  HeldLoad load("v");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(loading.Join().value == "v");
  CHECK(following.Join().value == "v");
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
  CHECK(here.GetStats().fleet.calls.failures == 0);
}

TEST_CASE("redis::ReadThrough: a value over max_value is not put, and each process loads its own") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.fleet.max_value = 10;
  CachePages here(server, options), there(server, options);
  HeldLoad load(std::string(11, 'h'));
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", [] { return std::string(11, 't'); }); });
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(loading.Join().value == std::string(11, 'h'));
  CHECK(following.Join().value == std::string(11, 't'));
  CHECK_FALSE(Has(server, "k", "value"));
  CHECK(
      (ErrorOf([&] { return here.Put("k", std::string(11, 'p')), 0; }) == std::errc::message_size));
  here.Put("k", std::string(10, 'p'));
  CHECK(*there.Get("k", NeverRun) == std::string(10, 'p'));
}

TEST_CASE("redis::ReadThrough: a refreshed value over max_value removes the old one") {
  const RedisServer server;
  PageOptions options = Stale();
  options.fleet.max_value = 10;
  CachePages pages(server, options);
  PutExpired(server, pages, "k");
  HeldLoad load(std::string(11, 'h'));
  load.Finish();
  CHECK(*pages.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
}

TEST_CASE("redis::ReadThrough: a failure over max_value leaves the expired value") {
  const RedisServer server;
  PageOptions options = Stale();
  options.fleet.max_value = 10;
  if (GENERATE(false, true)) options.retry_after = 1min;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load(HeldLoad::And([] { return Fail(std::string(1000, 'x')); }));
  load.Finish();
  CHECK(*here.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  AwaitNoLease(server, "k");
  CHECK(Has(server, "k", "value"));
  CHECK(Has(server, "k", "failed") == (options.retry_after.count() > 0));
  HeldLoad next("new");
  next.Finish();
  CHECK(*there.Get("k", next.Load()) == "old");
  if (options.retry_after.count() == 0) return next.AwaitBegun();
  CHECK(next.Runs() == 0);
}

TEST_CASE("redis::ReadThrough: retry_after holds after a failure over max_value") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.fleet.max_value = 10;
  options.retry_after = 1min;
  CachePages here(server, options), there(server, options);
  HeldLoad load(HeldLoad::And([] { return Fail(std::string(1000, 'x')); }));
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(loading.Join().message == std::string(1000, 'x'));
  CHECK_THAT(following.Join().message, Catch::Contains("could not be told"));
  AwaitNoLease(server, "k");
  for (CachePages* pages : {&here, &there}) {
    CHECK_THAT(Keep([&] { return pages->Get("k", NeverRun); }).message,
               Catch::Contains("could not be told"));
  }
  CHECK(here.GetStats().fleet.untold == 1);
}

TEST_CASE("redis::ReadThrough: a failure that its codec cannot encode leaves the expired value") {
  const RedisServer server;
  redis::ReadThroughOptions<Mute> options{.ttl = 1h, .stale_for = 1h, .retry_after = 1min};
  CacheProcess<Mute> pages(server, options);
  pages.Put("k", Mute{true});
  Age(server, "k", 61min);
  CHECK(pages.Get("k", [] { return Mute{false}; })->works);
  Await([&] { return Has(server, "k", "failed"); });
  CHECK(Has(server, "k", "value"));
}

TEST_CASE("redis::ReadThrough: a value that the server refuses is not put, and fails nobody") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("beside", "b");
  HeldLoad load("v");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  server.Ask("CONFIG", "SET", "maxmemory", "1");
  load.Finish();
  CHECK(loading.Join().value == "v");
  CHECK(following.Join().value == "v");
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
  CHECK(*there.Get("beside", NeverRun) == "b");  // what needs no memory still works
}

TEST_CASE("redis::ReadThrough: times that are longer than any life are not the end of the world") {
  const RedisServer server;
  PageOptions options{.ttl = std::chrono::nanoseconds::max()};
  options.stale_for = std::chrono::nanoseconds::max();
  options.retry_after = std::chrono::nanoseconds::max();
  CachePages pages(server, options);
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
  AwaitNoLease(server, "k");
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(Keep([&] { return pages.Get("fails", [] { return Fail("why"); }); }).message == "why");
  AwaitNoLease(server, "fails");
  CHECK(Keep([&] { return pages.Get("fails", NeverRun); }).message == "why");
}

// ---- Options

TEST_CASE("redis::ReadThrough: an option that cannot be used is refused in a plain sentence") {
  redis::Client client({.unix_socket = "/nowhere"});
  const auto refusal = [&](const auto& change) {
    return MessageOf([&] {
      PageOptions options{.ttl = 1min};
      change(options);
      redis::ReadThrough<std::string> pages(client, "c", options);
    });
  };
  using O = PageOptions;
  const auto has = [](const std::string& message, const std::string& part) {
    INFO(message);
    CHECK(message.find(part) != std::string::npos);
    CHECK(message.starts_with("singleflight"));
  };
  CHECK(refusal([](O&) {}) == "none");
  has(refusal([](O& o) { o.ttl.reset(); }), "ttl is not set");
  has(refusal([](O& o) { o.ttl = 0s; }), "ttl");
  has(refusal([](O& o) { o.ttl = -1s; }), "ttl");
  has(refusal([](O& o) { o.ttl = 999us; }), "ttl");
  CHECK(refusal([](O& o) { o.ttl = 1ms; }) == "none");
  has(refusal([](O& o) { o.jitter = 1; }), "jitter");
  has(refusal([](O& o) { o.jitter = -0.1; }), "jitter");
  has(refusal([](O& o) { o.jitter = std::numeric_limits<double>::quiet_NaN(); }), "jitter");
  has(refusal([](O& o) { o.stale_for = -1ns; }), "stale_for");
  has(refusal([](O& o) { o.soft_timeout = 1s; }), "soft_timeout");
  has(refusal([](O& o) {
        o.stale_for = 1s;
        o.soft_timeout = -1ns;
      }),
      "soft_timeout");
  has(refusal([](O& o) { o.early_refresh = -1; }), "early_refresh");
  has(refusal([](O& o) { o.early_refresh = std::numeric_limits<double>::infinity(); }),
      "early_refresh");
  has(refusal([](O& o) { o.retry_after = -1ns; }), "retry_after");
  has(refusal([](O& o) { o.cache_not_found = true; }), "not_found");
  has(refusal([](O& o) { o.not_found_ttl = 1s; }), "not_found");
  has(refusal([](O& o) { o.local_ttl = 0s; }), "local_ttl");
  has(refusal([](O& o) { o.local_ttl = -1s; }), "local_ttl");
  has(refusal(
          [](O& o) { o.local_weigher = [](const auto&, const auto&) { return std::size_t{1}; }; }),
      "local_weigher");
  has(refusal([](O& o) {
        o.local_ttl = 1s;
        o.local_capacity = 0;
      }),
      "capacity");
  has(refusal([](O& o) { o.fleet.lease = 0ms; }), "lease");
  has(MessageOf([&] { redis::ReadThrough<std::string> pages(client, "", {.ttl = 1min}); }),
      "prefix");
  has(MessageOf([&] {
        redis::ReadThrough<std::optional<int>> pages(client, "c",
                                                     {.ttl = 1min, .not_found_ttl = 999us});
      }),
      "not_found_ttl");
}

// SPDX-License-Identifier: MIT

// Tests the examples' adapter for a Redis cache, and a ReadThrough with it. Each test has its own
// server.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "adapters/redis_cache.hpp"
#include "examples/cache_callers.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

using Users = singleflight::ReadThrough<std::string, std::string, RedisCache>;

RedisCache CacheOf(const RedisServer& server, std::chrono::milliseconds timeout = 1min) {
  return RedisCache(server.Connect(), 1h, timeout);
}

// Returns the message of what the cache throws for `key`, or "" if it throws nothing.
std::string ErrorMessageOf(RedisCache& cache, std::string_view key) {
  try {
    static_cast<void>(cache.Get(key));
    return "";
  } catch (const std::runtime_error& error) {
    return error.what();
  }
}

}  // namespace

TEST_CASE("A Redis cache returns the value that was put last") {
  const RedisServer server;
  RedisCache cache = CacheOf(server);
  CHECK(cache.Get("a") == std::nullopt);
  cache.Put("a", "1");
  cache.Put("a", "2");
  CHECK(cache.Get("a") == "2");
}

TEST_CASE("A Redis cache does not return an erased value") {
  const RedisServer server;
  RedisCache cache = CacheOf(server);
  cache.Put("a", "1");
  cache.Erase("a");
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("A Redis cache takes keys and values of any bytes, and an empty value") {
  const RedisServer server;
  RedisCache cache = CacheOf(server);
  const std::string bytes = "\0 %b\r\n\xff\""s;
  cache.Put(bytes, bytes + "value");
  cache.Put("a", "");
  CHECK(cache.Get(bytes) == bytes + "value");
  CHECK(cache.Get("\0"s) == std::nullopt);
  CHECK(cache.Get("a") == "");
  cache.Erase(bytes);
  CHECK(cache.Get(bytes) == std::nullopt);
}

TEST_CASE("A Redis cache's entries expire when they should") {
  const RedisServer server;
  CacheOf(server).Put("a", "1");  // expires after an hour
  const long long left = server.Ask("PTTL a").number;
  CHECK((left > 1'800'000 && left <= 3'600'000));
}

TEST_CASE("A Redis cache throws the server's error, and still works afterwards") {
  const RedisServer server;
  RedisCache cache = CacheOf(server);
  server.Ask("LPUSH a 1");
  CHECK(ErrorMessageOf(cache, "a").starts_with("WRONGTYPE"));
  cache.Put("a", "2");
  CHECK(cache.Get("a") == "2");
}

TEST_CASE("A Redis cache that is made before its server starts works once the server has started") {
  RedisServer server;
  server.Kill();
  RedisCache cache = CacheOf(server);
  CHECK_THROWS_AS(cache.Get("a"), std::runtime_error);
  server.Start();
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("A Redis cache gives up on a server that does not answer, and never uses a late answer") {
  RedisServer server;
  RedisCache filled = CacheOf(server);
  filled.Put("a", "1");
  filled.Put("b", "2");
  RedisCache cache = CacheOf(server, 50ms);
  server.Stop();
  CHECK_THROWS_AS(cache.Get("a"), std::runtime_error);
  server.Continue();
  CHECK(filled.Get("b") == "2");  // so the server has answered all earlier requests
  std::optional<std::string> found;
  Await([&] {
    try {
      found = cache.Get("b");
    } catch (const std::runtime_error&) {  // a busy machine may exceed the 50 ms
    }
    return found.has_value();
  });
  CHECK(found == "2");
}

// A hundred callers would otherwise wait for one timeout after the other.
TEST_CASE("A Redis cache leaves a server alone that hangs, and asks it again later") {
  RedisServer server;
  RedisCache cache(server.Connect(), 1h, 50ms, 1h);
  server.Stop();
  CHECK(ErrorMessageOf(cache, "a") == "Redis did not answer in time");
  for (int i = 0; i < 100; ++i) {
    CHECK(ErrorMessageOf(cache, "a") == "Redis has not answered in time before");
  }
  RedisCache eager(server.Connect(), 1h, 1ms, 0ms);
  CHECK(ErrorMessageOf(eager, "a") == "Redis did not answer in time");
  CHECK(ErrorMessageOf(eager, "a") == "Redis did not answer in time");
  server.Continue();
  Await([&] { return ErrorMessageOf(eager, "a").empty(); });
}

TEST_CASE("A Redis cache gives up on a server that takes no more of a large value") {
  RedisServer server;
  RedisCache cache(server.Connect(), 1h, 50ms);
  server.Stop();
  CHECK_THROWS_WITH(cache.Put("a", std::string(64 << 20, 'x')), "Redis did not answer in time");
  server.Continue();
}

TEST_CASE(
    "ReadThrough over Redis: a server that hangs costs one timeout, not one for each caller") {
  RedisServer server;
  Users users(RedisCache(server.Connect(), 1h, 50ms, 1h));
  server.Stop();
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 100; ++i) CHECK(GetOr(users, std::to_string(i), "1"s) == "1");
  CHECK(std::chrono::steady_clock::now() - start < 5s);  // 200 timeouts would be 10 s
  CHECK(users.GetStats().get_failures == 100);
  CHECK(users.GetStats().put_failures == 100);
  server.Continue();
}

TEST_CASE("ReadThrough over Redis: a loaded value is there for the next caller") {
  const RedisServer server;
  Users users(CacheOf(server));
  CHECK(GetOr(users, "a", "1"s) == "1");
  CHECK(GetOr(users, "a", "2"s) == "1");
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over Redis: ten callers at the same time share one load") {
  const RedisServer server;
  Users users(CacheOf(server));
  const auto outcomes = GetTogether(users, "a", 10, "1"s);
  CHECK(std::ranges::count(outcomes, std::optional("1"s), &Outcome<std::string>::value) == 10);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over Redis: callers for different keys share the connection") {
  const RedisServer server;
  Users users(CacheOf(server));
  std::atomic<int> wrong = 0;
  std::vector<JoiningThread> threads;
  for (int t = 0; t < 8; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 100; ++i) {
        const std::string key = std::to_string(t) + ":" + std::to_string(i);
        if (GetOr(users, key, key) != key || GetOr(users, key, ""s) != key) ++wrong;
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  CHECK(users.GetStats().loads == 800);
}

TEST_CASE("ReadThrough over Redis: an invalidated value is loaded again") {
  const RedisServer server;
  Users users(CacheOf(server));
  CHECK(GetOr(users, "a", "1"s) == "1");
  users.Invalidate("a");
  CHECK(server.Ask("EXISTS a").number == 0);
  CHECK(GetOr(users, "a", "2"s) == "2");
}

TEST_CASE(
    "ReadThrough over Redis: a value that is invalidated while it loads does not reach the "
    "server") {
  const RedisServer server;
  Users users(CacheOf(server));
  const auto load = [&] {
    users.Invalidate("a");
    return "old"s;
  };
  CHECK(*users.Get("a", load) == "old");
  CHECK(server.Ask("EXISTS a").number == 0);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough over Redis: an expired value is loaded again") {
  const RedisServer server;
  Users users(CacheOf(server));
  CHECK(GetOr(users, "a", "1"s) == "1");
  REQUIRE(server.Ask("PEXPIRE a 0").number == 1);
  CHECK(GetOr(users, "a", "2"s) == "2");
}

TEST_CASE(
    "ReadThrough over Redis: two of them with one server see what the other puts and erases") {
  const RedisServer server;
  Users here(CacheOf(server)), there(CacheOf(server));
  CHECK(GetOr(here, "a", "1"s) == "1");
  CHECK(GetOr(there, "a", "2"s) == "1");
  there.Invalidate("a");
  CHECK(GetOr(here, "a", "3"s) == "3");
  CHECK(there.GetStats().loads == 0);
}

TEST_CASE(
    "ReadThrough over Redis: a server that is down costs loads, but callers still get values") {
  RedisServer server;
  Users users(CacheOf(server));
  CHECK(GetOr(users, "a", "1"s) == "1");
  server.Kill();
  CHECK(GetOr(users, "a", "2"s) == "2");
  CHECK(users.GetStats().get_failures == 1);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE(
    "ReadThrough over Redis: ten callers at the same time share one load without the server, too") {
  RedisServer server;
  Users users(CacheOf(server));
  server.Kill();
  const auto outcomes = GetTogether(users, "a", 10, "1"s);
  CHECK(std::ranges::count(outcomes, std::optional("1"s), &Outcome<std::string>::value) == 10);
  CHECK(users.GetStats().loads == 1);
  CHECK(users.GetStats().get_failures == 10);
  CHECK(users.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough over Redis: a server that comes back is used again") {
  RedisServer server;
  Users users(CacheOf(server));
  server.Kill();
  CHECK(GetOr(users, "a", "1"s) == "1");
  server.Start();
  CHECK(GetOr(users, "a", "2"s) == "2");
  CHECK(GetOr(users, "a", "3"s) == "2");
}

TEST_CASE("ReadThrough over Redis: Invalidate throws if the server cannot be reached") {
  RedisServer server;
  Users users(CacheOf(server));
  server.Kill();
  CHECK_THROWS_AS(users.Invalidate("a"), std::runtime_error);
}

TEST_CASE(
    "ReadThrough over Redis: Invalidate forgets the call even if the server cannot be reached") {
  RedisServer server;
  Users users(CacheOf(server));
  server.Kill();
  std::size_t callers = 1;
  const auto load = [&] {
    try {
      users.Invalidate("a");
    } catch (const std::runtime_error&) {
      callers = users.Callers("a");
    }
    return "1"s;
  };
  CHECK(*users.Get("a", load) == "1");
  CHECK(callers == 0);
}

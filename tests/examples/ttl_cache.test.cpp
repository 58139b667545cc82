// SPDX-License-Identifier: MIT

// Tests ttl_cache.hpp, a cache whose entries expire, and a ReadThrough over it.

#include "adapters/ttl_cache.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "cache_callers.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;

namespace {

// A clock that stands still unless the test moves it.
struct TestClock {
  using duration = std::chrono::milliseconds;
  using rep = duration::rep;
  using period = duration::period;
  using time_point = std::chrono::time_point<TestClock>;
  [[maybe_unused]] static constexpr bool is_steady = true;

  static time_point now() { return time_point(duration(time.load())); }
  static void Pass(duration passed) { time += passed.count(); }

  static inline std::atomic<rep> time = 0;
};

using Cache = TtlCache<std::string, int, TestClock>;
using Users = singleflight::ReadThrough<std::string, int, Cache&>;

}  // namespace

TEST_CASE("A TTL cache keeps an entry until its time has passed") {
  Cache cache(10ms);
  cache.Put("a", 1);
  TestClock::Pass(9ms);
  CHECK(cache.Get("a") == 1);
  TestClock::Pass(1ms);
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("A TTL cache returns the value that was put last") {
  Cache cache(10ms);
  cache.Put("a", 1);
  cache.Put("a", 2);
  CHECK(cache.Get("a") == 2);
}

TEST_CASE("A TTL cache counts an entry's time from the last put") {
  Cache cache(10ms);
  cache.Put("a", 1);
  TestClock::Pass(6ms);
  cache.Put("a", 2);
  TestClock::Pass(6ms);
  CHECK(cache.Get("a") == 2);
  TestClock::Pass(4ms);
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE(
    "A TTL cache does not return an erased entry, but keeps it for its full time if put again") {
  Cache cache(10ms);
  cache.Put("a", 1);
  TestClock::Pass(6ms);
  cache.Erase("a");
  CHECK(cache.Get("a") == std::nullopt);
  cache.Put("a", 2);
  TestClock::Pass(6ms);
  CHECK(cache.Get("a") == 2);
}

TEST_CASE("Each operation on a TTL cache removes at most two expired entries") {
  Cache cache(10ms);
  for (int i = 0; i < 100; ++i) cache.Put(std::to_string(i), i);
  TestClock::Pass(10ms);
  CHECK(cache.Get("other") == std::nullopt);
  CHECK(cache.Size() == 98);
  cache.Put("other", 1);
  CHECK(cache.Size() == 97);
  cache.Erase("none");
  CHECK(cache.Size() == 95);
}

TEST_CASE("An expired entry that a TTL cache has not removed so far is not returned") {
  Cache cache(10ms);
  for (int i = 0; i < 100; ++i) cache.Put(std::to_string(i), i);
  TestClock::Pass(10ms);
  CHECK(cache.Get("99") == std::nullopt);
  REQUIRE(cache.Size() == 98);
  cache.Put("99", 1);
  CHECK(cache.Get("99") == 1);
}

// Each put of a used cache removes more than it adds.
TEST_CASE("A TTL cache does not hold expired entries for ever if others are put") {
  Cache cache(10ms);
  for (int i = 0; i < 100; ++i) cache.Put("old " + std::to_string(i), i);
  TestClock::Pass(10ms);
  for (int i = 0; i < 100; ++i) cache.Put("new " + std::to_string(i), i);
  CHECK(cache.Size() == 100);
}

TEST_CASE("A TTL cache does not grow if one entry is put again and again") {
  Cache cache(10ms);
  cache.Put("a", 0);
  const auto before = live_allocations.load();
  for (int i = 0; i < 1000; ++i) cache.Put("a", i);
  CHECK(live_allocations == before);
  CHECK(cache.Size() == 1);
  for (int i = 0; i < 1000; ++i) {
    cache.Erase("a");
    cache.Put("a", i);
  }
  CHECK(live_allocations == before);
}

// A destructor that uses the cache would otherwise wait for itself.
TEST_CASE("A TTL cache destroys values without its lock") {
  struct Uses {
    explicit Uses(std::function<void()> function)
        : use(std::make_shared<Use>(std::move(function))) {}
    struct Use {
      explicit Use(std::function<void()> function) : call(std::move(function)) {}
      ~Use() { call(); }
      std::function<void()> call;
    };
    std::shared_ptr<Use> use;
  };
  std::size_t size = 9;
  TtlCache<std::string, Uses, TestClock> cache(10ms);
  cache.Put("a", Uses([&] { size = cache.Size(); }));
  cache.Put("a", Uses([] {}));
  CHECK(size == 1);
  cache.Put("b", Uses([&] { size = cache.Size(); }));
  cache.Erase("b");
  CHECK(size == 1);
  cache.Put("c", Uses([&] { size = cache.Size(); }));
  TestClock::Pass(10ms);
  CHECK(!cache.Get("none").has_value());
  CHECK(size == 0);
}

TEST_CASE("A TTL cache may be used from several threads") {
  TtlCache<std::string, int> cache(1ms);
  CHECK(SurvivesThreads(
      cache, [](std::size_t i) { return std::to_string(i); },
      [](std::size_t i) { return int(i); }));
}

TEST_CASE(
    "ReadThrough over a TTL cache: a value is loaded once until its entry expires, then again") {
  Cache cache(10ms);
  Users users(cache);
  CHECK(GetOr(users, "a", 1) == 1);
  TestClock::Pass(9ms);
  CHECK(GetOr(users, "a", 2) == 1);
  TestClock::Pass(1ms);
  CHECK(GetOr(users, "a", 3) == 3);
  CHECK(users.GetStats().loads == 2);
}

TEST_CASE("ReadThrough over a TTL cache: ten callers for an expired entry cause one load") {
  Cache cache(10ms);
  Users users(cache);
  cache.Put("a", 1);
  TestClock::Pass(10ms);
  const auto outcomes = GetTogether(users, "a", 10, 2);
  CHECK(std::ranges::count(outcomes, std::optional(2), &Outcome<int>::value) == 10);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over a TTL cache: an invalidated value is loaded again") {
  Cache cache(10ms);
  Users users(cache);
  CHECK(GetOr(users, "a", 1) == 1);
  users.Invalidate("a");
  CHECK(GetOr(users, "a", 2) == 2);
}

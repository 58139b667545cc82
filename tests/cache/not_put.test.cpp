// SPDX-License-Identifier: MIT

// Tests what a ReadThrough does about the older value, and about a failure, if a value is not put.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <optional>
#include <singleflight/lru_cache.hpp>
#include <singleflight/read_through.hpp>
#include <stdexcept>
#include <string>

#include "fake_cache.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::chrono_literals;
using singleflight::Cached;
using singleflight::ReadThrough;

namespace {

int MustNotRun() { throw std::logic_error("this load must not run"); }
int Fail() { throw std::runtime_error("the source is down"); }

// Cannot erase.
struct PutOnly {
  std::optional<int> Get(const std::string& key) {
    const auto found = values.find(key);
    return found == values.end() ? std::nullopt : std::optional(found->second);
  }
  void Put(const std::string& key, int value) { values[key] = value; }

  std::map<std::string, int> values;
};

}  // namespace

// ---- The older value

TEST_CASE("ReadThrough: a Refresh whose value the cache does not take erases the old value") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> values(cache);
  REQUIRE(*values.Get("key", [] { return 1; }) == 1);
  cache.before_put = [] { throw std::runtime_error("the cache is full"); };
  CHECK(*values.Refresh("key", [] { return 2; }) == 2);
  CHECK_FALSE(cache.Peek("key").has_value());
  CHECK(values.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough: a Refresh whose keep_if or weigher throws erases the old value") {
  singleflight::ReadThroughOptions<std::string, int> options;
  const auto throw_for_2 = [](int value) {
    if (value == 2) throw std::runtime_error("2");
    return true;
  };
  if (GENERATE(false, true)) {
    options.keep_if = throw_for_2;
  } else {
    options.weigher = [&](const std::string&, int value) {
      return std::size_t{throw_for_2(value)};
    };
  }
  ReadThrough<std::string, int> values(options);
  REQUIRE(*values.Get("key", [] { return 1; }) == 1);
  CHECK(*values.Refresh("key", [] { return 2; }) == 2);
  CHECK_FALSE(values.Peek("key").has_value());
  CHECK(values.GetStats().put_failures == 1);
}

TEST_CASE("ReadThrough: Put refuses a value that the cache cannot keep if it cannot erase either") {
  PutOnly cache;
  ReadThrough<std::string, int, PutOnly&> values(cache);
  values.Put("key", 1);
  CHECK_THROWS_AS(values.Put("key", Cached(2, {.ttl = 5s})), std::invalid_argument);
  CHECK_THROWS_AS(values.Put("key", Cached(2, {.ttl = 0s})), std::invalid_argument);
  CHECK(values.Peek("key") == 1);
  values.Put("key", 3);
  CHECK(values.Peek("key") == 3);
}

// ---- A failure that retry_after keeps

TEST_CASE("ReadThrough: a load that succeeds ends retry_after, also if its value is not put") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> with_erase(
      cache, {.retry_after = 1h, .keep_if = [](int) { return false; }});
  PutOnly plain;
  ReadThrough<std::string, int, PutOnly&> without_erase(
      plain, {.retry_after = 1h, .keep_if = [](int) { return false; }});
  const auto test = [](auto& values) {
    CHECK_THROWS_AS(values.Get("key", &Fail), std::runtime_error);
    CHECK_THROWS_AS(values.Get("key", &MustNotRun), std::runtime_error);
    CHECK(*values.Refresh("key", [] { return 1; }) == 1);
    CHECK(*values.Get("key", [] { return 2; }) == 2);
    CHECK(values.GetStats().outdated == 0);
  };
  test(with_erase);
  test(without_erase);
}

TEST_CASE("ReadThrough: a Refresh that meets a Get which only has an old failure loads") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> values(cache, {.retry_after = 1h});
  REQUIRE_THROWS_AS(values.Get("key", &Fail), std::runtime_error);
  std::atomic<bool> is_held = false, goes_on = false;
  const int first_look = cache.gets + 1;
  cache.before_get = [&] {
    if (cache.gets == first_look) return;  // the second look is that of the call
    is_held = true;
    is_held.notify_all();
    goes_on.wait(false);
  };
  std::atomic<int> loads = 0;
  const auto load = [&loads] { return ++loads; };
  Caller<int> getting([&] { return values.Get("key", load); });
  is_held.wait(false);
  Caller<int> refreshing([&] { return values.Refresh("key", load); });
  Await([&] { return values.Callers("key") == 2; });
  goes_on = true;
  goes_on.notify_all();
  CHECK(refreshing.Join().value == 1);
  CHECK(getting.Join().value == 1);
  CHECK(loads == 1);
  CHECK(cache.Peek("key") == 1);
}

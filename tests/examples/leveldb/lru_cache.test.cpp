// SPDX-License-Identifier: MIT

// Tests lru_cache.hpp, which adapts LevelDB's LRU cache, and a ReadThrough over it.

#include "adapters/lru_cache.hpp"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>

#include "examples/cache_callers.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;

namespace {

using Cache = LruCache<std::string>;
using Users = singleflight::ReadThrough<std::string, std::string, Cache>;

}  // namespace

TEST_CASE("An LRU cache returns the value that was put last") {
  Cache cache(100);
  CHECK(cache.Get("a") == std::nullopt);
  cache.Put("a", "1");
  cache.Put("a", "2");
  CHECK(cache.Get("a") == "2");
}

TEST_CASE("An LRU cache does not return an erased value") {
  Cache cache(100);
  cache.Put("a", "1");
  cache.Erase("a");
  CHECK(cache.Get("a") == std::nullopt);
}

TEST_CASE("An LRU cache accepts keys of any bytes") {
  using namespace std::string_view_literals;
  Cache cache(100);
  cache.Put("a\0b"sv, "1");
  CHECK(cache.Get("a\0b"sv) == "1");
  CHECK(cache.Get("a\0c"sv) == std::nullopt);
  CHECK(cache.Get(""sv) == std::nullopt);
}

TEST_CASE("A full LRU cache keeps the values that are used and evicts those that are not") {
  Cache cache(32);
  cache.Put("idle", "1");
  cache.Put("used", "2");
  for (int i = 0; i < 1000; ++i) {
    cache.Put(std::to_string(i), "");
    REQUIRE(cache.Get("used") == "2");
  }
  CHECK(cache.Get("idle") == std::nullopt);
}

TEST_CASE("An LRU cache destroys each value once: on Put, Erase or eviction, or with the cache") {
  const auto value = std::make_shared<int>(1);
  {
    LruCache<std::shared_ptr<int>> cache(16);  // room for one value in each of LevelDB's lists
    cache.Put("a", value);
    cache.Put("a", value);
    CHECK(value.use_count() == 2);
    CHECK(cache.Get("a") == value);
    CHECK(value.use_count() == 2);
    cache.Erase("a");
    CHECK(value.use_count() == 1);
    for (int i = 0; i < 1000; ++i) cache.Put(std::to_string(i), value);
    CHECK(value.use_count() == 1 + 16);
  }
  CHECK(value.use_count() == 1);
}

TEST_CASE("An LRU cache without room accepts a value and drops it at once") {
  const auto value = std::make_shared<int>(1);
  LruCache<std::shared_ptr<int>> cache(0);
  cache.Put("a", value);
  CHECK(cache.Get("a") == std::nullopt);
  CHECK(value.use_count() == 1);
}

TEST_CASE("An LRU cache may be used from several threads") {
  Cache cache(16);
  const auto text = [](std::size_t i) { return std::to_string(i); };
  CHECK(SurvivesThreads(cache, text, text));
}

TEST_CASE("ReadThrough over an LRU cache: the next caller gets the value that was loaded") {
  Users users(Cache(100));
  CHECK(GetOr(users, "a", std::string("1")) == "1");
  CHECK(GetOr(users, "a", std::string("2")) == "1");
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over an LRU cache: ten callers at once cause one load") {
  Users users(Cache(100));
  const auto outcomes = GetTogether(users, "a", 10, std::string("1"));
  CHECK(std::ranges::count(outcomes, std::optional<std::string>("1"),
                           &Outcome<std::string>::value) == 10);
  CHECK(users.GetStats().loads == 1);
}

TEST_CASE("ReadThrough over an LRU cache: an invalidated value is loaded again") {
  Users users(Cache(100));
  CHECK(GetOr(users, "a", std::string("1")) == "1");
  users.Invalidate("a");
  CHECK(GetOr(users, "a", std::string("2")) == "2");
}

TEST_CASE("ReadThrough over an LRU cache: an evicted value is loaded again") {
  Users users(Cache(16));
  CHECK(GetOr(users, "a", std::string("1")) == "1");
  for (int i = 0; i < 1000; ++i) GetOr(users, std::to_string(i), std::string());
  CHECK(GetOr(users, "a", std::string("2")) == "2");
}

// SPDX-License-Identifier: MIT

// What a ReadThrough puts into its cache: whatever the value does not say is a failure or "not
// found". It guesses nothing.

#include <functional>
#include <memory>
#include <optional>
#include <singleflight/coro.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "cache/fake_cache.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::ReadThrough;

namespace {

// Like a JSON document: it converts to bool and compares with nullptr, but only if it holds one.
struct Json {
  std::string text;
  operator bool() const { throw std::domain_error("not a boolean"); }
  bool operator==(std::nullptr_t) const { throw std::domain_error("not a null"); }
};

struct Reply {
  int status = 200;
  friend bool IsFailure(const Reply& reply) { return reply.status >= 500; }
  friend bool IsNotFound(const Reply& reply) { return reply.status == 404; }
};

// Neither question has an answer.
struct Unsure {
  int value = 0;
  friend bool IsNotFound(const Unsure&) { throw std::domain_error("who knows"); }
};

template <class Value>
using Cached = ReadThrough<std::string, Value, FakeCache<Value>&>;

template <class G, class Fn>
Routine Await(G& group, Fn load, bool& done) {
  static_cast<void>(co_await CoDo(group, "key", load));
  done = true;
}

// Loads the value once by each way of waiting, and returns how often that put it.
template <class Value>
int PutsOf(const Value& value, typename Cached<Value>::Options options = {}) {
  FakeCache<Value> cache;
  Cached<Value> values(cache, options);
  const auto load = [&value] { return value; };
  static_cast<void>(values.Get("key", load));
  cache.Clear();
  static_cast<void>(DoAsync(values, "key", load).Get());
  cache.Clear();
  bool done = false;
  const Routine coroutine = Await(values, load, done);
  REQUIRE(done);
  cache.Clear();
  const auto load_all = [&](std::span<const std::string> keys) {
    return std::vector<Value>(keys.size(), value);
  };
  REQUIRE(DoMany(values, {"key"}, load_all).front());
  cache.Clear();
  static_cast<void>(values.Refresh("key", load));
  return cache.puts;
}

}  // namespace

TEST_CASE("ReadThrough: a value that converts to bool, or compares with null, is put as it is") {
  CHECK(PutsOf(Json{"{}"}) == 5);
  CHECK(PutsOf(false) == 5);
  CHECK(PutsOf(true) == 5);
  CHECK(PutsOf(0) == 5);
  CHECK(PutsOf(std::string()) == 5);
  CHECK(PutsOf(std::function<void()>()) == 5);
}

TEST_CASE("ReadThrough: a loaded false is a hit from then on") {
  FakeCache<bool> cache;
  Cached<bool> flags(cache);
  CHECK_FALSE(*flags.Get("key", [] { return false; }));
  CHECK_FALSE(*flags.Get("key", []() -> bool { throw std::logic_error("this must not run"); }));
}

TEST_CASE("ReadThrough: what says that it is 'not found' is put only if the options ask for it") {
  CHECK(PutsOf(std::optional<int>()) == 0);
  CHECK(PutsOf(std::optional<int>(), {.cache_not_found = true}) == 5);
  CHECK(PutsOf(std::optional<bool>(false)) == 5);
  CHECK(PutsOf(std::shared_ptr<int>()) == 0);
  CHECK(PutsOf(static_cast<const int*>(nullptr)) == 0);
  CHECK(PutsOf(Reply{404}) == 0);
  CHECK(PutsOf(Reply{404}, {.cache_not_found = true}) == 5);
  CHECK(PutsOf(Reply{200}) == 5);
}

TEST_CASE("ReadThrough: what says that it is a failure is never put") {
  CHECK(PutsOf(Reply{503}) == 0);
  CHECK(PutsOf(Reply{503}, {.cache_not_found = true}) == 0);
}

TEST_CASE("ReadThrough: a failure that Refresh loads leaves the old value in the cache") {
  FakeCache<Reply> cache;
  cache.Fill("key", Reply{200});
  Cached<Reply> replies(cache);
  CHECK(replies.Refresh("key", [] { return Reply{503}; })->status == 503);
  CHECK(replies.Get("key", [] { return Reply{500}; })->status == 200);
  CHECK(replies.GetStats().calls.failures == 1);
}

TEST_CASE("ReadThrough: a value whose IsNotFound throws reaches its callers, and is counted") {
  CHECK(PutsOf(Unsure{1}) == 0);
  FakeCache<Unsure> cache;
  Cached<Unsure> values(cache);
  CHECK(values.Get("key", [] { return Unsure{1}; })->value == 1);
  CHECK(DoAsync(values, "key", [] { return Unsure{2}; }).Get()->value == 2);
  CHECK(values.GetStats().put_failures == 2);
  CHECK(cache.puts == 0);
}

TEST_CASE("ReadThrough: caching 'not found' is refused for a Value that cannot say it") {
  FakeCache<Json> cache;
  CHECK_THROWS_AS(Cached<Json>(cache, {.cache_not_found = true}), std::invalid_argument);
  FakeCache<Reply> replies;
  CHECK_NOTHROW(Cached<Reply>(replies, {.cache_not_found = true}));
}

TEST_CASE("ReadThrough: Close refuses loads, and serves what the cache has") {
  FakeCache<int> cache;
  cache.Fill("cached", 1);
  Cached<int> values(cache);
  values.Close();
  CHECK(*values.Get("cached", [] { return 2; }) == 1);
  CHECK(ErrorOf([&] { return values.Get("missing", [] { return 2; }); }) ==
        std::errc::resource_unavailable_try_again);
}

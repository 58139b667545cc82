// SPDX-License-Identifier: MIT

// Tests the changes of a ReadThrough that a load in flight must not undo: Put, InvalidateAll and
// InvalidateIf. tests/interleavings/read_through.test.cpp searches their schedules.

#include <atomic>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "fake_cache.hpp"
#include "policy_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Cached;
using singleflight::ReadThrough;
using Clock = PolicyClock;

namespace {

using Users = InVirtualTime<int>;

// A thread whose load for a key runs until Finish.
template <class G>
class HeldLoad {
 public:
  HeldLoad(G& users, const std::string& key, int value)
      : caller_([this, &users, key, value] {
          return users.Get(key, [this, value] {
            begun_.count_down();
            finish_.wait();
            return value;
          });
        }) {
    begun_.wait();
  }

  const Outcome<int>& Finish() {
    finish_.count_down();
    return caller_.Join();
  }

 private:
  std::latch begun_{1}, finish_{1};
  Caller<int> caller_;
};
template <class G>
HeldLoad(G&, const char*, int) -> HeldLoad<G>;

// A cache that can clear and erase by a predicate, and does it in front of the test.
class WatchedCache {
 public:
  std::function<void()> before_put, before_clear;

  std::optional<int> Get(const std::string& key) {
    const auto found = entries_.find(key);
    return found != entries_.end() ? std::optional(found->second) : std::nullopt;
  }
  void Put(const std::string& key, int value) {
    if (before_put) before_put();
    entries_[key] = value;
  }
  void Erase(const std::string& key) { entries_.erase(key); }
  void Clear() {
    if (before_clear) before_clear();
    entries_.clear();
  }
  void EraseIf(const std::function<bool(const std::string&)>& is_it) {
    std::erase_if(entries_, [&](const auto& entry) { return is_it(entry.first); });
  }

 private:
  std::map<std::string, int> entries_;
};
using Watched = ReadThrough<std::string, int, WatchedCache&>;

// Runs a hook before it clears or erases. It has nothing.
struct HookedCache {
  static constexpr bool kConcurrent = true;
  std::optional<int> Get(const std::string&) { return std::nullopt; }
  void Put(const std::string&, int) {}
  void Clear() { before_change(); }
  void EraseIf(const auto&) { before_change(); }
  std::function<void()> before_change;
};

// A cache of one value, which is put when the test says so.
struct SlowCache {
  static constexpr bool kConcurrent = true;
  std::optional<int> Get(const std::string&) {
    return value.load() ? std::optional(1) : std::nullopt;
  }
  void Put(const std::string&, int) {
    putting.count_down();
    finish.wait();
    value = true;
  }
  void Clear() { value = false; }
  std::latch putting{1}, finish{1};
  std::atomic<bool> value = false;
};

bool HasTag(const std::string& key, const std::string& tag) {
  return key.find('#' + tag) != std::string::npos;
}

}  // namespace

TEST_CASE("ReadThrough: a value that is put is found by those who ask afterwards") {
  Users users({.ttl = 10ms});
  users.Put("key", 1);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  users.Put("key", Cached(2, {.ttl = 1h}));
  Clock::Pass(59min);
  CHECK(*users.Get("key", MustNotLoad) == 2);
  users.Put("key", {3});
  CHECK(users.Peek("key") == 3);
  users.Put("key", Cached(short(3), {.ttl = 0s}));
  CHECK_FALSE(users.Peek("key").has_value());
}

TEST_CASE("ReadThrough: a load in flight cannot undo a Put, and its callers get what it loaded") {
  Users users;
  HeldLoad before(users, "key", 1);
  users.Put("key", 2);
  CHECK(*users.Get("key", MustNotLoad) == 2);
  CHECK(before.Finish().value == 1);
  CHECK(*users.Get("key", MustNotLoad) == 2);
  CHECK(users.GetStats().outdated == 1);
}

TEST_CASE("ReadThrough: a load may put another value for its own key, which stays") {
  Users users;
  CHECK(*users.Get("key", [&] {
    users.Put("key", 2);
    return 1;
  }) == 1);
  CHECK(users.Peek("key") == 2);
}

TEST_CASE("ReadThrough: if a Put fails, the outdated value is gone, and the load in flight, too") {
  WatchedCache cache;
  Watched users(cache);
  users.Put("key", 1);
  cache.before_put = [] { throw std::runtime_error("the cache is full"); };
  CHECK_THROWS_WITH(users.Put("key", 2), "the cache is full");
  CHECK_FALSE(users.Peek("key").has_value());
  HeldLoad before(users, "key", 1);
  CHECK_THROWS_WITH(users.Put("key", 2), "the cache is full");
  CHECK(users.Callers("key") == 0);
  cache.before_put = nullptr;
  CHECK(before.Finish().value == 1);
  CHECK_FALSE(users.Peek("key").has_value());
}

TEST_CASE("ReadThrough: to peek loads nothing, counts nothing and refreshes nothing") {
  TaskQueue later;
  Users users({.ttl = 10ms, .stale_for = 10ms, .executor = later.Executor()});
  CHECK_FALSE(users.Peek("key").has_value());
  users.Put("key", 1);
  CHECK(users.Peek("key") == 1);
  Clock::Pass(10ms);
  CHECK(users.Peek("key") == 1);
  Clock::Pass(10ms);
  CHECK_FALSE(users.Peek("key").has_value());
  CHECK(later.Count() == 0);
  CHECK(users.GetStats() == singleflight::ReadThroughStats());
}

TEST_CASE(
    "ReadThrough: InvalidateAll removes all values, and loads that began before put nothing") {
  Users users;
  for (int i = 0; i < 100; ++i) users.Put(std::to_string(i), i);
  HeldLoad one(users, "a", 1), other(users, "b", 2);
  users.InvalidateAll();
  CHECK(users.Callers("a") == 0);
  CHECK(*users.Get("a", [] { return 3; }) == 3);
  CHECK(one.Finish().value == 1);
  CHECK(other.Finish().value == 2);
  for (int i = 0; i < 100; ++i) CHECK_FALSE(users.Peek(std::to_string(i)).has_value());
  CHECK(users.Peek("a") == 3);
  CHECK_FALSE(users.Peek("b").has_value());
  CHECK(users.GetStats().outdated == 2);
}

TEST_CASE("ReadThrough: InvalidateAll and InvalidateIf forget a call that began meanwhile") {
  HookedCache cache;
  using Hooking = ReadThrough<std::string, int, HookedCache&>;
  Hooking users(cache);
  std::optional<HeldLoad<Hooking>> between;
  cache.before_change = [&] { between.emplace(users, "key", 1); };
  users.InvalidateAll();  // the call may have found an old value before the change
  CHECK(users.Callers("key") == 0);
  CHECK(between->Finish().value == 1);
  users.InvalidateIf([](const std::string& key) { return key == "key"; });
  CHECK(users.Callers("key") == 0);
  CHECK(between->Finish().value == 1);
  CHECK(users.GetStats().outdated == 2);
}

TEST_CASE("ReadThrough: InvalidateAll forgets and throws if the cache cannot be cleared") {
  WatchedCache cache;
  Watched users(cache);
  HeldLoad before(users, "key", 1);
  cache.before_clear = [] { throw std::runtime_error("the cache is down"); };
  CHECK_THROWS_WITH(users.InvalidateAll(), "the cache is down");
  CHECK(users.Callers("key") == 0);
  CHECK(before.Finish().value == 1);
  CHECK_FALSE(users.Peek("key").has_value());
}

TEST_CASE(
    "ReadThrough: InvalidateAll waits until a value that is being put is there to be removed") {
  SlowCache cache;
  ReadThrough<std::string, int, SlowCache&> users(cache);
  Caller loading([&] { return users.Get("key", [] { return 1; }); });
  cache.putting.wait();
  std::atomic<bool> done = false;
  JoiningThread invalidating([&] {
    users.InvalidateAll();
    done = true;
  });
  Await([&] { return users.Callers("key") == 0; });  // it has forgotten the call
  CHECK_FALSE(done);
  cache.finish.count_down();
  invalidating.join();
  CHECK(loading.Join().value == 1);
  CHECK_FALSE(cache.value);
}

TEST_CASE("ReadThrough: InvalidateIf removes the keys that the predicate names, and no others") {
  Users users;
  for (const char* key : {"1#red", "2#blue", "3#red#blue", "4"}) users.Put(key, 0);
  HeldLoad red(users, "5#red", 5), blue(users, "6#blue", 6);
  users.InvalidateIf([](const std::string& key) { return HasTag(key, "red"); });
  CHECK(users.Callers("5#red") == 0);
  CHECK(users.Callers("6#blue") == 1);
  CHECK(red.Finish().value == 5);
  CHECK(blue.Finish().value == 6);
  CHECK_FALSE(users.Peek("1#red").has_value());
  CHECK_FALSE(users.Peek("3#red#blue").has_value());
  CHECK_FALSE(users.Peek("5#red").has_value());
  CHECK(users.Peek("2#blue") == 0);
  CHECK(users.Peek("4") == 0);
  CHECK(users.Peek("6#blue") == 6);
}

TEST_CASE(
    "ReadThrough: a predicate may use the ReadThrough, and what it throws reaches the caller") {
  Users users;
  for (int i = 0; i < 10; ++i) users.Put(std::to_string(i), i);
  HeldLoad before(users, "key", 1);
  users.InvalidateIf([&](const std::string& key) {
    users.Put("put meanwhile", 1);
    users.Invalidate("9");
    return key == "8" && *users.Get("7", MustNotLoad) == 7;
  });
  CHECK_FALSE(users.Peek("8").has_value());
  CHECK_FALSE(users.Peek("9").has_value());
  CHECK(users.Peek("put meanwhile") == 1);
  CHECK_THROWS_WITH(
      users.InvalidateIf([](const std::string&) -> bool { throw std::runtime_error("no"); }), "no");
  CHECK(before.Finish().value == 1);
  CHECK(users.Peek("key") == 1);
}

TEST_CASE("ReadThrough: a cache of one's own may clear, and erase by a predicate") {
  WatchedCache cache;
  Watched users(cache);
  for (const char* key : {"1", "2", "3"}) users.Put(key, 0);
  users.InvalidateIf([](const std::string& key) { return key == "2"; });
  CHECK(users.Peek("1") == 0);
  CHECK_FALSE(users.Peek("2").has_value());
  users.InvalidateAll();
  CHECK_FALSE(users.Peek("1").has_value());
}

TEST_CASE(
    "ReadThrough: keys of numbers, and keys that are led asynchronously, are invalidated, too") {
  InVirtualTime<int, singleflight::DefaultCache, int> users;
  TaskQueue pool;
  auto odd = singleflight::DoAsync(
      users, 1, [] { return 1; }, pool.Executor());
  auto even = singleflight::DoAsync(
      users, 2, [] { return 2; }, pool.Executor());
  users.InvalidateIf([](int key) { return key % 2 == 1; });
  pool.Run();
  CHECK(*odd.Get() == 1);
  CHECK(*even.Get() == 2);
  CHECK_FALSE(users.Peek(1).has_value());
  CHECK(users.Peek(2) == 2);
}

namespace {

// A cache that takes long to put, and has each value at once all the same: until the slow part has
// it, it is among those on their way.
class WriteBehind {
 public:
  static constexpr bool kConcurrent = true;

  explicit WriteBehind(TaskQueue& writer) : writer_(writer) {}

  std::optional<int> Get(const std::string& key) {
    if (const auto on_its_way = on_their_way_.Peek(key)) return on_its_way;
    return slow_.Peek(key);
  }
  void Put(const std::string& key, int value) {
    on_their_way_.Fill(key, value);
    writer_.Executor()([this, key] {
      if (const auto on_its_way = on_their_way_.Peek(key)) slow_.Fill(key, *on_its_way);
      on_their_way_.Erase(key);
    });
  }
  void Erase(const std::string& key) {
    on_their_way_.Erase(key);
    slow_.Erase(key);
  }

 private:
  TaskQueue& writer_;
  FakeCache<int> on_their_way_, slow_;
};

}  // namespace

TEST_CASE(
    "ReadThrough: callers may have a value before a slow cache has it, by a cache that queues") {
  TaskQueue writer;
  WriteBehind cache(writer);
  ReadThrough<std::string, int, WriteBehind&> users(cache);
  CHECK(*users.Get("key", [] { return 1; }) == 1);
  CHECK(*users.Get("key", MustNotLoad) == 1);
  users.Invalidate("key");
  CHECK(writer.Run() == 1);
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  CHECK(writer.Run() == 1);
  CHECK(*users.Get("key", MustNotLoad) == 2);
}

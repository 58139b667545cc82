// SPDX-License-Identifier: MIT

// Promise 7 (nothing half-done): whatever throws, only that caller fails, and the group is as
// before.

#include <atomic>
#include <latch>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Stats;

namespace {

struct Thrown {};

// A key whose copy, hash and equality throw on request.
struct Key {
  explicit Key(int its_id) : id(its_id) {}
  Key(const Key& other) : id(other.id) {
    if (copy_throws) throw Thrown();
  }
  int id;
  static inline thread_local bool copy_throws = false;
  static inline thread_local bool hash_throws = false;
  static inline thread_local bool equal_throws = false;
};
struct Hash {
  std::size_t operator()(const Key& key) const {
    if (Key::hash_throws) throw Thrown();
    return static_cast<std::size_t>(key.id);
  }
};
struct Equal {
  bool operator()(const Key& a, const Key& b) const {
    if (Key::equal_throws) throw Thrown();
    return a.id == b.id;
  }
};
using KeyGroup = Group<Key, int, Hash, Equal>;

struct CountingWaiter final : Group<std::string, int>::Waiter {
  void OnLanded() noexcept override { ++landed; }
  int landed = 0;
};

}  // namespace

TEST_CASE("Promise 7: a hash that throws fails its caller only") {
  KeyGroup group;
  const Key key(1);
  HeldCall in_flight(group, key);
  Key::hash_throws = true;
  CHECK_THROWS_AS(static_cast<void>(group.Do(key, [] { return 2; })), Thrown);
  CHECK_THROWS_AS(group.Forget(key), Thrown);
  Key::hash_throws = false;
  CHECK(group.Callers(key) == 1);
  CHECK(in_flight.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("Promise 7: an equality that throws fails its caller only") {
  KeyGroup group;
  const Key key(1);
  HeldCall in_flight(group, key);
  Key::equal_throws = true;
  CHECK_THROWS_AS(static_cast<void>(group.Do(key, [] { return 2; })), Thrown);
  CHECK_THROWS_AS(group.Callers(key), Thrown);
  Key::equal_throws = false;
  CHECK(group.Callers(key) == 1);
  CHECK(in_flight.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("Promise 7: landing runs neither hash nor equality") {
  KeyGroup group;
  const auto result = group.Do(Key(1), [] {
    Key::hash_throws = Key::equal_throws = Key::copy_throws = true;
    return 1;
  });
  CHECK(*result == 1);
  Key::hash_throws = Key::equal_throws = Key::copy_throws = false;
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 7: a key whose copy throws fails only Join, and OnLanded is never called") {
  struct Silent final : KeyGroup::Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  } waiter;
  KeyGroup group;
  bool launched = false;
  Key::copy_throws = true;
  CHECK_THROWS_AS(group.Join(Key(1), waiter, [&](KeyGroup::Lead) { launched = true; }), Thrown);
  Key::copy_throws = false;
  CHECK_FALSE(launched);
  CHECK(waiter.landed == 0);
  CHECK(group.GetStats() == Stats{});
  CHECK(*group.Do(Key(1), [] { return 1; }) == 1);
}

TEST_CASE("Promise 7: when an allocation fails, only the follower that needed it fails") {
  const singleflight::CallOptions ways_to_wait[] = {{}, {.timeout = 1h}};
  for (const auto& options : ways_to_wait) {
    std::size_t failures = 0;
    for (bool succeeded = false; !succeeded; ++failures) {
      Group<int, int> group;
      std::atomic<bool> failed = false;
      Caller leader([&] {
        return group.Do(1, [&] {
          Await([&] { return failed || group.Callers(1) == 2; });
          return 1;
        });
      });
      AwaitCallers(group, 1, 1);
      try {
        const FailAllocations fail(failures);
        succeeded = *group.Do(
                        1, [] { return 2; }, options) == 1;
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      CHECK(leader.Join().value == 1);
      CHECK(leader.Join().shared == succeeded);
      CHECK(group.GetStats() == Stats{.executions = 1, .followers = succeeded ? 1u : 0u});
      CHECK(*group.Do(1, [] { return 3; }) == 3);
    }
    CHECK(failures > 1);  // there were allocations to fail
  }
}

TEST_CASE("Promise 7: when an allocation of Join fails, only that Join fails") {
  std::size_t failures = 0;
  for (bool succeeded = false; !succeeded; ++failures) {
    Group<std::string, int> group;
    const std::string key = "a key that is too long for the small-string buffer";
    CountingWaiter waiter;
    bool launched = false;
    try {
      const FailAllocations fail(failures);
      group.Join(key, waiter, [&](Group<std::string, int>::Lead lead) {
        launched = true;
        lead.Succeed(1);
      });
      succeeded = true;
    } catch (const std::bad_alloc&) {
    }
    CHECK(launched == succeeded);
    CHECK(waiter.landed == (succeeded ? 1 : 0));
    CHECK(group.GetStats() == Stats{.executions = succeeded ? 1u : 0u});
    CHECK(*group.Do(key, [] { return 3; }) == 3);
  }
  CHECK(failures > 1);
}

TEST_CASE("Promise 7: a leader whose stop source cannot be allocated fails before it is visible") {
  Group<int, int> group;
  StopSource stop;
  bool ran = false;
  const auto ask = [&] {
    const FailAllocations fail(0);
    return group.Do(1, [&](StopToken) { return ran = true; }, {.stop = stop.get_token()});
  };
  CHECK_THROWS_AS(static_cast<void>(ask()), std::bad_alloc);
  CHECK_FALSE(ran);
  CHECK(group.GetStats() == Stats{});
}

TEST_CASE("Promise 7: a table that cannot grow keeps its size and still works") {
  constexpr int kDepth = 500;
  Group<int, int> group;
  const std::function<int(int)> nest = [&](int key) -> int {
    if (key == kDepth) return group.Callers(0) == 1 && group.Callers(kDepth - 1) == 1 ? key : -1;
    const auto deeper = [&] { return nest(key + 1); };
    const FailAllocations fail(0);
    return *group.Do(key, deeper);
  };
  CHECK(nest(0) == kDepth);
  CHECK(group.GetStats() == Stats{.executions = kDepth});
}

TEST_CASE("Promise 7: landing allocates nothing") {
  Group<std::string, std::string> group;
  std::size_t allocated = 0;
  Caller leader([&] {
    const std::size_t before = allocations;
    auto result = group.Do("key", [&] {
      AwaitCallers(group, "key", 2);
      return std::string("short");
    });
    allocated = allocations - before;
    return result;
  });
  AwaitCallers(group, "key", 1);
  Caller follower([&] { return group.Do("key", [] { return std::string("-"); }); });
  CHECK(follower.Join().value == "short");
  leader.Join();
  CHECK(allocated == 0);
}

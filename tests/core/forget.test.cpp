// SPDX-License-Identifier: MIT

// These tests cover promise 3 (identity), and Forget, ForgetUnshared and Callers.

#include <deque>
#include <latch>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Role;

TEST_CASE(
    "Promise 3: after Forget, the next caller starts a new call while the old one continues") {
  Group<std::string, int> group;
  std::latch finish_first(1);
  std::latch finish_second(1);
  Caller first([&] {
    return group.Do("key", [&] {
      finish_first.wait();
      return 1;
    });
  });
  AwaitCallers(group, "key", 1);
  Caller follower([&] { return group.Do("key", [] { return -1; }); });
  AwaitCallers(group, "key", 2);

  CHECK(group.Forget("key"));
  CHECK(group.Callers("key") == 0);
  Caller second([&] {
    return group.Do("key", [&] {
      finish_second.wait();
      return 2;
    });
  });
  AwaitCallers(group, "key", 1);

  finish_first.count_down();
  CHECK(first.Join().value == 1);
  CHECK(follower.Join().value == 1);
  // The old call has landed and must have left the new one in place.
  CHECK(group.Callers("key") == 1);
  Caller joins_second([&] { return group.Do("key", [] { return -1; }); });
  AwaitCallers(group, "key", 2);
  finish_second.count_down();
  CHECK(second.Join().value == 2);
  CHECK(joins_second.Join().value == 2);
  CHECK(joins_second.Join().role == Role::kFollower);
  CHECK(group.GetStats() == singleflight::Stats{.executions = 2, .followers = 2});
}

TEST_CASE("Promise 3: calls forgotten one after the other may land in any order") {
  Group<int, int> group;
  constexpr int kCalls = 5;
  std::deque<std::latch> gates;
  std::deque<Caller<int>> callers;
  for (int i = 0; i < kCalls; ++i) {
    std::latch& gate = gates.emplace_back(1);
    callers.emplace_back([&group, &gate, i] {
      return group.Do(7, [&gate, i] {
        gate.wait();
        return i;
      });
    });
    AwaitCallers(group, 7, 1);
    if (i + 1 < kCalls) CHECK(group.Forget(7));
  }
  CHECK(group.GetStats().in_flight == kCalls);
  for (const std::size_t i : {2u, 4u, 0u, 3u, 1u}) {
    gates[i].count_down();
    CHECK(callers[i].Join().value == static_cast<int>(i));
    CHECK(group.Callers(7) == (i == 2 ? 1u : 0u));
  }
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 3: Forget says whether a call was in flight") {
  Group<std::string, bool> group;
  CHECK_FALSE(group.Forget("key"));
  CHECK(*group.Do("key", [&] { return group.Forget("key"); }));
  CHECK_FALSE(*group.Do("key", [&] { return group.Forget("other"); }));
}

TEST_CASE("Promise 3: a function that has forgotten its own key may ask for it again") {
  Group<std::string, int> group;
  CHECK(*group.Do("key", [&] {
    group.Forget("key");
    return 1 + *group.Do("key", [] { return 1; });
  }) == 2);
  CHECK(group.GetStats().executions == 2);
}

TEST_CASE("ForgetUnshared forgets a call that nobody has joined") {
  Group<std::string, bool> group;
  CHECK(group.ForgetUnshared("key"));  // no call is in flight
  CHECK(*group.Do("key", [&] { return group.ForgetUnshared("key") && group.Callers("key") == 0; }));
}

TEST_CASE("ForgetUnshared leaves a shared call alone until its followers have left") {
  Group<std::string, int> group;
  HeldCall leader(group, std::string("key"));
  StopSource stop;
  Caller follower([&] { return group.Do("key", [] { return 2; }, {.stop = stop.get_token()}); });
  AwaitCallers(group, "key", 2);
  CHECK_FALSE(group.ForgetUnshared("key"));
  CHECK(group.Callers("key") == 2);
  stop.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK(group.ForgetUnshared("key"));
  CHECK(group.Callers("key") == 0);
  CHECK(leader.Finish().value == 1);
}

TEST_CASE("Callers counts the leader and the followers of the given key only") {
  Group<std::string, int> group;
  CHECK(group.Callers("key") == 0);
  const auto outcomes = AskAtOnce(3, [&] {
    return group.Do("key", [&] {
      AwaitCallers(group, "key", 3);
      return static_cast<int>(group.Callers("other"));
    });
  });
  CHECK(outcomes[0].value == 0);
  CHECK(group.Callers("key") == 0);
}

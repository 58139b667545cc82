// SPDX-License-Identifier: MIT

// A key has one execution at a time (promise 1), and its result is not cached (promise 2).

#include <atomic>
#include <latch>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Role;

namespace {

struct SameHash {
  std::size_t operator()(int) const { return 7; }
};

}  // namespace

TEST_CASE("Promise 1: a lone caller runs its function and gets its value") {
  Group<std::string, int> group;
  const auto result = group.Do("key", [] { return 42; });
  CHECK(*result == 42);
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
}

TEST_CASE("Promise 1: callers that ask while the function runs all get its one result") {
  constexpr std::size_t kCallers = 10;
  Group<std::string, std::string> group;
  std::atomic<int> runs = 0;
  const auto outcomes = AskAtOnce(kCallers, [&] {
    return group.Do("key", [&] {
      AwaitCallers(group, "key", kCallers);
      return "run " + std::to_string(++runs);
    });
  });

  CHECK(runs == 1);
  int leaders = 0;
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == "run 1");
    CHECK(outcome.shared);
    leaders += outcome.role == Role::kLeader;
  }
  CHECK(leaders == 1);
}

TEST_CASE("Promise 1: functions for different keys run at the same time") {
  Group<int, int> group;
  std::latch both(2);  // each function waits until the other one has begun
  const auto ask = [&](int key) {
    return group.Do(key, [&, key] {
      both.arrive_and_wait();
      return key;
    });
  };
  Caller first([&] { return ask(1); });
  Caller second([&] { return ask(2); });
  CHECK(first.Join().value == 1);
  CHECK(second.Join().value == 2);
}

TEST_CASE("Promise 1: keys that differ are kept apart even when their hashes are the same") {
  Group<int, int, SameHash> group;
  std::latch all(3);
  const auto ask = [&](int key) {
    return group.Do(key, [&, key] {
      all.arrive_and_wait();
      return key;
    });
  };
  Caller first([&] { return ask(1); });
  Caller second([&] { return ask(2); });
  Caller third([&] { return ask(3); });
  CHECK(first.Join().value == 1);
  CHECK(second.Join().value == 2);
  CHECK(third.Join().value == 3);
  CHECK(group.GetStats().followers == 0);
}

TEST_CASE("Promise 3: a call that lands leaves a newer one with the same hash in flight") {
  Group<int, int, SameHash> group;
  HeldCall older(group, 1);
  HeldCall newer(group, 2);
  CHECK(older.Finish().value == 1);
  CHECK(group.Callers(1) == 0);
  CHECK(group.Callers(2) == 1);
}

TEST_CASE("Promise 1: a thousand calls in flight at once are each found again") {
  // This is far more than a shard has buckets at first, so it grows while calls are in it.
  constexpr int kDepth = 1000;
  Group<int, int> group;
  std::vector<std::size_t> callers;
  const std::function<int(int)> nest = [&](int key) -> int {
    if (key == kDepth) {
      for (int k = 0; k <= kDepth; ++k) callers.push_back(group.Callers(k));
      return key;
    }
    return *group.Do(key, [&] { return nest(key + 1); });
  };
  CHECK(nest(0) == kDepth);
  for (int k = 0; k <= kDepth; ++k) CHECK(callers[static_cast<std::size_t>(k)] == (k < kDepth));
  for (int k = 0; k <= kDepth; ++k) CHECK(group.Callers(k) == 0);
}

TEST_CASE("A group keeps no memory for a burst of calls that have landed") {
  Group<int, int> group;
  std::vector<Group<int, int>::Lead> leads;
  std::vector<singleflight::Future<int>> callers;
  constexpr int kBurst = 20'000;
  const auto burst = [&] {
    for (int key = 0; key < kBurst; ++key) {
      callers.push_back(group.Join(key, [&](auto lead) { leads.push_back(std::move(lead)); }));
    }
    CHECK(group.GetStats().in_flight == std::size_t{kBurst});
    for (auto& lead : leads) CHECK(lead.Succeed(1));
    leads.clear();
    callers.clear();
  };
  leads.reserve(kBurst);
  callers.reserve(kBurst);
  const auto before = live_allocations.load();
  for (int i = 0; i < 3; ++i) {
    burst();
    CHECK(live_allocations == before);
  }
}

TEST_CASE("Promise 2: the next caller runs the function again") {
  Group<std::string, int> group;
  int runs = 0;
  for (int i = 1; i <= 3; ++i) CHECK(*group.Do("key", [&] { return ++runs; }) == i);
  CHECK(runs == 3);
}

TEST_CASE(
    "Promise 2: a caller that asks after another has returned gets the result of a later run") {
  // Each thread records the run that it got. Any thread that asks after that must get a later one.
  constexpr int kThreads = 4;
  constexpr int kRounds = 5000;
  Group<int, int> group;
  std::atomic<int> runs = 0;
  std::atomic<int> newest_returned = 0;
  std::atomic<int> stale = 0;
  std::vector<JoiningThread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        const int before = newest_returned.load();
        const int got = *group.Do(1, [&] { return ++runs; });
        if (got <= before) ++stale;
        int newest = newest_returned.load();
        while (newest < got && !newest_returned.compare_exchange_weak(newest, got)) continue;
      }
    });
  }
  threads.clear();
  CHECK(stale == 0);
  const auto stats = group.GetStats();
  CHECK(stats.executions == static_cast<std::uint64_t>(runs));
  CHECK(stats.executions + stats.followers == kThreads * kRounds);
  CHECK(stats.in_flight == 0);
}

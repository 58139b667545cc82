// SPDX-License-Identifier: MIT

// These tests cover ReadThrough::Inspect, and how InvalidateIf and InvalidateAll go through the
// loads in flight.

#include <algorithm>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "policy_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::ReadThrough;
using Clock = PolicyClock;

namespace {

// Counts the copies of keys that its owner makes.
struct CopiesUnderLock {
  void lock() {
    mutex.lock();
    count = 0;
  }
  void unlock() {
    most = std::max(most, count);
    mutex.unlock();
  }
  std::mutex mutex;
  static inline std::size_t count, most;
};
struct CopiesTraits : singleflight::ReadThroughTraits {
  using Mutex = CopiesUnderLock;
  static constexpr std::size_t kShards = 1;
};
struct LoadKey {
  explicit LoadKey(int its_number) : number(its_number) {}
  LoadKey(const LoadKey& other) : number(other.number) { ++CopiesUnderLock::count; }
  bool operator==(const LoadKey& other) const { return number == other.number; }
  int number;
};
struct HashLoadKey {
  std::size_t operator()(const LoadKey& key) const { return static_cast<std::size_t>(key.number); }
};
using Loads = ReadThrough<LoadKey, int, singleflight::DefaultCache, HashLoadKey, std::equal_to<>,
                          CopiesTraits>;

// Begins loads that the test finishes.
struct PendingLoads {
  explicit PendingLoads(Loads& its_loads, int count) : loads(its_loads) {
    for (int i = 0; i < count; ++i) {
      futures.push_back(
          loads.Join(LoadKey(i), [this](Loads::Lead lead) { leads.push_back(std::move(lead)); }));
    }
  }
  void Finish() {
    for (auto& lead : leads) lead.Succeed(1);
  }
  Loads& loads;
  std::vector<singleflight::Future<int>> futures;
  std::deque<Loads::Lead> leads;
};

}  // namespace

TEST_CASE("ReadThrough: Inspect lists the loads in flight with those in the background") {
  TaskQueue queue;
  InVirtualTime<int> users(
      {.ttl = 10ms, .stale_for = 1h, .executor = queue.Executor(), .group = {.timed = true}});
  CHECK(users.Inspect().empty());
  users.Put("stale", 1);
  Clock::Pass(20ms);
  CHECK(*users.Get("stale", [] { return 2; }) == 1);
  CHECK(*users.Get("missing", [&] {
    const auto listed = users.Inspect();
    const auto is = [&](const char* key) {
      return std::count_if(listed.begin(), listed.end(), [&](const auto& call) {
        return call.key == key && call.callers == 1 && !call.forgotten && call.since;
      });
    };
    return is("stale") == 1 && is("missing") == 1 && listed.size() == 2 ? 7 : 8;
  }) == 7);
  users.Invalidate("stale");
  REQUIRE(users.Inspect().size() == 1);
  CHECK(users.Inspect()[0].forgotten);
  queue.Run();
  CHECK(users.Inspect().empty());
}

TEST_CASE("Promise 8: InvalidateIf copies at most 16 keys under one lock") {
  Loads loads;
  PendingLoads pending(loads, 500);
  CopiesUnderLock::most = 0;
  loads.InvalidateIf([](const LoadKey& key) { return key.number % 2 == 0; });
  CHECK(CopiesUnderLock::most == 16);
  const auto listed = loads.Inspect();
  CHECK(listed.size() == 500);
  CHECK(std::all_of(listed.begin(), listed.end(),
                    [](const auto& call) { return call.forgotten == (call.key.number % 2 == 0); }));
  pending.Finish();
  CHECK(loads.GetStats().outdated == 250);
}

TEST_CASE("ReadThrough: InvalidateAll forgets every load in flight and no other") {
  Loads loads;
  PendingLoads pending(loads, 500);
  loads.InvalidateAll();
  PendingLoads newer(loads, 1);
  loads.InvalidateIf([](const LoadKey& key) { return key.number > 0; });
  const auto listed = loads.Inspect();
  CHECK(listed.size() == 501);
  CHECK(std::count_if(listed.begin(), listed.end(),
                      [](const auto& call) { return call.forgotten; }) == 500);
  pending.Finish();
  CHECK(loads.GetStats().outdated == 500);
  newer.Finish();
  CHECK(loads.Peek(LoadKey(0)) == 1);
}

// SPDX-License-Identifier: MIT

// Traits::Listener: what a ReadThrough tells it of its loads.

#include <memory>
#include <optional>
#include <singleflight/observe.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "policy_support.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoMany;

namespace {

using RecordedCache = singleflight::ReadThrough<
    std::string, int, singleflight::DefaultCache, singleflight::DefaultHash<std::string>,
    singleflight::DefaultEqual<std::string>, ListenedTo<Recorder, PolicyTraits>>;

int LoadOne() { return 1; }
int FailToLoad() { throw std::runtime_error("down"); }

const Lines kFirstLoad{"lead a #1", "land a #1: 1"};

}  // namespace

TEST_CASE("ReadThrough: a listener is told of a load and not of a hit") {
  RecordedCache users({.ttl = 1s});
  CHECK(*users.Get("a", LoadOne) == 1);
  CHECK(*users.Get("a", FailToLoad) == 1);
  CHECK(*DoAsync(users, "a", FailToLoad).Get() == 1);
  CHECK(users.GetListener().Told() == kFirstLoad);
  CHECK(Keep([&] { return users.Get("b", FailToLoad); }).message == "down");
  CHECK(std::as_const(users).GetListener().Told().back() == "land b #2: 1, failed");
}

TEST_CASE("ReadThrough: a listener is told of a refresh in the background") {
  TaskQueue queue;
  RecordedCache users({.ttl = 1s, .stale_for = 1h, .executor = queue.Executor()});
  CHECK(*users.Get("a", LoadOne) == 1);
  PolicyClock::Pass(2s);
  CHECK(*users.Get("a", [] { return 2; }) == 1);
  CHECK(users.GetListener().Told() == Lines{"lead a #1", "land a #1: 1", "lead a #2"});
  CHECK(queue.Run() == 1);
  CHECK(*users.Get("a", FailToLoad) == 2);
  CHECK(users.GetListener().Told() ==
        Lines{"lead a #1", "land a #1: 1", "lead a #2", "land a #2: 1"});
}

TEST_CASE("ReadThrough: a listener is told of a caller that takes the expired value instead") {
  TaskQueue queue;
  RecordedCache users(
      {.ttl = 1s, .stale_for = 1h, .soft_timeout = 1ns, .executor = queue.Executor()});
  CHECK(*users.Get("a", LoadOne) == 1);
  PolicyClock::Pass(2s);
  CHECK(*users.Get("a", [] { return 2; }) == 1);
  CHECK(queue.Run() == 1);
  CHECK(users.GetListener().Told() ==
        Lines{"lead a #1", "land a #1: 1", "lead a #2", "leave a #2: timeout", "land a #2: 0"});
}

TEST_CASE("ReadThrough: a listener is told of Refresh and of what follows it") {
  RecordedCache users({.ttl = 1s});
  TaskQueue queue;
  CHECK(users.Refresh("a", LoadOne, queue.Executor()) == singleflight::Role::kLeader);
  auto follower = DoAsync(users, "a", FailToLoad, queue.Executor());
  CHECK(queue.Run() == 1);
  CHECK(*follower.Get() == 1);
  CHECK(users.GetListener().Told() == Lines{"lead a #1", "follow a #1", "land a #1: 2"});
  CHECK(*users.Refresh("a", LoadOne) == 1);
  CHECK(users.GetListener().Told().back() == "land a #2: 1");
}

TEST_CASE("ReadThrough: a listener is told of loads that were invalidated or cancelled") {
  RecordedCache users;
  TaskQueue queue;
  auto invalidated = DoAsync(users, "a", LoadOne, queue.Executor());
  users.Invalidate("a");
  auto canceled = DoAsync(users, "a", LoadOne, queue.Executor());
  CHECK(users.Cancel("a"));
  CHECK(users.GetListener().Told() == Lines{"lead a #1", "lead a #2"});
  CHECK(queue.Run() == 2);
  CHECK(users.GetListener().Told() ==
        Lines{"lead a #1", "lead a #2", "land a #1: 1", "land a #2: 0, failed"});
}

TEST_CASE("ReadThrough: a listener is told of each key of DoMany that is loaded") {
  RecordedCache users({.ttl = 1h});
  CHECK(*users.Get("a", LoadOne) == 1);
  const auto load = [](std::span<const std::string> keys) {
    return std::vector<int>(keys.size(), 2);
  };
  const auto results = DoMany(users, std::vector<std::string>{"a", "b", "c"}, load);
  CHECK(*results[0] == 1);
  CHECK(*results[2] == 2);
  CHECK(users.GetListener().Told() == Lines{"lead a #1", "land a #1: 1", "lead b #2", "lead c #3",
                                            "land b #2: 1", "land c #3: 1"});
}

TEST_CASE("ReadThrough: one that is given a listener moves it to its place") {
  struct CountsLoads {
    explicit CountsLoads(std::shared_ptr<int> its_count) : count(std::move(its_count)) {}
    void OnLead(std::string_view) { ++*count; }
    std::shared_ptr<int> count;
  };
  using Counted = ListenedTo<CountsLoads, singleflight::ReadThroughTraits>;
  using Lru = singleflight::LruCache<std::string, int>;
  using Hash = singleflight::DefaultHash<std::string>;
  using Equal = singleflight::DefaultEqual<std::string>;
  const auto count = std::make_shared<int>(0);
  singleflight::ReadThrough<std::string, int, singleflight::DefaultCache, Hash, Equal, Counted>
      users({.capacity = 2}, CountsLoads(count));
  Lru lru({.capacity = 2});
  singleflight::ReadThrough<std::string, int, Lru&, Hash, Equal, Counted> others(
      lru, {}, CountsLoads(count));
  CHECK(*users.Get("a", LoadOne) == 1);
  CHECK(*users.Get("a", LoadOne) == 1);
  CHECK(*others.Get("a", LoadOne) == 1);
  CHECK(*count == 2);
}

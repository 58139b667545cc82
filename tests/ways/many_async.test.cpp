// SPDX-License-Identifier: MIT

// Tests of DoManyAsync.

#include <pthread.h>

#include <array>
#include <atomic>
#include <latch>
#include <map>
#include <memory>
#include <span>
#include <thread>

#include "cache/fake_cache.hpp"
#include "support/allocations.hpp"
#include "support/batches.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoManyAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::Role;
using singleflight::Stats;

namespace {

const auto now = [](const auto& task) { task(); };

template <class Value>
std::optional<std::errc> ErrorOfFuture(Future<Value>& future) {
  return ErrorOf([&] { return future.Get(); });
}

}  // namespace

TEST_CASE("DoManyAsync: there is a Future for each key, and one task runs the function for all") {
  IntGroup group;
  Later later;
  std::vector<Keys> runs;
  const auto fn = [&](std::span<const int> keys) {
    runs.emplace_back(keys.begin(), keys.end());
    return TenTimes(keys);
  };
  auto futures = DoManyAsync(group, {3, 1, 2}, fn, later);
  REQUIRE(futures.size() == 3);
  REQUIRE(later.tasks.size() == 1);
  CHECK(runs.empty());
  CHECK(futures[0].WaitFor(0s) == std::future_status::timeout);
  later.tasks.push_back(later.tasks.front());  // a task works once, however often it is called
  later.RunAll();
  CHECK(runs == std::vector<Keys>{{3, 1, 2}});
  CHECK(*futures[0].Get() == 30);
  const auto result = futures[1].Get();
  CHECK(*result == 10);
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(*futures[2].Get() == 20);
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("DoManyAsync: keys in flight are joined, and a key that is given twice follows itself") {
  IntGroup group;
  HeldCall in_flight(group, 2);  // its fn returns 1
  Keys got;
  const auto fn = [&](std::span<const int> keys) {
    got.assign(keys.begin(), keys.end());
    return TenTimes(keys);
  };
  Later later;
  auto futures = DoManyAsync(group, {1, 2, 3, 1}, fn, later);
  CHECK(group.Callers(1) == 2);
  CHECK(group.Callers(2) == 2);
  later.RunAll();
  CHECK(got == Keys{1, 3});
  CHECK(futures[1].WaitFor(0s) == std::future_status::timeout);
  in_flight.Finish();
  const auto second = futures[3].Get();
  CHECK(*second == 10);
  CHECK(second.shared());
  CHECK(second.role() == Role::kFollower);
  CHECK(*futures[0].Get() == 10);
  CHECK(*futures[1].Get() == 1);
  CHECK(*futures[2].Get() == 30);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 2});
}

TEST_CASE("DoManyAsync: if all keys are in flight, or there are none, the executor is not called") {
  IntGroup group;
  HeldCall in_flight(group, 1);
  const auto refuses = [](const auto&) { throw std::logic_error("must not be called"); };
  auto futures = DoManyAsync(group, {1, 1}, MustNotRun, refuses);
  CHECK(DoManyAsync(group, Keys(), MustNotRun, refuses).empty());
  in_flight.Finish();
  CHECK(*futures[0].Get() == 1);
  CHECK(*futures[1].Get() == 1);
}

TEST_CASE("DoManyAsync: without an executor, the function runs on one new thread") {
  Group<std::string, std::unique_ptr<int>> group;
  std::atomic<std::thread::id> ran_on;
  const std::array<std::string_view, 2> keys{"a", "bb"};
  auto futures = DoManyAsync(group, keys, [&](std::span<const std::string> missing) {
    ran_on = std::this_thread::get_id();
    std::map<std::string, std::unique_ptr<int>> sizes;
    for (const auto& key : missing) {
      sizes[key] = std::make_unique<int>(static_cast<int>(key.size()));
    }
    return sizes;
  });
  CHECK(**futures[0].Get() == 1);
  CHECK(**futures[1].Get() == 2);
  CHECK(ran_on != std::this_thread::get_id());
  CHECK(group.GetStats() == Stats{.executions = 2});
}

TEST_CASE("DoManyAsync: a Future reports the error of its key") {
  IntGroup group;
  auto some = DoManyAsync(
      group, {1, 2, 3},
      [](std::span<const int>) {
        std::map<int, KeyResult<int>> map;
        map.emplace(1, 10);
        map.emplace(2,
                    KeyResult<int>::Failure(std::make_exception_ptr(std::runtime_error("down"))));
        return map;
      },
      now);
  CHECK(*some[0].Get() == 10);
  CHECK_THROWS_WITH(some[1].Get(), "down");
  CHECK(ErrorOfFuture(some[2]) == std::errc::no_message);

  auto none = DoManyAsync(
      group, {1, 2}, [](std::span<const int>) -> Keys { throw std::runtime_error("down"); }, now);
  CHECK_THROWS_WITH(none[0].Get(), "down");
  CHECK_THROWS_WITH(none[1].Get(), "down");

  Group<int, void> nothing;
  auto done = DoManyAsync(
      nothing, {1, 2},
      [](std::span<const int>) {
        return std::vector{std::exception_ptr(),
                           std::make_exception_ptr(std::runtime_error("down"))};
      },
      now);
  done[0].Get();
  CHECK_THROWS_WITH(done[1].Get(), "down");
}

TEST_CASE("Promise 12: a key that a limit refuses is an error of its own Future") {
  IntGroup group({.max_calls_in_flight = 2});
  Later later;
  auto futures = DoManyAsync(group, {1, 2, 3}, TenTimes, later);
  CHECK(futures[2].valid());
  CHECK(futures[2].WaitFor(0s) == std::future_status::ready);
  CHECK(ErrorOfFuture(futures[2]) == std::errc::resource_unavailable_try_again);
  later.RunAll();
  CHECK(*futures[0].Get() == 10);
  CHECK(*futures[1].Get() == 20);
  CHECK(group.GetStats() == Stats{.executions = 2, .refused = 1});

  Group<int, void> nothing({.max_calls_in_flight = 1});
  auto refused = DoManyAsync(
      nothing, {1, 2}, [](std::span<const int>) {}, now);
  CHECK(ErrorOf([&] {
          refused[1].Get();
          return 0;
        }) == std::errc::resource_unavailable_try_again);
}

TEST_CASE("DoManyAsync: an executor that throws or drops its task fails the calls that it had") {
  IntGroup group;
  auto refused = DoManyAsync(group, {1, 2}, MustNotRun,
                             [](const auto&) { throw std::runtime_error("the pool is closed"); });
  CHECK_THROWS_WITH(refused[0].Get(), "the pool is closed");
  CHECK_THROWS_WITH(refused[1].Get(), "the pool is closed");
  auto dropped = DoManyAsync(group, {1, 2}, MustNotRun, [](const auto&) {});
  CHECK(ErrorOfFuture(dropped[0]) == std::errc::owner_dead);
  CHECK(ErrorOfFuture(dropped[1]) == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 4, .failures = 4});
}

TEST_CASE("DoManyAsync: keys that cannot be read leave nothing behind") {
  struct Breaks {
    struct Iterator {
      using value_type = int;
      using difference_type = std::ptrdiff_t;
      int operator*() const {
        if (key == 2) throw std::runtime_error("cannot read");
        return key;
      }
      Iterator& operator++() { return ++key, *this; }
      void operator++(int) { ++*this; }
      bool operator==(std::default_sentinel_t) const { return false; }
      int key = 1;
    };
    Iterator begin() const { return {}; }
    std::default_sentinel_t end() const { return {}; }
  };
  static_assert(std::input_iterator<Breaks::Iterator>);
  IntGroup group;
  CHECK_THROWS_WITH(DoManyAsync(group, Breaks(), MustNotRun, now), "cannot read");
  Group<unsigned, int> numbers;
  CHECK_THROWS_AS(DoManyAsync(
                      numbers, Keys{1, -1}, [](std::span<const unsigned>) { return Keys(); }, now),
                  std::out_of_range);
  CHECK(group.GetStats() == Stats());
  CHECK(numbers.GetStats() == Stats());
}

TEST_CASE("Promise 11: Futures leave one by one, and the last one asks the work to stop") {
  IntGroup group;
  Later later;
  StopToken unwanted;
  bool ran = false;
  const auto fn = [&](std::span<const int> keys, StopToken stop) {
    ran = true;
    CHECK(stop.stop_requested());
    return TenTimes(keys);
  };
  auto futures = DoManyAsync(group, {1, 2}, fn, later);
  auto follower = singleflight::DoAsync(group, 1, [] { return -1; });
  futures.pop_back();
  CHECK(group.Callers(2) == 0);
  futures.clear();
  CHECK(group.Callers(1) == 1);
  follower = {};
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 3, .in_flight = 2});
  later.RunAll();
  CHECK(ran);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 3});
}

TEST_CASE("Promise 11: as long as one key has a caller, the work is not asked to stop") {
  IntGroup group;
  std::latch inside(1), leave(1), left(1);
  bool early = true;
  bool late = false;
  auto futures =
      DoManyAsync(group, {1, 2}, [&](std::span<const int> keys, const StopToken& unwanted) {
        inside.count_down();
        leave.wait();
        early = unwanted.stop_requested();
        left.count_down();
        Await([&] { return unwanted.stop_requested(); });
        late = true;
        return TenTimes(keys);
      });
  inside.wait();
  futures.pop_back();
  leave.count_down();
  left.wait();
  futures.clear();
  Await([&] { return group.GetStats().in_flight == 0; });
  CHECK_FALSE(early);
  CHECK(late);
  CHECK(group.GetStats() == Stats{.executions = 2, .left = 2});
}

TEST_CASE("Promise 10: a Future that leaves does not disturb those of the other keys") {
  IntGroup group;
  Later later;
  auto futures = DoManyAsync(group, {1, 2, 3}, TenTimes, later);
  futures[1] = {};
  later.RunAll();
  CHECK(*futures[0].Get() == 10);
  CHECK(*futures[2].Get() == 30);
  CHECK(group.GetStats() == Stats{.executions = 3, .left = 1});
}

TEST_CASE("Promise 9: a function that waits for one of its own Futures is refused") {
  IntGroup group;
  Later later;
  std::vector<Future<int>> futures;
  std::optional<std::errc> refused;
  const auto fn = [&](std::span<const int> keys) {
    refused = ErrorOf([&] { return futures[1].Get(); });
    return TenTimes(keys);
  };
  futures = DoManyAsync(group, {1, 2}, fn, later);
  later.RunAll();
  CHECK(refused == std::errc::resource_deadlock_would_occur);
  CHECK(*futures[0].Get() == 10);
  CHECK(*futures[1].Get() == 20);
}

TEST_CASE("Promise 7: whichever allocation fails, a batch of Futures leaves the keys free") {
  Group<std::string, int> group;
  const std::vector<std::string> keys{"a", "b", "a"};
  const auto fn = [](std::span<const std::string> missing, StopToken) {
    return Keys(missing.size(), 7);
  };
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    std::size_t values = 0;
    try {
      std::vector<Future<int>> futures;
      {
        const FailAllocations fail(allocation);
        futures = DoManyAsync(group, keys, fn, now);
      }
      CHECK(group.GetStats().in_flight == 0);
      for (auto& future : futures) {
        try {
          values += *future.Get() == 7 ? 1 : 0;
        } catch (const std::bad_alloc&) {
        }
      }
    } catch (const std::bad_alloc&) {
    }
    CHECK(group.Callers("a") + group.Callers("b") == 0);
    CHECK(group.GetStats().in_flight == 0);
    if (values == 3) break;
    ++failures;
  }
  CHECK(failures > 10);
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE(
    "Promise 6: if a thread is cancelled inside the function, its calls land with owner_dead") {
  IntGroup group;
  std::latch inside(1);
  std::thread worker;
  std::function<void()> copy;  // keeps the work alive
  auto futures = DoManyAsync(
      group, {1, 2},
      [&](std::span<const int> keys) {
        inside.count_down();
        for (;;) pthread_testcancel();
        return TenTimes(keys);
      },
      [&](auto task) {
        copy = task;
        worker = std::thread(std::move(task));
      });
  inside.wait();
  pthread_cancel(worker.native_handle());
  worker.join();
  CHECK(ErrorOfFuture(futures[0]) == std::errc::owner_dead);
  CHECK(ErrorOfFuture(futures[1]) == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}
#endif

TEST_CASE("Promise 13: what the function did happens before a Future's caller continues") {
  IntGroup group;
  int wrong = 0;
  for (int round = 1; round <= 200; ++round) {
    int written = 0;
    auto futures = DoManyAsync(group, {1, 2}, [&](std::span<const int> keys) {
      written = round;
      return TenTimes(keys);
    });
    if (*futures[1].Get() != 20 || written != round) ++wrong;
    if (*futures[0].Get() != 10) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("Promise 14: the destructor waits for the task, and the Futures outlive the group") {
  std::vector<Future<int>> futures;
  std::vector<Future<int>> dropped;
  bool asked = false;
  {
    IntGroup group;
    std::latch inside(1);
    futures = DoManyAsync(group, {1, 2}, [&](std::span<const int> keys, StopToken stop) {
      inside.count_down();
      Await([&] { return stop.stop_requested(); });
      asked = true;
      return TenTimes(keys);
    });
    dropped = DoManyAsync(group, {3}, MustNotRun, [](const auto&) {});
    inside.wait();
  }
  CHECK(asked);
  CHECK(*futures[0].Get() == 10);
  CHECK(ErrorOfFuture(dropped[0]) == std::errc::owner_dead);
}

TEST_CASE("DoManyAsync: a ReadThrough's hits are ready, and only misses are loaded") {
  FakeCache<int> cache;
  cache.Fill("hit", 1);
  singleflight::ReadThrough<std::string, int, FakeCache<int>&> users(cache);
  Later later;
  std::vector<std::string> got;
  const auto load = [&](std::span<const std::string> missing) {
    got.assign(missing.begin(), missing.end());
    return std::map<std::string, int>{{"miss", 2}};
  };
  auto futures = DoManyAsync(users, {"hit", "miss", "hit"}, load, later);
  CHECK(futures[0].WaitFor(0s) == std::future_status::ready);
  CHECK(futures[2].WaitFor(0s) == std::future_status::ready);
  later.RunAll();
  CHECK(got == std::vector<std::string>{"miss"});
  CHECK(*futures[0].Get() == 1);
  CHECK(*futures[1].Get() == 2);
  CHECK(cache.Peek("miss") == 2);
  auto hits = DoManyAsync(users, {"hit", "miss"}, load, later);
  CHECK(later.tasks.empty());
  CHECK(*hits[1].Get() == 2);
  CHECK(users.GetStats().loads == 1);
}

// SPDX-License-Identifier: MIT

// Tests of DoAsync, Future and SharedFuture.

#include <atomic>
#include <functional>
#include <latch>
#include <mutex>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::Role;
using singleflight::SharedFuture;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;

// Two executors: kInline runs a task at once, and KeepIn keeps it for the test to run.
constexpr auto kInline = [](auto task) { task(); };

auto KeepIn(std::function<void()>& kept) {
  return [&kept](auto task) { kept = task; };
}

constexpr auto kMustNotSubmit = [](auto) { FAIL("no task may be submitted"); };
constexpr auto kMustNotRun = []() -> int { throw std::logic_error("this fn must not run"); };

template <class Value>
Outcome<Value> Get(Future<Value>& future) {
  return Keep([&] { return future.Get(); });
}

}  // namespace

TEST_CASE("DoAsync: without an executor the function runs on a thread of its own") {
  IntGroup group;
  std::thread::id ran_on;
  auto future = DoAsync(group, "key", [&] {
    ran_on = std::this_thread::get_id();
    return 7;
  });
  CHECK(future.valid());
  const auto result = future.Get();
  CHECK_FALSE(future.valid());
  CHECK(*result == 7);
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(ran_on != std::this_thread::get_id());
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE(
    "Promise 1: ten Futures and a blocked thread share one execution, and one task is submitted") {
  IntGroup group;
  std::function<void()> task;
  int submitted = 0;
  std::vector<Future<int>> futures;
  for (int i = 0; i < 10; ++i) {
    futures.push_back(DoAsync(
        group, "key", [i] { return i; },
        [&](auto submitted_task) {
          ++submitted;
          task = submitted_task;
        }));
  }
  Caller blocked([&] { return group.Do("key", kMustNotRun); });
  AwaitCallers(group, "key", 11);
  CHECK(futures[3].WaitFor(0s) == std::future_status::timeout);
  task();
  CHECK(submitted == 1);
  CHECK(blocked.Join().value == 0);
  for (auto& future : futures) {
    CHECK(future.WaitFor(0s) == std::future_status::ready);
    const auto outcome = Get(future);
    CHECK(outcome.value == 0);
    CHECK(outcome.shared);
    CHECK(outcome.role == (&future == futures.data() ? Role::kLeader : Role::kFollower));
  }
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 10});
}

TEST_CASE("DoAsync: if the executor runs the task at once, the call lands inside DoAsync") {
  IntGroup group;
  auto future = DoAsync(
      group, "key", [] { return 7; }, kInline);
  CHECK(group.GetStats() == Stats{.executions = 1});
  CHECK(group.Callers("key") == 0);
  CHECK(*future.Get() == 7);
}

TEST_CASE("DoAsync: an exception that the executor throws fails the call, for followers too") {
  IntGroup group;
  Future<int> follower;
  auto leader = DoAsync(group, "key", kMustNotRun, [&](auto) {
    follower = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
    throw std::runtime_error("the pool is full");
  });
  CHECK(Get(leader).message == "the pool is full");
  CHECK(Get(follower).message == "the pool is full");
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .failures = 1});
}

TEST_CASE("DoAsync: a task that its executor kept does nothing once the executor has thrown") {
  IntGroup group;
  std::function<void()> task;
  auto future = DoAsync(group, "key", kMustNotRun, [&](auto submitted) {
    task = submitted;
    throw std::runtime_error("the pool is full");
  });
  task();
  CHECK(Get(future).message == "the pool is full");
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("DoAsync: an executor that throws after it has run the task changes nothing") {
  IntGroup group;
  auto future = DoAsync(
      group, "key", [] { return 7; },
      [](auto task) {
        task();
        throw std::runtime_error("too late");
      });
  CHECK(*future.Get() == 7);
}

TEST_CASE("DoAsync: a task that is dropped lands the call with owner_dead") {
  IntGroup group;
  auto at_once = DoAsync(group, "key", kMustNotRun, [](auto) {});
  CHECK(Get(at_once).error == std::errc::owner_dead);

  std::function<void()> task;
  auto leader = DoAsync(group, "key", kMustNotRun, KeepIn(task));
  auto follower = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
  Caller blocked([&] { return group.Do("key", kMustNotRun); });
  AwaitCallers(group, "key", 3);
  task = nullptr;
  CHECK(Get(leader).error == std::errc::owner_dead);
  CHECK(Get(follower).error == std::errc::owner_dead);
  CHECK(blocked.Join().error == std::errc::owner_dead);
  CHECK(*DoAsync(
             group, "key", [] { return 7; }, kInline)
             .Get() == 7);
}

TEST_CASE("DoAsync: however often a task is called, on however many threads, it runs once") {
  IntGroup group;
  std::atomic<int> runs = 0;
  std::function<void()> task;
  auto future = DoAsync(
      group, "key", [&] { return ++runs; }, KeepIn(task));
  {
    std::latch together(4);
    std::vector<JoiningThread> threads;
    for (int i = 0; i < 4; ++i) {
      threads.emplace_back([&, copy = task] {
        together.arrive_and_wait();
        copy();
      });
    }
  }
  task();
  CHECK(runs == 1);
  CHECK(*future.Get() == 1);
}

TEST_CASE("DoAsync: an executor may keep the task as a copy in a lambda that is not mutable") {
  IntGroup group;
  std::function<void()> posted;
  auto future = DoAsync(
      group, "key", [] { return 7; }, [&](auto task) { posted = [task] { task(); }; });
  posted();
  CHECK(*future.Get() == 7);
}

TEST_CASE("DoAsync: the call fails if its thread cannot be started") {
  IntGroup group;
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    std::optional<Future<int>> future;
    try {
      const FailAllocations fail(allocation);
      future = DoAsync(group, "key", [] { return 7; });
    } catch (const std::bad_alloc&) {
      continue;  // it failed before the call was made
    }
    const auto outcome = Get(*future);
    if (outcome.value == 7) break;
    CHECK(outcome.message == std::bad_alloc().what());
    ++failures;
  }
  CHECK(failures > 0);
  const Stats stats = group.GetStats();
  CHECK(stats.failures == static_cast<std::uint64_t>(failures));
  CHECK(stats.in_flight == 0);
}

TEST_CASE("DoAsync: the function may be move-only, and may take a stop token") {
  IntGroup group;
  auto moved = DoAsync(group, "key", [value = std::make_unique<int>(7)] { return *value; });
  CHECK(*moved.Get() == 7);
  auto token = DoAsync(group, "key", [](StopToken stop) { return stop.stop_possible(); });
  CHECK(*token.Get() == 1);
}

TEST_CASE("DoAsync: the captures of the function are destroyed before the call lands") {
  IntGroup group;
  const auto captured = std::make_shared<int>(7);
  std::function<void()> task;
  auto future = DoAsync(
      group, "key", [captured] { return *captured; }, KeepIn(task));
  CHECK(captured.use_count() == 2);
  long uses_at_landing = 0;
  struct Waiter final : IntGroup::Waiter {
    void OnLanded() noexcept override { *uses = (*shared).use_count(); }
    const std::shared_ptr<int>* shared = nullptr;
    long* uses = nullptr;
  } waiter;
  waiter.shared = &captured;
  waiter.uses = &uses_at_landing;
  group.Join("key", waiter, [](auto) { FAIL("no call may be launched"); });
  task();
  CHECK(uses_at_landing == 1);
  CHECK(*future.Get() == 7);
}

TEST_CASE("DoAsync: a value may be void or move-only") {
  Group<int, void> nothing;
  bool ran = false;
  DoAsync(nothing, 1, [&] { ran = true; }).Get().value();
  CHECK(ran);
  Group<int, std::unique_ptr<int>> pointers;
  const auto result = DoAsync(pointers, 1, [] { return std::make_unique<int>(7); }).Get();
  CHECK(**result == 7);
  CHECK_FALSE(result.shared());
}

TEST_CASE("DoAsync: a follower allocates nothing, unless it is its call's first Future") {
  IntGroup group;
  std::function<void()> task;
  auto leader = DoAsync(
      group, "a key that is too long for the small string optimization", [] { return 7; },
      KeepIn(task));
  const std::size_t before = allocations;
  {
    auto follower = DoAsync(group, "a key that is too long for the small string optimization",
                            kMustNotRun, kMustNotSubmit);
    CHECK(allocations == before);
    task();
    CHECK(*follower.Get() == 7);
  }
  CHECK(*leader.Get() == 7);
}

TEST_CASE("Promise 5: an exception of any type reaches every Future") {
  IntGroup group;
  std::function<void()> task;
  auto leader = DoAsync(
      group, "key", []() -> int { throw 5; }, KeepIn(task));
  auto follower = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
  task();
  CHECK_THROWS_AS(static_cast<void>(leader.Get()), int);
  CHECK_THROWS_AS(static_cast<void>(follower.Get()), int);
  CHECK_FALSE(leader.valid());
}

TEST_CASE("Promise 8: an executor and its task run with no lock held") {
  IntGroup group;
  std::atomic<int> runs = 0;
  // GetStats would deadlock if this thread held a shard's lock.
  const auto ask = [&] {
    ++runs;
    static_cast<void>(group.GetStats());
  };
  struct Asking {
    ~Asking() { (*ask)(); }
    const std::function<void()>* ask;
  };
  const std::function<void()> asking(ask);
  auto future = DoAsync(
      group, "key",
      [&, captured = std::make_shared<Asking>(Asking{&asking})] {
        ask();
        return 7;
      },
      [&](auto task) {
        ask();
        task();
      });
  CHECK(*future.Get() == 7);
  CHECK(runs == 4);  // the executor, fn, the captured Asking and its temporary each ask
}

TEST_CASE("Promise 9: a function that waits for the Future of its own key is refused") {
  IntGroup group;
  std::optional<std::errc> got;
  std::optional<std::errc> waited;
  auto future = DoAsync(
      group, "key",
      [&] {
        auto own = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
        waited = ErrorOf([&] { return own.WaitFor(1h); });
        got = ErrorOf([&] { return own.Get(); });
        return 7;
      },
      kInline);
  CHECK(waited == std::errc::resource_deadlock_would_occur);
  CHECK(got == std::errc::resource_deadlock_would_occur);
  CHECK(*future.Get() == 7);
}

TEST_CASE(
    "Promise 9: in a cycle of a Future and a blocked thread, exactly one of them is refused") {
  IntGroup group;
  std::latch both_lead(2);
  std::optional<std::errc> first;
  std::optional<std::errc> second;
  auto a = DoAsync(group, "a", [&] {
    both_lead.arrive_and_wait();
    auto b = DoAsync(group, "b", kMustNotRun, kMustNotSubmit);
    first = ErrorOf([&] { return b.Get(); });
    return 1;
  });
  Caller b([&] {
    return group.Do("b", [&] {
      both_lead.arrive_and_wait();
      second = ErrorOf([&] { return group.Do("a", kMustNotRun); });
      return 2;
    });
  });
  CHECK(*a.Get() == 1);
  CHECK(b.Join().value == 2);
  CHECK((first.has_value() ? 1 : 0) + (second.has_value() ? 1 : 0) == 1);
  CHECK((first ? first : second) == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("Promise 10: a Future that is dropped or assigned to leaves, and its call continues") {
  IntGroup group;
  std::function<void()> task;
  auto leader = DoAsync(
      group, "key", [] { return 7; }, KeepIn(task));
  {
    auto dropped = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
    auto assigned = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
    CHECK(group.Callers("key") == 3);
    assigned = Future<int>();
    CHECK(group.Callers("key") == 2);
    auto moved = std::move(dropped);
    CHECK_FALSE(dropped.valid());  // NOLINT(bugprone-use-after-move): this is what is tested
    CHECK(group.Callers("key") == 2);
  }
  CHECK(group.Callers("key") == 1);
  task();
  const auto result = leader.Get();
  CHECK(*result == 7);
  CHECK_FALSE(result.shared());
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 2});
}

TEST_CASE("Promise 10: a Future that is assigned another leaves its own call at once") {
  IntGroup group;
  std::function<void()> task;
  std::function<void()> other_task;
  auto future = DoAsync(
      group, "key", [] { return 7; }, KeepIn(task));
  auto other = DoAsync(
      group, "other", [] { return 8; }, KeepIn(other_task));
  future = std::move(other);
  CHECK(group.Callers("key") == 0);
  CHECK(group.Callers("other") == 1);
  CHECK_FALSE(other.valid());  // NOLINT(bugprone-use-after-move): this is what is tested
  auto& itself = future;
  future = std::move(itself);
  CHECK(group.Callers("other") == 1);
  task();
  other_task();
  CHECK(*future.Get() == 8);
}

TEST_CASE("Promise 10: a Future whose wait times out stays on its call") {
  IntGroup group;
  std::function<void()> task;
  auto future = DoAsync(
      group, "key", [] { return 7; }, KeepIn(task));
  CHECK(future.WaitFor(1ms) == std::future_status::timeout);
  CHECK(future.WaitUntil(std::chrono::system_clock::now()) == std::future_status::timeout);
  CHECK(future.WaitFor(std::chrono::hours::min()) == std::future_status::timeout);
  CHECK(group.Callers("key") == 1);
  task();
  CHECK(future.WaitFor(std::chrono::hours::max()) == std::future_status::ready);
  CHECK(future.WaitFor(std::chrono::nanoseconds::max()) == std::future_status::ready);
  CHECK(future.WaitUntil(std::chrono::steady_clock::now()) == std::future_status::ready);
  CHECK(*future.Get() == 7);
}

TEST_CASE(
    "Promise 11: dropping the last Future asks the call to stop, and a newcomer starts a new one") {
  IntGroup group;
  StopToken stop;
  std::function<void()> task;
  auto first = DoAsync(
      group, "key",
      [&](StopToken token) {
        stop = std::move(token);
        return stop.stop_requested() ? 1 : 0;
      },
      KeepIn(task));
  auto second = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
  first = {};
  second = {};
  auto newcomer = DoAsync(
      group, "key", [] { return 2; }, kInline);
  CHECK(*newcomer.Get() == 2);
  task();
  CHECK(stop.stop_requested());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE(
    "Promise 11: when the last Future to leave races with a newcomer, no newcomer is stopped") {
  constexpr int kRounds = 3000;
  IntGroup group;
  int stopped_newcomers = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::function<void()> task;
    auto leaver = DoAsync(
        group, "key", [](StopToken stop) { return stop.stop_requested() ? -1 : 1; }, KeepIn(task));
    std::latch together(2);
    JoiningThread leaving([&] {
      together.arrive_and_wait();
      leaver = {};
    });
    together.arrive_and_wait();
    auto newcomer = DoAsync(
        group, "key", [] { return 2; }, kInline);
    leaving.join();
    task();
    if (*newcomer.Get() == -1) ++stopped_newcomers;
  }
  CHECK(stopped_newcomers == 0);
  const Stats stats = group.GetStats();
  CHECK(stats.executions + stats.followers == 2 * kRounds);
  CHECK(stats.left == kRounds);
  CHECK(stats.in_flight == 0);
}

TEST_CASE("Promise 10: a Future that is dropped while its call lands disturbs nobody") {
  constexpr std::uint64_t kRounds = 3000;
  IntGroup group;
  std::uint64_t wrong = 0;
  std::uint64_t left_before = 0;
  for (std::uint64_t round = 0; round < kRounds; ++round) {
    std::function<void()> task;
    auto leader = DoAsync(
        group, "key", [] { return 7; }, KeepIn(task));
    auto dropped = DoAsync(group, "key", kMustNotRun, kMustNotSubmit);
    std::latch together(2);
    JoiningThread landing([&] {
      together.arrive_and_wait();
      task();
    });
    together.arrive_and_wait();
    dropped = {};
    const auto result = leader.Get();
    landing.join();
    // Either `dropped` left first and the leader is alone, or it got a result that nobody took.
    const std::uint64_t left = group.GetStats().left;
    if (*result != 7 || result.shared() != (left == left_before)) ++wrong;
    left_before = left;
  }
  CHECK(wrong == 0);
  const Stats stats = group.GetStats();
  CHECK(stats.executions == kRounds);
  CHECK(stats.followers == kRounds);
  CHECK(stats.left <= kRounds);
  CHECK(stats.in_flight == 0);
}

TEST_CASE("Promise 12: a limit refuses DoAsync at once") {
  IntGroup group({.max_callers_per_call = 1});
  std::function<void()> task;
  auto leader = DoAsync(
      group, "key", [] { return 7; }, KeepIn(task));
  CHECK(ErrorOf([&] { return DoAsync(group, "key", kMustNotRun, kMustNotSubmit); }) ==
        std::errc::resource_unavailable_try_again);
  task();
  CHECK(*leader.Get() == 7);
}

TEST_CASE("Promise 13: what the function did happens before any Future's Get returns") {
  IntGroup group;
  for (int round = 0; round < 200; ++round) {
    int written = 0;
    auto future = DoAsync(group, "key", [&] { return written = round; });
    Caller other([&] { return DoAsync(group, "key", [&] { return written = round; }).Get(); });
    CHECK(*future.Get() == round);
    CHECK(other.Join().value == round);
    CHECK(written == round);
  }
}

TEST_CASE("Promise 14: the destructor waits for calls that run on threads of their own") {
  std::atomic<bool> stopped = false;
  std::optional<Future<int>> future;
  {
    IntGroup group;
    std::latch inside(1);
    future = DoAsync(group, "key", [&](StopToken stop) {
      inside.count_down();
      Await([&] { return stop.stop_requested(); });
      stopped = true;
      return 7;
    });
    inside.wait();
  }
  CHECK(stopped);
  CHECK(*future->Get() == 7);
}

TEST_CASE("Promise 14: a value that nobody wants any more is destroyed before its group") {
  const auto counted = std::make_shared<int>(7);
  std::function<void()> task;
  {
    Group<int, std::shared_ptr<int>> group;
    auto unwanted = DoAsync(
        group, 1, [&] { return counted; }, KeepIn(task));
    unwanted = {};
    task();
    CHECK(counted.use_count() == 1);
    CHECK(group.GetStats() == Stats{.executions = 1, .left = 1});
  }
}

TEST_CASE("Promise 14: a Future may outlive its group, whether it is read or not") {
  std::vector<Future<int>> futures;
  {
    IntGroup group;
    std::function<void()> task;
    for (int i = 0; i < 3; ++i) {
      futures.push_back(DoAsync(
          group, "key", [] { return 7; }, KeepIn(task)));
    }
    task();
  }
  futures[0] = {};
  const auto result = futures[1].Get();
  CHECK(*result == 7);
  CHECK(result.shared());
}

TEST_CASE("Future: Get and Wait throw no_state if the Future is on no call") {
  const auto is_no_state = [](auto&& ask) {
    try {
      static_cast<void>(ask());
    } catch (const std::future_error& error) {
      return error.code() == std::future_errc::no_state;
    }
    return false;
  };
  Future<int> none;
  CHECK_FALSE(none.valid());
  CHECK(is_no_state([&] { return none.Get(); }));
  CHECK(is_no_state([&] { return none.WaitFor(1s); }));
  CHECK(is_no_state([&] { return none.Wait(), 0; }));
  SharedFuture<int> shared = std::move(none);
  CHECK_FALSE(shared.valid());
  CHECK(is_no_state([&] { return shared.Get(); }));
}

TEST_CASE(
    "SharedFuture: copies count as one caller, and can read the one value any number of times") {
  IntGroup group;
  std::function<void()> task;
  SharedFuture<int> shared = DoAsync(
      group, "key", [] { return 7; }, KeepIn(task));
  SharedFuture<int> copy = shared;
  CHECK(group.Callers("key") == 1);
  CHECK(copy.WaitFor(0s) == std::future_status::timeout);
  task();
  copy.Wait();
  const auto outcomes = AskAtOnce(4, [&shared] { return shared.Get(); });
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == 7);
    CHECK(outcome.shared);
  }
  const auto first = shared.Get();
  const auto second = copy.Get();
  CHECK(&*first == &*second);
  CHECK(shared.valid());
}

TEST_CASE("SharedFuture: the caller leaves when the last copy is dropped") {
  IntGroup group;
  std::function<void()> task;
  auto shared = DoAsync(
                    group, "key", [] { return 7; }, KeepIn(task))
                    .Share();
  auto copy = std::make_optional(shared);
  shared = {};
  CHECK(group.Callers("key") == 1);
  copy.reset();
  CHECK(group.Callers("key") == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1, .in_flight = 1});
  task();
}

TEST_CASE(
    "SharedFuture: a failure is thrown from every Get, and a move-only value is never copied") {
  Group<int, std::unique_ptr<int>> group;
  auto failed =
      DoAsync(group, 1, []() -> std::unique_ptr<int> { throw std::runtime_error("down"); }).Share();
  CHECK_THROWS_WITH(static_cast<void>(failed.Get()), "down");
  CHECK_THROWS_WITH(static_cast<void>(failed.Get()), "down");
  auto shared = DoAsync(group, 1, [] { return std::make_unique<int>(7); }).Share();
  CHECK(**shared.Get() == 7);
  CHECK(**shared.Get() == 7);
}

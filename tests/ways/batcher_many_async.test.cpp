// SPDX-License-Identifier: MIT

// Tests of CoDoMany and DoManyAsync on a Batcher.

#include <coroutine>
#include <latch>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>

#include "batcher_support.hpp"
#include "support/allocations.hpp"
#include "support/coroutines.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;
using singleflight::CoDoMany;
using singleflight::DoAsync;
using singleflight::DoManyAsync;
using singleflight::GroupOptions;
using singleflight::KeyResult;
using singleflight::Role;
using singleflight::Stats;

namespace {

Routine AwaitKeys(IntBatcher& batcher, Keys keys, Results& results, StopToken stop = {}) {
  results = co_await CoDoMany(batcher, keys, stop);
}

}  // namespace

// ---- CoDoMany

TEST_CASE("CoDoMany: the keys of a Batcher's caller are one call, each once, in their order") {
  IntGroup group;
  Calls calls;
  Results results;
  Batcher batcher(group, Noting(calls));
  const Routine routine = AwaitKeys(batcher, {3, 1, 3, 2}, results);
  CHECK_FALSE(routine.Done());
  CHECK(calls.Get().empty());
  CHECK(batcher.Flush() == 3);
  REQUIRE(routine.Done());
  CHECK(calls.Get() == std::vector<Ints>{{3, 1, 2}});
  CHECK(ValuesOf(results) == Ints{30, 10, 30, 20});
  CHECK(results[0].shared());
  CHECK(results[1].role() == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("CoDoMany: coroutines and single asks share a Batcher's batch") {
  IntGroup group;
  Calls calls;
  Results one, other;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_delay = 0ms}, tasks.Keep());
  const Routine first = AwaitKeys(batcher, {1, 2}, one);
  auto single = DoAsync(batcher, 3);
  const Routine second = AwaitKeys(batcher, {2, 4}, other);
  REQUIRE(tasks.Count() == 1);
  tasks.RunOne();
  REQUIRE(first.Done());
  REQUIRE(second.Done());
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3, 4}});
  CHECK(ValuesOf(one) == Ints{10, 20});
  CHECK(ValuesOf(other) == Ints{20, 40});
  CHECK(*single.Get() == 30);
  CHECK(other[0].role() == Role::kFollower);
}

TEST_CASE("CoDoMany: it does not suspend if its keys fill batches that run at once") {
  IntGroup group;
  Calls calls;
  Results filled, rest, none;
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  CHECK(AwaitKeys(batcher, {1, 2, 3, 4}, filled).Done());
  CHECK(ValuesOf(filled) == Ints{10, 20, 30, 40});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}, {3, 4}});
  CHECK(AwaitKeys(batcher, {}, none).Done());
  const Routine suspended = AwaitKeys(batcher, {5, 6, 7}, rest);
  CHECK_FALSE(suspended.Done());
  CHECK(calls.Get().back() == Ints{5, 6});
  batcher.Flush();
  REQUIRE(suspended.Done());
  CHECK(ValuesOf(rest) == Ints{50, 60, 70});
}

TEST_CASE("CoDoMany: a Batcher's keys that are in flight are joined, and the others are loaded") {
  IntGroup group;
  Calls calls;
  Results results;
  std::optional<IntGroup::Lead> lead;
  Silent leader;
  group.Join(2, leader, [&](IntGroup::Lead its_lead) { lead = std::move(its_lead); });
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  const Routine routine = AwaitKeys(batcher, {1, 2, 3}, results);
  CHECK(calls.Get() == std::vector<Ints>{{1, 3}});
  CHECK_FALSE(routine.Done());
  lead->Succeed(7);
  REQUIRE(routine.Done());
  CHECK(ValuesOf(results) == Ints{10, 7, 30});
}

TEST_CASE("CoDoMany: a Batcher's errors are those of their keys alone") {
  IntGroup group;
  Results results;
  Batcher batcher(group, [](std::span<const int>) {
    std::map<int, KeyResult<int>> values;
    values.emplace(1, 10);
    values.emplace(2,
                   KeyResult<int>::Failure(std::make_exception_ptr(std::runtime_error("no row"))));
    return values;
  });
  const Routine routine = AwaitKeys(batcher, {1, 2, 3}, results);
  batcher.Flush();
  REQUIRE(routine.Done());
  CHECK(Get(results[0]).value == 10);
  CHECK(Get(results[1]).message == "no row");
  CHECK(Get(results[2]).error == std::errc::no_message);
}

TEST_CASE("CoDoMany: resume_on gets the coroutine once all of its keys of a Batcher have landed") {
  IntGroup group;
  Calls calls;
  Results results;
  std::vector<std::coroutine_handle<>> posted;
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  const auto post = [&posted](std::coroutine_handle<> handle) { posted.push_back(handle); };
  const auto await = [&]() -> Routine {
    const Keys keys{1, 2, 3};
    results = co_await CoDoMany(batcher, keys, StopToken(), post);
  };
  const Routine routine = await();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  CHECK(posted.empty());
  batcher.Flush();
  REQUIRE(posted.size() == 1);
  CHECK_FALSE(routine.Done());
  posted[0].resume();
  CHECK(ValuesOf(results) == Ints{10, 20, 30});
}

TEST_CASE("CoDoMany: a Batcher's caller asks for nothing before it is awaited") {
  IntGroup group;
  Calls calls;
  Results results;
  Batcher batcher(group, Noting(calls));
  const Keys keys{1, 2};
  auto asks = CoDoMany(batcher, keys);
  CHECK(batcher.Flush() == 0);
  const auto await = [&]() -> Routine { results = co_await std::move(asks); };
  const Routine routine = await();
  CHECK(batcher.Flush() == 2);
  CHECK(ValuesOf(results) == Ints{10, 20});
}

TEST_CASE("Promise 10: a coroutine that is stopped leaves all of its keys of a Batcher") {
  IntGroup group;
  Calls calls;
  Results stopped, others;
  StopSource stop;
  Batcher batcher(group, Stoppable(calls));
  const Routine leaves = AwaitKeys(batcher, {1, 2, 3}, stopped, stop.get_token());
  const Routine stays = AwaitKeys(batcher, {2}, others);
  stop.request_stop();
  REQUIRE(leaves.Done());
  CHECK(ErrorsOf(stopped) == Errors(3, kCanceled));
  batcher.Flush();
  REQUIRE(stays.Done());
  CHECK(ValuesOf(others) == Ints{20});
  CHECK(calls.Get() == std::vector<Ints>{{2}});
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 1, .dropped = 2});
}

TEST_CASE("Promise 10: a coroutine that was stopped before it asks a Batcher joins nothing") {
  IntGroup group;
  Calls calls;
  Results results;
  StopSource stop;
  stop.request_stop();
  Batcher batcher(group, Noting(calls), {.max_keys = 1});
  const Routine routine = AwaitKeys(batcher, {1, 2}, results, stop.get_token());
  REQUIRE(routine.Done());
  CHECK(ErrorsOf(results) == Errors(2, kCanceled));
  CHECK(calls.Get().empty());
  CHECK(group.GetStats() == Stats());
}

TEST_CASE("Promise 11: a coroutine that runs a Batcher's batches leaves them when it is stopped") {
  IntGroup group;
  Calls calls;
  Results results;
  StopSource caller;
  bool asked = false;
  Batcher batcher(group,
                  Stoppable(calls,
                            [&](const StopToken& stop) {
                              caller.request_stop();
                              asked = stop.stop_requested();
                            }),
                  {.max_keys = 2});
  const Routine routine = AwaitKeys(batcher, {1, 2, 3, 4, 5}, results, caller.get_token());
  REQUIRE(routine.Done());
  CHECK(asked);
  CHECK(ErrorsOf(results) == Errors(5, kCanceled));
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  CHECK(batcher.Flush() == 0);  // the others were not asked for any more
  CHECK(group.GetStats().left == 2);
}

TEST_CASE("Promise 10: a coroutine leaves its keys of a Batcher if its frame is destroyed") {
  IntGroup group;
  Calls calls;
  Results results, others;
  Batcher batcher(group, Stoppable(calls));
  Routine destroyed = AwaitKeys(batcher, {1, 2}, results);
  const Routine stays = AwaitKeys(batcher, {2, 3}, others);
  destroyed.Destroy();
  batcher.Flush();
  REQUIRE(stays.Done());
  CHECK(ValuesOf(others) == Ints{20, 30});
  CHECK(calls.Get() == std::vector<Ints>{{2, 3}});
}

TEST_CASE("Destroying a Batcher: coroutines that wait for its keys get owner_dead for each") {
  IntGroup group;
  Calls calls;
  Results results;
  std::optional<IntBatcher> batcher(std::in_place, group, Noting(calls),
                                    BatcherOptions{.max_keys = 2});
  const Routine routine = AwaitKeys(*batcher, {1, 2, 3}, results);
  CHECK_FALSE(routine.Done());
  batcher.reset();
  REQUIRE(routine.Done());
  CHECK(ErrorsOf(results) == Errors{std::nullopt, std::nullopt, std::errc::owner_dead});
}

TEST_CASE("Destroying a Batcher: a coroutine that another one's keys resume may do it") {
  IntGroup group;
  Calls calls;
  Results first, second;
  auto batcher = std::make_unique<IntBatcher>(group, Noting(calls), BatcherOptions{.max_keys = 2});
  const auto destroys = [&]() -> Routine {
    const Keys keys{1};
    first = co_await CoDoMany(*batcher, keys);
    batcher.reset();
  };
  const Routine one = destroys();
  const Routine other = AwaitKeys(*batcher, {2, 3, 4, 5}, second);
  REQUIRE(one.Done());
  REQUIRE(other.Done());
  CHECK(ValuesOf(first) == Ints{10});
  CHECK(ErrorsOf(second) ==
        Errors{std::nullopt, std::errc::owner_dead, std::errc::owner_dead, std::errc::owner_dead});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
}

// ---- DoManyAsync

TEST_CASE("DoManyAsync: the keys of a Batcher's caller are one call, and each place has a Future") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 3});
  auto futures = DoManyAsync(batcher, {3, 1, 3, 2});
  CHECK(calls.Get() == std::vector<Ints>{{3, 1, 2}});
  REQUIRE(futures.size() == 4);
  const auto leader = futures[0].Get();
  const auto follower = futures[2].Get();
  CHECK(*leader == 30);
  CHECK(&*leader == &*follower);
  CHECK(leader.role() == Role::kLeader);
  CHECK(follower.role() == Role::kFollower);
  CHECK(*futures[3].Get() == 20);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1});
  CHECK(DoManyAsync(batcher, Keys()).empty());
}

TEST_CASE("DoManyAsync: a Batcher's batches run as they fill, and the last waits for a Flush") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_keys = 2}, tasks.Keep());
  auto futures = DoManyAsync(batcher, {1, 2, 3, 4, 5});
  CHECK(tasks.Count() == 2);
  CHECK(batcher.GetStats() == BatcherStats{.waiting = 5});
  CHECK(batcher.Flush() == 1);
  for (int task = 0; task < 3; ++task) tasks.RunOne();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}, {3, 4}, {5}});
  CHECK(ValuesOf(futures) == Ints{10, 20, 30, 40, 50});
}

TEST_CASE("DoManyAsync: a Batcher's keys that are in flight are joined, wherever they are led") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  HeldCall in_flight(group, 1);  // its fn returns 1
  auto single = DoAsync(batcher, 2);
  auto futures = DoManyAsync(batcher, {1, 2, 3});
  CHECK(batcher.Flush() == 2);
  in_flight.Finish();
  CHECK(ValuesOf(futures) == Ints{1, 20, 30});
  CHECK(*single.Get() == 20);
}

TEST_CASE("DoManyAsync: with a max_delay, a Batcher's own thread loads the keys") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 1ms});
  auto futures = DoManyAsync(batcher, {1, 2, 3});
  CHECK(ValuesOf(futures) == Ints{10, 20, 30});
}

TEST_CASE("DoManyAsync: a Batcher's errors, and a limit's, are those of their keys alone") {
  IntGroup group(GroupOptions{.max_calls_in_flight = 3});
  Batcher batcher(group, [](std::span<const int>) { return std::map<int, int>{{1, 10}, {3, 30}}; });
  auto futures = DoManyAsync(batcher, {1, 2, 3, 4});
  batcher.Flush();
  CHECK(ErrorsOf(futures) == Errors{std::nullopt, std::errc::no_message, std::nullopt,
                                    std::errc::resource_unavailable_try_again});
}

TEST_CASE("Promise 11: a key of a Batcher whose Future was destroyed is not loaded") {
  IntGroup group;
  Calls calls;
  std::vector<bool> asked;
  std::vector<singleflight::Future<int>> futures;
  Batcher batcher(group, Stoppable(calls, [&](const StopToken& stop) {
                    futures[0] = {};
                    asked.push_back(stop.stop_requested());
                    futures.clear();
                    asked.push_back(stop.stop_requested());
                  }));
  futures = DoManyAsync(batcher, {1, 2, 3});
  futures[1] = {};
  batcher.Flush();
  CHECK(calls.Get() == std::vector<Ints>{{1, 3}});
  CHECK(asked == std::vector<bool>{false, true});
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 1, .left = 3});
}

TEST_CASE("Destroying a Batcher: the Futures of keys that wait for it report owner_dead") {
  IntGroup group;
  Calls calls;
  std::optional<IntBatcher> batcher(std::in_place, group, Noting(calls),
                                    BatcherOptions{.max_keys = 2});
  auto futures = DoManyAsync(*batcher, {1, 2, 3});
  batcher.reset();
  CHECK(ErrorsOf(futures) == Errors{std::nullopt, std::nullopt, std::errc::owner_dead});
}

TEST_CASE("Promise 7: without memory for a batch of Futures, a Batcher serves its other callers") {
  std::size_t failures = 0;
  for (std::size_t fails_at = 0;; ++fails_at) {
    IntGroup group;
    Calls calls;
    Batcher batcher(group, Noting(calls), {.max_keys = 3, .max_delay = 24h});
    auto other = DoAsync(batcher, 7);  // starts the thread that will run the batch
    std::vector<singleflight::Future<int>> futures;
    bool failed = false;
    try {
      const Keys keys{1, 2};
      const FailAllocations fail(fails_at);
      futures = DoManyAsync(batcher, keys);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    batcher.Flush();
    CHECK(*other.Get() == 70);
    for (auto& future : futures) {
      try {
        static_cast<void>(future.Get());
      } catch (const std::bad_alloc&) {
        failed = true;
      }
    }
    failures += failed ? 1 : 0;
    batcher.Flush();
    if (!failed) break;
  }
  CHECK(failures >= 5);
}

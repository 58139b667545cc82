// SPDX-License-Identifier: MIT

// Tests of Batcher: every way of waiting, and how a caller leaves.

#include <atomic>
#include <latch>
#include <map>
#include <memory>
#include <optional>

#include "batcher_support.hpp"
#include "support/coroutines.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherStats;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::Future;
using singleflight::Role;
using singleflight::Stats;

namespace {

Routine AwaitKey(IntBatcher& batcher, int key, Outcome<int>& outcome, StopToken stop = {}) {
  return StoreOutcome(outcome, [&batcher, key, stop] { return CoDo(batcher, key, stop); });
}

}  // namespace

TEST_CASE("Promise 1: all ways of waiting for a Batcher's key join one call") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 2, .max_delay = 24h});
  struct Waiting final : IntBatcher::Waiter {
    void OnLanded() noexcept override { value = *TakeResult(); }
    std::atomic<int> value = 0;
  } waiter;
  CHECK(batcher.Join(1, waiter) == Role::kLeader);
  Future<int> future = DoAsync(batcher, 1);
  std::atomic<int> awaited = 0;
  const auto await = [&]() -> FireAndForget { awaited = *co_await CoDo(batcher, 1); };
  await();
  std::atomic<int> called_back = 0;
  const singleflight::Caller callback =
      DoThen(batcher, 1, [&](singleflight::KeyResult<int> result) { called_back = *result; });
  Caller blocked([&] { return batcher.Do(1); });
  Caller with_timeout([&] { return batcher.Do(1, {.timeout = 24h}); });
  Caller direct([&] { return group.Do(1, [] { return -1; }); });
  AwaitCallers(group, 1, 7);
  CHECK(*batcher.Do(2) == 20);  // fills the batch
  CHECK(Get(future).value == 10);
  CHECK(blocked.Join().value == 10);
  CHECK(with_timeout.Join().value == 10);
  CHECK(direct.Join().value == 10);
  Await([&] { return waiter.value != 0 && awaited != 0 && called_back != 0; });
  CHECK(waiter.value == 10);
  CHECK(awaited == 10);
  CHECK(called_back == 10);
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  CHECK(group.GetStats().executions == 2);
  CHECK(group.GetStats().followers == 6);
}

TEST_CASE("CoDo: a coroutine that awaits a Batcher's key resumes on the thread that loads it") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Outcome<int> leader;
  Outcome<int> follower;
  Batcher batcher(group, Noting(calls), {.max_delay = 0ms}, tasks.Keep());
  const Routine one = AwaitKey(batcher, 1, leader);
  const Routine two = AwaitKey(batcher, 1, follower);
  CHECK_FALSE(one.Done());
  tasks.RunOne();
  CHECK(one.Done());
  CHECK(two.Done());
  CHECK(leader.value == 10);
  CHECK(leader.role == Role::kLeader);
  CHECK(follower.role == Role::kFollower);
  CHECK(follower.shared);
}

TEST_CASE("CoDo: a coroutine that fills a batch does not suspend if the batch runs at once") {
  IntGroup group;
  Calls calls;
  Outcome<int> first;
  Outcome<int> last;
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  const Routine one = AwaitKey(batcher, 1, first);
  const Routine two = AwaitKey(batcher, 2, last);
  CHECK(one.Done());
  CHECK(two.Done());
  CHECK(first.value == 10);
  CHECK(last.value == 20);
}

TEST_CASE("CoDo: resume_on gets the coroutine that awaits a Batcher's key") {
  IntGroup group;
  Calls calls;
  std::coroutine_handle<> posted;
  Batcher batcher(group, Noting(calls));
  Outcome<int> outcome;
  const auto post = [&posted](std::coroutine_handle<> handle) { posted = handle; };
  const auto await = [&]() -> Routine {
    const auto result = co_await CoDo(batcher, 1, StopToken(), post);
    outcome.value = *result;
  };
  const Routine routine = await();
  batcher.Flush();
  CHECK_FALSE(routine.Done());
  posted.resume();
  CHECK(outcome.value == 10);
}

TEST_CASE("DoThen: the callback gets the value or the error of a Batcher's key") {
  IntGroup group;
  Batcher batcher(group, [](std::span<const int>) { return std::map<int, int>{{1, 10}}; });
  Outcome<int> one;
  Outcome<int> two;
  const auto into = [](Outcome<int>& outcome) {
    return [&outcome](singleflight::KeyResult<int> result) {
      outcome = Keep([&] { return std::move(result).result(); });
    };
  };
  const singleflight::Caller first = DoThen(batcher, 1, into(one));
  singleflight::Caller second;
  DoThen(second, batcher, 2, into(two));
  batcher.Flush();
  CHECK(one.value == 10);
  CHECK(two.error == std::errc::no_message);
}

// ---- Leaving

TEST_CASE("Promise 10: a leader in a Batcher's Do leaves when its timeout passes") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 24h});
  CHECK(ErrorOf([&] { return batcher.Do(1, {.timeout = 1ms}); }) == std::errc::timed_out);
  CHECK(ErrorOf([&] { return batcher.Do(2, {.timeout = 0ms}); }) == std::errc::timed_out);
  CHECK(group.GetStats().left == 2);
}

TEST_CASE("Promise 10: a caller in a Batcher's Do leaves when its stop is requested") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 24h});
  StopSource stop;
  Future<int> stays = DoAsync(batcher, 1);
  Caller leaves([&] { return batcher.Do(1, {.stop = stop.get_token()}); });
  AwaitCallers(group, 1, 2);
  stop.request_stop();
  CHECK(leaves.Join().error == std::errc::operation_canceled);
  AwaitCallers(group, 1, 1);
  batcher.Flush();
  CHECK(Get(stays).value == 10);
}

TEST_CASE("Promise 10: a caller whose stop was requested before does not join a Batcher's call") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  StopSource stop;
  stop.request_stop();
  Outcome<int> awaited;
  CHECK(ErrorOf([&] { return batcher.Do(1, {.stop = stop.get_token()}); }) ==
        std::errc::operation_canceled);
  const Routine routine = AwaitKey(batcher, 1, awaited, stop.get_token());
  CHECK(awaited.error == std::errc::operation_canceled);
  CHECK(batcher.Flush() == 0);
  CHECK(group.GetStats() == Stats());
}

TEST_CASE("Promise 10: a coroutine that leads a Batcher's call leaves when its stop is requested") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  StopSource stop;
  Outcome<int> leader;
  Outcome<int> follower;
  const Routine one = AwaitKey(batcher, 1, leader, stop.get_token());
  const Routine two = AwaitKey(batcher, 1, follower);
  stop.request_stop();
  CHECK(leader.error == std::errc::operation_canceled);
  CHECK_FALSE(two.Done());
  batcher.Flush();
  CHECK(follower.value == 10);
}

TEST_CASE("Promise 11: a key whose callers have all left is not loaded if the function can stop") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Stoppable(calls));
  Outcome<int> outcome;
  StopSource stop;
  Future<int> stays = DoAsync(batcher, 1);
  Future<int> leaves = DoAsync(batcher, 2);
  Routine destroyed = AwaitKey(batcher, 3, outcome);
  const Routine stopped = AwaitKey(batcher, 4, outcome, stop.get_token());
  singleflight::Caller caller =
      DoThen(batcher, 5, [](const singleflight::KeyResult<int>&) { FAIL("it has left"); });
  leaves = {};
  destroyed.Destroy();
  stop.request_stop();
  CHECK(caller.Leave());
  CHECK(group.Callers(2) == 0);
  batcher.Flush();
  CHECK(calls.Get() == std::vector<Ints>{{1}});
  CHECK(Get(stays).value == 10);
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 1, .dropped = 4});
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 11: a batch whose callers have all left does not call the function") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Stoppable(calls));
  static_cast<void>(DoAsync(batcher, 1));
  static_cast<void>(DoAsync(batcher, 2));
  batcher.Flush();
  CHECK(calls.Get().empty());
  CHECK(batcher.GetStats() == BatcherStats{.dropped = 2});
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 11: a key that was left and asked for again is loaded once") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Stoppable(calls));
  static_cast<void>(DoAsync(batcher, 1));
  Future<int> again = DoAsync(batcher, 1);
  batcher.Flush();
  CHECK(calls.Get() == std::vector<Ints>{{1}});
  CHECK(Get(again).value == 10);
}

TEST_CASE("Promise 11: a key whose callers have left is loaded if the function cannot be stopped") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  static_cast<void>(DoAsync(batcher, 1));
  static_cast<void>(DoAsync(batcher, 2));
  Future<int> comes_later = DoAsync(batcher, 1);  // joins the call that was left
  batcher.Flush();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  CHECK(Get(comes_later).value == 10);
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 2});
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE("Promise 11: a caller in Do that runs the batch itself leaves it when it is stopped") {
  IntGroup group;
  Calls calls;
  StopSource caller;
  bool asked = false;
  Batcher batcher(group, Stoppable(calls, [&](const StopToken& stop) {
                    caller.request_stop();
                    asked = stop.stop_requested();
                  }));
  CHECK(ErrorOf([&] { return batcher.Do(1, {.stop = caller.get_token()}); }) ==
        std::errc::operation_canceled);
  CHECK(asked);
  CHECK(group.GetStats().left == 1);
}

TEST_CASE("Promise 11: a batch that runs is asked to stop when the last caller of all has left") {
  IntGroup group;
  Calls calls;
  Future<int> one;
  Future<int> two;
  std::vector<bool> asked;
  Batcher batcher(group, Stoppable(calls, [&](const StopToken& stop) {
                    one = {};
                    asked.push_back(stop.stop_requested());
                    two = {};
                    asked.push_back(stop.stop_requested());
                  }));
  one = DoAsync(batcher, 1);
  two = DoAsync(batcher, 2);
  batcher.Flush();
  CHECK(asked == std::vector<bool>{false, true});
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE(
    "Promise 11: a batch that is run again for a forgotten key gets a stop token of its own") {
  IntGroup group;
  Calls calls;
  Future<int> old;
  std::vector<bool> asked;
  Batcher batcher(group, Stoppable(calls, [&](const StopToken& stop) {
                    old = {};
                    asked.push_back(stop.stop_requested());
                  }));
  old = DoAsync(batcher, 1);
  group.Forget(1);
  Future<int> current = DoAsync(batcher, 1);
  batcher.Flush();
  CHECK(asked == std::vector<bool>{true, false});
  CHECK(Get(current).value == 10);
}

TEST_CASE("Promise 10: a caller that leaves while a batch runs does not disturb its other keys") {
  IntGroup group;
  std::latch runs(1);
  std::latch finish(1);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    runs.count_down();
                    finish.wait();
                    return TenTimes(keys);
                  },
                  {.max_keys = 2, .max_delay = 24h});
  Future<int> leaves = DoAsync(batcher, 1);
  Future<int> stays = DoAsync(batcher, 2);
  runs.wait();
  leaves = {};
  CHECK(group.GetStats().left == 1);
  finish.count_down();
  CHECK(Get(stays).value == 20);
}

TEST_CASE("Batcher: an executor may run the task inside Join, and the waiter is notified there") {
  IntGroup group;
  Calls calls;
  struct Waiting final : IntBatcher::Waiter {
    void OnLanded() noexcept override { value = *TakeResult(); }
    int value = 0;
  } waiter;
  Batcher batcher(group, Noting(calls), {.max_delay = 0ms}, kInline);
  CHECK(batcher.Join(1, waiter) == Role::kLeader);
  CHECK(waiter.value == 10);
  CHECK_FALSE(batcher.Leave(waiter));
}

TEST_CASE("Batcher: a waiter that leaves before its batch runs is not notified") {
  IntGroup group;
  Calls calls;
  struct Waiting final : IntBatcher::Waiter {
    void OnLanded() noexcept override { notified = true; }
    bool notified = false;
  } waiter;
  Batcher batcher(group, Noting(calls));
  batcher.Join(1, waiter);
  CHECK(batcher.Leave(waiter));
  batcher.Flush();
  CHECK_FALSE(waiter.notified);
}

// SPDX-License-Identifier: MIT

// These tests cover Cancel for every way of waiting: each caller gets `operation_canceled` at once,
// although the work is stuck, and what the work returns later reaches nobody.

#include <atomic>
#include <chrono>
#include <functional>
#include <latch>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "support/batches.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::CoDoMany;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::DoThen;
using singleflight::KeyResult;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

using CallHandle = singleflight::Caller;  // test::Caller is a thread

namespace {

constexpr auto kMayNotRun = []() -> int { throw std::logic_error("this fn must not run"); };

// A call for 1 whose work is a task that nobody runs before the test does.
struct StuckCall {
  StuckCall()
      : leader(DoAsync(
            group, 1, [this] { return ++ran; }, std::ref(later))) {}

  // Cancels it. Afterwards its leader has an error, and its work runs in vain.
  void Cancel(std::size_t callers) {
    CHECK(group.Callers(1) == callers);
    CHECK(group.Cancel(1));
    CHECK(group.GetStats().in_flight == 1);
    CHECK(leader.WaitFor(0ms) == std::future_status::ready);
  }
  void FinishInVain() {
    const Stats before = group.GetStats();
    later.RunAll();
    CHECK(ErrorOf([&] { return leader.Get(); }) == kCanceled);
    CHECK(group.GetStats().in_flight == 0);
    CHECK(group.GetStats().failures == before.failures);
    CHECK(group.Inspect().empty());
  }

  IntGroup group;
  Later later;
  int ran = 0;
  singleflight::Future<int> leader;
};

// Cancels each call at once.
struct Canceler {
  void OnLead(int key) const { cancel(key); }
  std::function<void(int)> cancel;
};
struct Canceling : singleflight::GroupTraits {
  using Listener = Canceler;
};
using CancelingGroup = singleflight::Group<int, int, singleflight::DefaultHash<int>,
                                           singleflight::DefaultEqual<int>, Canceling>;

}  // namespace

TEST_CASE("Cancel: a Future and a SharedFuture throw the error") {
  StuckCall call;
  auto future = DoAsync(call.group, 1, kMayNotRun);
  const auto shared = DoAsync(call.group, 1, kMayNotRun).Share();
  call.Cancel(3);
  CHECK(ErrorOf([&] { return future.Get(); }) == kCanceled);
  CHECK(ErrorOf([&] { return shared.Get(); }) == kCanceled);
  CHECK(ErrorOf([&] { return shared.Get(); }) == kCanceled);
  call.FinishInVain();
}

TEST_CASE("Cancel: a thread that waits for a Future wakes up") {
  StuckCall call;
  Caller blocked([&] { return DoAsync(call.group, 1, kMayNotRun).Get(); });
  AwaitCallers(call.group, 1, 2);
  call.Cancel(2);
  CHECK(blocked.Join().error == kCanceled);
  call.FinishInVain();
}

TEST_CASE("Cancel: work that has not begun does not run") {
  StuckCall call;
  call.Cancel(1);
  call.FinishInVain();
  CHECK(call.ran == 0);
}

TEST_CASE("Cancel: the work of a coroutine that has not begun does not run") {
  IntGroup group;
  Later later;
  Outcome<int> outcome;
  int ran = 0;
  const auto load = [&]() -> Task<int> { co_return ++ran; };
  const Routine leader =
      StoreOutcome(outcome, [&] { return CoDo(group, 1, load, std::ref(later)); });
  CHECK(group.Cancel(1));
  CHECK(outcome.error == kCanceled);
  later.RunAll();
  CHECK(ran == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Cancel: the work of a batch that has not begun runs for the other keys only") {
  IntGroup group;
  Later later;
  const std::vector<int> keys{1, 2, 3};
  std::vector<Keys> asked;
  const auto load = [&](std::span<const int> its) {
    asked.emplace_back(its.begin(), its.end());
    return TenTimes(its);
  };
  auto futures = DoManyAsync(group, keys, load, std::ref(later));
  CHECK(group.Cancel(2));
  later.RunAll();
  CHECK(asked == std::vector<Keys>{{1, 3}});
  CHECK(*futures[0].Get() == 10);
  CHECK(ErrorOf([&] { return futures[1].Get(); }) == kCanceled);
  CHECK(*futures[2].Get() == 30);
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 1});
}

TEST_CASE("Cancel: the work of a batch that has not begun does not run if no key is left") {
  IntGroup group;
  Later later;
  const std::vector<int> keys{1, 2};
  int ran = 0;
  const auto load = [&](std::span<const int>, StopToken) { return Keys{++ran}; };
  const auto load_later = [&](std::span<const int>) -> Task<Keys> { co_return Keys{++ran}; };
  std::vector<singleflight::Future<int>> futures;
  std::vector<std::optional<std::errc>> errors;
  const auto ask = [&]() -> Routine {
    for (auto& result : co_await CoDoMany(group, keys, load_later, std::ref(later))) {
      errors.push_back(ErrorOfKey(result));
    }
  };
  Routine asking;
  const bool awaited = GENERATE(false, true);
  if (awaited) {
    asking = ask();
  } else {
    futures = DoManyAsync(group, keys, load, std::ref(later));
  }
  CHECK(group.Cancel(1));
  CHECK(group.Cancel(2));
  CHECK(later.tasks.size() == 1);
  later.RunAll();
  for (auto& future : futures) errors.push_back(ErrorOf([&] { return future.Get(); }));
  CHECK(errors == std::vector<std::optional<std::errc>>{kCanceled, kCanceled});
  CHECK(ran == 0);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

TEST_CASE("Cancel: a Batcher does not load a key whose call was cancelled before the batch") {
  IntGroup group;
  Later later;
  std::vector<Keys> asked;
  const auto load = [&](std::span<const int> its) {
    asked.emplace_back(its.begin(), its.end());
    return TenTimes(its);
  };
  singleflight::Batcher batcher(group, load, {.max_delay = 0ms}, std::ref(later));
  auto first = DoAsync(batcher, 1);
  CHECK(group.Cancel(1));
  auto second = DoAsync(batcher, 1);
  later.RunAll();
  CHECK(ErrorOf([&] { return first.Get(); }) == kCanceled);
  CHECK(*second.Get() == 10);
  CHECK(asked == std::vector<Keys>{{1}});
  CHECK(batcher.GetStats().dropped == 1);
}

// A hook runs between the moment when others find a call and its launch.
TEST_CASE("Cancel: a call that is cancelled in OnLead runs nothing and its caller gets the error") {
  CancelingGroup group;
  group.GetListener().cancel = [&group](int key) { group.Cancel(key); };
  std::vector<std::optional<std::errc>> errors;
  const auto keep = [&](const KeyResult<int>& result) { errors.push_back(ErrorOfKey(result)); };
  const auto here = [](auto task) { task(); };
  const std::string text(100, 'x');  // is copied to the heap, so that its use can be seen
  int ran = 0;
  const auto load = [&ran, text] { return ++ran + static_cast<int>(text.size()); };
  for (const OnFailure on_failure : {OnFailure::kShare, OnFailure::kRetry}) {
    errors.push_back(ErrorOf([&] { return group.Do(1, load, {.on_failure = on_failure}); }));
    errors.push_back(ErrorOf([&] { return DoAsync(group, 1, load, here, on_failure).Get(); }));
    DoThen(group, 1, load, here, keep, on_failure).Detach();
  }
  Outcome<int> outcome;
  const Routine routine = StoreOutcome(outcome, [&] { return CoDo(group, 1, load); });
  Outcome<int> retried;
  const Routine retrier = StoreOutcome(retried, [&] {
    return CoDo(group, 1, load, {}, singleflight::ResumeInline(), OnFailure::kRetry);
  });
  CHECK(outcome.error == kCanceled);
  CHECK(retried.error == kCanceled);
  const std::vector<int> keys{1};
  const auto load_all = [&](std::span<const int>) { return Keys{++ran}; };
  for (auto& result : DoMany(group, keys, load_all)) keep(result);
  errors.push_back(ErrorOf([&] { return DoManyAsync(group, keys, load_all, here)[0].Get(); }));
  singleflight::Batcher batcher(group, load_all);
  errors.push_back(ErrorOf([&] { return batcher.Do(1); }));
  CHECK(ran == 0);
  CHECK(errors.size() == 9);
  for (const auto& error : errors) CHECK(error == kCanceled);
  CHECK(group.GetStats() == Stats{.executions = 11, .failures = 11});
}

TEST_CASE("Cancel: a thread in DoMany gets one outcome for the key whenever Cancel comes") {
  IntGroup group;
  std::atomic<bool> done = false;
  std::thread canceler([&] {
    while (!done) group.Cancel(1);
  });
  const std::vector<int> keys{1};
  for (int i = 0; i < 2000; ++i) {
    const auto results = DoMany(group, keys, [](std::span<const int> its) {
      std::this_thread::yield();
      return TenTimes(its);
    });
    if (ErrorOfKey(results[0]) != kCanceled) CHECK(*results[0] == 10);
  }
  done = true;
  canceler.join();
}

TEST_CASE("Cancel: a Run that comes after it lands the call for those that wait for its work") {
  IntGroup group;
  Silent waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](IntGroup::Lead its) { lead = std::move(its); });
  CHECK(group.Cancel(1));
  CHECK_FALSE(lead->Run(kMayNotRun));
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Cancel: the callback of DoThen gets the error on the thread that cancels") {
  StuckCall call;
  std::optional<std::errc> error;
  std::thread::id on;
  const CallHandle handle =
      DoThen(call.group, 1, kMayNotRun, std::ref(call.later), [&](KeyResult<int> result) {
        error = ErrorOfKey(result);
        on = std::this_thread::get_id();
      });
  std::optional<std::errc> retrier_error;
  const CallHandle retrier = DoThen(
      call.group, 1, kMayNotRun, std::ref(call.later),
      [&](KeyResult<int> result) { retrier_error = ErrorOfKey(result); }, OnFailure::kRetry);
  call.Cancel(3);
  CHECK(error == kCanceled);
  CHECK(on == std::this_thread::get_id());
  CHECK(retrier_error == kCanceled);
  call.FinishInVain();
}

TEST_CASE("Cancel: a coroutine that follows is resumed with the error") {
  StuckCall call;
  Outcome<int> outcome;
  Outcome<int> retried;
  const Routine follower = StoreOutcome(outcome, [&] { return CoDo(call.group, 1, kMayNotRun); });
  const Routine retrier = StoreOutcome(retried, [&] {
    return CoDo(call.group, 1, kMayNotRun, StopToken(), singleflight::ResumeInline(),
                OnFailure::kRetry);
  });
  call.Cancel(3);
  CHECK(outcome.error == kCanceled);
  CHECK(retried.error == kCanceled);
  CHECK(follower.Done());
  CHECK(retrier.Done());
  call.FinishInVain();
}

TEST_CASE("Cancel: a coroutine that leads is resumed with the error while its work is suspended") {
  IntGroup group;
  Signal upstream;
  Outcome<int> outcome;
  bool finished = false;
  const auto load = [&]() -> Task<int> {
    co_await upstream;
    finished = true;
    co_return 1;
  };
  const Routine leader = StoreOutcome(outcome, [&] { return CoDo(group, 1, load); });
  CHECK(upstream.Awaited());
  CHECK(group.Cancel(1));
  CHECK(outcome.error == kCanceled);
  CHECK(leader.Done());
  CHECK_FALSE(finished);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1, .in_flight = 1});
  upstream.Fire();
  CHECK(finished);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Cancel: a coroutine's work that takes the token is asked to stop") {
  IntGroup group;
  Outcome<int> outcome;
  bool stopped = false;
  const auto load = [&](StopToken stop) -> Task<int> {
    co_await UntilStopped(stop);
    stopped = true;
    co_return 1;
  };
  const Routine leader = StoreOutcome(outcome, [&] { return CoDo(group, 1, load); });
  CHECK(group.Cancel(1));
  CHECK(outcome.error == kCanceled);
  CHECK(stopped);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE(
    "Cancel: a batch of keys that follows has the error for one key and values for the rest") {
  StuckCall call;
  Caller batch([&]() -> singleflight::Result<int> {
    const std::vector<int> keys{1, 2, 3};
    const auto results = DoMany(call.group, keys, TenTimes);
    if (ErrorOfKey(results[0]) != kCanceled) throw std::runtime_error("no error");
    return call.group.Do(9, [&] { return *results[1] + *results[2]; });
  });
  Await([&] {  // until it has the other keys, and waits for this one
    const Stats stats = call.group.GetStats();
    return stats.executions == 3 && stats.in_flight == 1;
  });
  call.Cancel(2);
  CHECK(batch.Join().value == 50);
  call.FinishInVain();
}

TEST_CASE("Cancel: a batch that leads gets the error for the key when its function returns") {
  IntGroup group;
  std::latch runs(1);
  std::latch finish(1);
  Results results;
  JoiningThread batch([&] {
    const std::vector<int> keys{1, 2};
    results = DoMany(group, keys, [&](std::span<const int> missing) {
      runs.count_down();
      finish.wait();
      return TenTimes(missing);
    });
  });
  runs.wait();
  auto follower = DoAsync(group, 1, kMayNotRun);
  CHECK(group.Cancel(1));
  CHECK(ErrorOf([&] { return follower.Get(); }) == kCanceled);
  finish.count_down();
  batch.join();
  CHECK(ErrorOfKey(results[0]) == kCanceled);
  CHECK(*results[1] == 20);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1});
}

TEST_CASE("Promise 11: a batch is asked to stop once all of its keys are cancelled") {
  IntGroup group;
  Later later;
  std::optional<StopToken> token;
  Signal signal;
  const auto load = [&](std::span<const int> keys, StopToken stop) -> Task<Keys> {
    token = std::move(stop);
    co_await signal;
    co_return TenTimes(keys);
  };
  Results results;
  const Routine batch = Ask(group, {1, 2}, load, results);
  REQUIRE(token);
  CHECK(group.Cancel(1));
  CHECK_FALSE(token->stop_requested());
  CHECK(results.empty());
  CHECK(group.Cancel(2));
  CHECK(token->stop_requested());
  REQUIRE(results.size() == 2);  // before the work has finished
  CHECK(ErrorOfKey(results[0]) == kCanceled);
  CHECK(ErrorOfKey(results[1]) == kCanceled);
  signal.Fire();
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

TEST_CASE("Cancel: DoManyAsync has the error for the key") {
  StuckCall call;
  const std::vector<int> keys{1, 2};
  auto futures = DoManyAsync(call.group, keys, TenTimes, [](auto task) { task(); });
  call.Cancel(2);
  CHECK(ErrorOf([&] { return futures[0].Get(); }) == kCanceled);
  CHECK(*futures[1].Get() == 20);
  call.FinishInVain();
}

TEST_CASE("Cancel: a caller of a Batcher gets the error before the batch has run") {
  IntGroup group;
  Later later;
  singleflight::Batcher batcher(group, TenTimes, {.max_keys = 2}, std::ref(later));
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  CHECK(group.Cancel(1));
  CHECK(ErrorOf([&] { return one.Get(); }) == kCanceled);
  later.RunAll();
  CHECK(*two.Get() == 20);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 1});
}

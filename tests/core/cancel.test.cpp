// SPDX-License-Identifier: MIT

// These tests cover Cancel: a call's callers get `operation_canceled`, and its work goes on alone.

#include <atomic>
#include <deque>
#include <exception>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/watched_mutex.hpp"

using namespace test;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::Stats;

namespace {

constexpr auto kCancelled = std::errc::operation_canceled;

// A caller that does not block, and keeps what it gets.
template <class AnyGroup>
struct KeepingWaiter final : AnyGroup::Waiter {
  void OnLanded() noexcept override {
    ++times;
    on = std::this_thread::get_id();
    no_lock_held = locks_held == 0;
    outcome = Keep([this] { return this->TakeResult(); });
  }
  int times = 0;
  std::thread::id on;
  bool no_lock_held = false;
  Outcome<typename AnyGroup::ValueType> outcome;
};

bool OnThread(const std::function<bool()>& run) {
  bool result = false;
  std::thread([&] { result = run(); }).join();
  return result;
}

}  // namespace

TEST_CASE("Cancel says whether a call was in flight that a newcomer would join") {
  Group<std::string, bool> group;
  CHECK_FALSE(group.Cancel("key"));
  CHECK(ErrorOf([&] {
          return group.Do("key", [&] { return !group.Cancel("other") && group.Cancel("key"); });
        }) == kCancelled);
  CHECK(*group.Do("key", [&] { return group.Forget("key") && !group.Cancel("key"); }));
  CHECK(ErrorOf([&] {
          return group.Do("key", [&] { return group.Cancel("key") && !group.Cancel("key"); });
        }) == kCancelled);
}

TEST_CASE("Cancel frees the followers at once and the leader when its function returns") {
  Group<std::string, int> group;
  HeldCall leader(group, std::string("key"));
  StopSource unused;
  Caller waits_for_ever([&] { return group.Do("key", [] { return 2; }); });
  Caller may_leave([&] {
    return group.Do("key", [] { return 3; }, {.timeout = 1h, .stop = unused.get_token()});
  });
  AwaitCallers(group, "key", 3);
  CHECK(group.Cancel("key"));
  CHECK(waits_for_ever.Join().error == kCancelled);
  CHECK(may_leave.Join().error == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .failures = 1, .in_flight = 1});
  CHECK(leader.Finish().error == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .failures = 1});
}

TEST_CASE("Cancel reports an error of the library which says so") {
  Group<std::string, int> group;
  try {
    static_cast<void>(group.Do("key", [&] { return group.Cancel("key") ? 1 : 2; }));
    FAIL("nothing was thrown");
  } catch (const std::system_error& error) {
    CHECK(error.code() == kCancelled);
    CHECK(error.code().category() == singleflight::Category());
    CHECK(std::string(error.what()).find("the call was cancelled") != std::string::npos);
  }
}

TEST_CASE("Promise 3: after Cancel the next caller starts a new call beside the old work") {
  Group<std::string, int> group;
  HeldCall old(group, std::string("key"));
  CHECK(group.Cancel("key"));
  CHECK(group.Callers("key") == 0);
  const auto listed = group.Inspect();
  REQUIRE(listed.size() == 1);
  CHECK(listed[0].forgotten);
  CHECK(listed[0].callers == 0);
  HeldCall newer(group, std::string("key"));
  CHECK(old.Finish().error == kCancelled);
  CHECK(group.Callers("key") == 1);
  CHECK(newer.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 1});
}

TEST_CASE("Promise 15: the value of a cancelled call is destroyed and reaches nobody") {
  for (const bool shared : {false, true}) {
    Group<std::string, std::shared_ptr<int>> group;
    const auto value = std::make_shared<int>(1);
    std::latch finish(1);
    Caller leader([&] {
      return group.Do("key", [&] {
        finish.wait();
        return value;
      });
    });
    AwaitCallers(group, "key", 1);
    std::optional<singleflight::Future<std::shared_ptr<int>>> follower;
    if (shared) follower = group.Join("key", [](auto) {});
    CHECK(group.Cancel("key"));
    finish.count_down();
    CHECK(leader.Join().error == kCancelled);
    CHECK(value.use_count() == 1);
    if (shared) CHECK(ErrorOf([&] { return follower->Get(); }) == kCancelled);
  }
  // So it is if a follower that would have asked again has not taken its result.
  Group<int, std::shared_ptr<int>> group;
  struct Idle final : Group<int, std::shared_ptr<int>>::Waiter {
    void OnLanded() noexcept override {}
  } idle;
  const auto value = std::make_shared<int>(1);
  CHECK(ErrorOf([&] {
          return group.Do(1, [&] {
            group.Join(
                1, idle, [](auto) {}, OnFailure::kRetry);
            group.Cancel(1);
            return value;
          });
        }) == kCancelled);
  CHECK(value.use_count() == 1);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Cancel replaces what the function throws") {
  Group<std::string, int> group;
  CHECK(ErrorOf([&] {
          return group.Do("key", [&]() -> int {
            group.Cancel("key");
            throw std::runtime_error("late");
          });
        }) == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE(
    "Promise 8: Cancel requests the stop with no lock held and after the callers have theirs") {
  Group<int, int, std::hash<int>, std::equal_to<int>, OneWatchedShard> group;
  KeepingWaiter<decltype(group)> follower;
  std::atomic<bool> unlocked = false;
  std::atomic<bool> notified_before = false;
  std::latch runs(1);
  Caller leader([&] {
    return group.Do(1, [&](const StopToken& stop) {
      const StopCallback on_stop(stop, [&] {
        unlocked = locks_held == 0;
        notified_before = follower.times == 1;
      });
      runs.count_down();
      Await([&] { return stop.stop_requested(); });
      return 1;
    });
  });
  runs.wait();
  CHECK(group.Join(1, follower, [](auto) {}) == singleflight::Role::kFollower);
  CHECK(group.Cancel(1));
  CHECK(follower.times == 1);
  CHECK(follower.on == std::this_thread::get_id());
  CHECK(follower.no_lock_held);
  CHECK(follower.outcome.error == kCancelled);
  CHECK(leader.Join().error == kCancelled);  // its function returned because it was asked to stop
  CHECK(unlocked);
  CHECK(notified_before);
}

TEST_CASE("Cancel frees the callers of a call that is led asynchronously and nobody lands") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  std::optional<AnyGroup::Lead> lead;
  KeepingWaiter<AnyGroup> leader;
  KeepingWaiter<AnyGroup> follower;
  group.Join("key", leader, [&](AnyGroup::Lead its) { lead = std::move(its); });
  group.Join("key", follower, [](auto) {});
  const StopToken stop = lead->GetStopToken();
  Caller blocked([&] { return group.Do("key", [] { return 2; }); });
  auto future = group.Join("key", [](auto) {});
  AwaitCallers(group, "key", 4);
  CHECK(group.Cancel("key"));
  CHECK(stop.stop_requested());
  for (const auto* waiter : {&leader, &follower}) {
    CHECK(waiter->times == 1);
    CHECK(waiter->outcome.error == kCancelled);
  }
  CHECK(blocked.Join().error == kCancelled);
  CHECK(ErrorOf([&] { return future.Get(); }) == kCancelled);
  CHECK_FALSE(group.Leave(follower));
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3, .failures = 1, .in_flight = 1});
  CHECK_FALSE(lead->Succeed(3));
  CHECK(leader.times == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3, .failures = 1});
}

TEST_CASE("Cancel asks work to stop that takes its token only later") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  std::optional<AnyGroup::Lead> lead;
  KeepingWaiter<AnyGroup> waiter;
  group.Join("key", waiter, [&](AnyGroup::Lead its) { lead = std::move(its); });
  CHECK(group.Cancel("key"));
  CHECK(lead->WatchStop().stop_requested());  // what a coroutine's work watches
  CHECK(lead->GetStopToken().stop_requested());
  lead.reset();
  CHECK(waiter.times == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Cancel while launch runs notifies the callers when launch has returned") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  std::optional<AnyGroup::Lead> lead;
  KeepingWaiter<AnyGroup> leader, follower;
  const bool throws = GENERATE(false, true);
  group.Join("key", leader, [&](AnyGroup::Lead its) {
    lead = std::move(its);
    group.Join("key", follower, [](auto) {});
    CHECK(OnThread([&] { return group.Cancel("key"); }));
    CHECK(leader.times + follower.times == 0);
    CHECK_FALSE(group.Cancel("key"));
    if (throws) throw std::runtime_error("refused");
  });
  for (const auto* waiter : {&leader, &follower}) {
    CHECK(waiter->times == 1);
    CHECK(waiter->outcome.error == kCancelled);
    CHECK(waiter->on == std::this_thread::get_id());
  }
  CHECK_FALSE(lead->Run([]() -> int { throw std::logic_error("this fn must not run"); }));
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .failures = 1});
}

TEST_CASE("Cancel while launch runs notifies the callers at once if the work has begun") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  KeepingWaiter<AnyGroup> waiter;
  const auto check = [&] {
    CHECK(waiter.times == 0);
    CHECK(OnThread([&] { return group.Cancel("key"); }));
    CHECK(waiter.times == 1);
    return 1;
  };
  const bool runs = GENERATE(true, false);
  group.Join("key", waiter, [&](AnyGroup::Lead lead) {
    if (runs) {
      CHECK_FALSE(lead.Run(check));
    } else {
      CHECK(lead.Start(check) == 1);
    }
  });
  CHECK(waiter.outcome.error == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Promise 17: the retriers of a cancelled call do not ask again") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  struct Asking final : AnyGroup::Waiter {
    void OnLanded() noexcept override { asks_again = this->AsksAgain(); }
    std::optional<bool> asks_again;
  } waiter;
  HeldCall leader(group, std::string("key"));
  Caller follower(
      [&] { return group.Do("key", [] { return 2; }, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, "key", 2);
  group.Join(
      "key", waiter, [](auto) {}, OnFailure::kRetry);
  CHECK(group.Cancel("key"));
  CHECK(follower.Join().error == kCancelled);
  CHECK(waiter.asks_again == false);
  CHECK(ErrorOf([&] { return waiter.TakeResult(); }) == kCancelled);
  CHECK(leader.Finish().error == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .failures = 1});
}

TEST_CASE("Promise 17: a second try can be cancelled and those who come late get that") {
  using AnyGroup = Group<std::string, int>;
  AnyGroup group;
  KeepingWaiter<AnyGroup> first;
  struct Retrier final : AnyGroup::Waiter {
    void OnLanded() noexcept override { ++times; }
    int times = 0;
  } one, other;
  std::optional<AnyGroup::Lead> failing;
  std::optional<AnyGroup::Lead> second_try;
  group.Join("key", first, [&](AnyGroup::Lead its) { failing = std::move(its); });
  group.Join(
      "key", one, [](auto) {}, OnFailure::kRetry);
  group.Join(
      "key", other, [](auto) {}, OnFailure::kRetry);
  failing->Fail(std::make_exception_ptr(std::runtime_error("first")));
  group.JoinAgain("key", one, [&](AnyGroup::Lead its) { second_try = std::move(its); });
  CHECK(group.Callers("key") == 2);
  CHECK(group.Cancel("key"));
  CHECK(one.times == 2);
  CHECK(ErrorOf([&] { return one.TakeResult(); }) == kCancelled);
  group.JoinAgain("key", other, [](auto) {});
  CHECK(other.times == 2);
  CHECK(ErrorOf([&] { return other.TakeResult(); }) == kCancelled);
  second_try->Succeed(1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 2});
}

TEST_CASE("Promise 12: Cancel frees the places of callers at once and that of the call later") {
  Group<std::string, int> group({.max_callers = 2, .max_calls_in_flight = 2});
  const auto error = [&](const char* key) {
    return ErrorOf([&] { return group.Do(key, [] { return 1; }); });
  };
  HeldCall stuck(group, std::string("stuck"));
  Caller follower([&] { return group.Do("stuck", [] { return 2; }); });
  AwaitCallers(group, "stuck", 2);
  CHECK(error("other") == std::errc::resource_unavailable_try_again);
  CHECK(group.Cancel("stuck"));
  CHECK_FALSE(error("other"));
  {
    HeldCall other(group, std::string("other"));
    CHECK(error("third") == std::errc::resource_unavailable_try_again);  // two are in flight
    stuck.Finish();
    CHECK_FALSE(error("third"));
  }
  HeldCall one(group, std::string("one"));  // all places are free again
  HeldCall two(group, std::string("two"));
}

TEST_CASE("Promise 10: a leader that is stopped after Cancel leaves nothing twice") {
  Group<std::string, int> group({.max_callers = 1});
  StopSource stop;
  std::latch runs(1);
  std::latch finish(1);
  Caller leader([&] {
    return group.Do("key",
                    [&](const StopToken&) {
                      runs.count_down();
                      finish.wait();
                      return 1;
                    },
                    {.stop = stop.get_token()});
  });
  runs.wait();
  CHECK(group.Cancel("key"));
  stop.request_stop();
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1, .in_flight = 1});
  {
    HeldCall newer(group, std::string("key"));
    CHECK(ErrorOf([&] { return group.Do("other", [] { return 1; }); }) ==
          std::errc::resource_unavailable_try_again);
  }
  finish.count_down();
  CHECK(leader.Join().error == kCancelled);
  CHECK(group.GetStats().left == 0);
}

TEST_CASE("Promise 10: a leader that has left is cancelled with the call that goes on") {
  Group<std::string, int> group;
  StopSource stop;
  std::latch finish(1);
  Caller leader([&] {
    return group.Do("key",
                    [&] {
                      finish.wait();
                      return 1;
                    },
                    {.stop = stop.get_token()});
  });
  AwaitCallers(group, "key", 1);
  stop.request_stop();
  CHECK(group.Cancel("key"));
  finish.count_down();
  CHECK(leader.Join().error == kCancelled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1, .left = 1});
}

TEST_CASE("Promise 14: Close and the destructor wait for the work of a cancelled call") {
  using AnyGroup = Group<std::string, int>;
  std::optional<AnyGroup> group(std::in_place);
  std::atomic<bool> landed = false;
  std::latch finish(1);
  std::latch runs(1);
  KeepingWaiter<AnyGroup> waiter;
  std::optional<JoiningThread> worker;
  group->Join("key", waiter, [&](AnyGroup::Lead lead) {
    worker.emplace([&, lead]() mutable {
      lead.Run([&] {
        runs.count_down();
        finish.wait();
        landed = true;
        return 1;
      });
    });
  });
  runs.wait();
  CHECK(group->Cancel("key"));
  CHECK(waiter.times == 1);
  SECTION("Close") {
    std::atomic<bool> closed = false;
    JoiningThread closing([&] {
      group->Close();
      closed = landed.load();
    });
    LetOthersRun(1000);
    finish.count_down();
    closing.join();
    CHECK(closed);
  }
  SECTION("the destructor") {
    JoiningThread releasing([&] {
      LetOthersRun(1000);
      finish.count_down();
    });
    group.reset();
    CHECK(landed);
  }
  worker.reset();
}

TEST_CASE("Promise 1: a caller gets one outcome when Cancel and landing come at the same time") {
  using AnyGroup = Group<int, int>;
  AnyGroup group;
  constexpr int kRounds = 2000;
  int cancelled = 0;
  int landed = 0;
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    std::optional<AnyGroup::Lead> lead;
    KeepingWaiter<AnyGroup> leader;
    KeepingWaiter<AnyGroup> follower;
    group.Join(round, leader, [&](AnyGroup::Lead its) { lead = std::move(its); });
    group.Join(round, follower, [](auto) {});
    auto future = group.Join(round, [](auto) {});
    std::latch start(2);
    bool was_cancelled = false;
    JoiningThread canceler([&] {
      start.arrive_and_wait();
      was_cancelled = group.Cancel(round);
    });
    start.arrive_and_wait();
    const bool was_landed = lead->Succeed(round);
    canceler.join();
    const auto last = Keep([&] { return future.Get(); });
    for (const auto& outcome : {leader.outcome, follower.outcome, last}) {
      if (was_cancelled == was_landed) ++wrong;
      if (was_cancelled ? outcome.error != kCancelled : outcome.value != round) ++wrong;
    }
    if (leader.times != 1 || follower.times != 1) ++wrong;
    ++(was_cancelled ? cancelled : landed);
  }
  CHECK(wrong == 0);
  CHECK(group.GetStats() == Stats{.executions = kRounds,
                                  .followers = 2 * kRounds,
                                  .failures = static_cast<std::uint64_t>(cancelled)});
  CHECK(cancelled + landed == kRounds);
}

TEST_CASE("Promise 1: blocked callers get one outcome whenever Cancel comes") {
  Group<int, int> group;
  std::atomic<int> wrong = 0;
  std::atomic<bool> done = false;
  std::atomic<int> executions = 0;
  JoiningThread canceler([&] {
    while (!done) group.Cancel(1);
  });
  std::vector<JoiningThread> askers;
  for (int thread = 0; thread < 3; ++thread) {
    askers.emplace_back([&, thread] {
      const singleflight::CallOptions options{
          .timeout = 1h, .on_failure = thread == 0 ? OnFailure::kRetry : OnFailure::kShare};
      for (int i = 0; i < 2000; ++i) {
        const auto work = [&](const StopToken&) { return ++executions; };
        const auto outcome = thread == 1 ? Keep([&] { return group.Do(1, work); })
                                         : Keep([&] { return group.Do(1, work, options); });
        if (outcome.value.has_value() == outcome.error.has_value()) ++wrong;
        if (outcome.error && outcome.error != kCancelled) ++wrong;
      }
    });
  }
  askers.clear();
  done = true;
  canceler.join();
  CHECK(wrong == 0);
  CHECK(group.GetStats().in_flight == 0);
  CHECK(group.GetStats().executions == static_cast<std::uint64_t>(executions));
}

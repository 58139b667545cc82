// SPDX-License-Identifier: MIT

// Promise 11: only work that takes the stop token can be told to stop. Other work goes on when its
// last caller has left, and newcomers join it.

#include <atomic>
#include <functional>
#include <latch>
#include <optional>
#include <utility>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = singleflight::Group<std::string, int>;
using Lead = IntGroup::Lead;

struct TestWaiter final : IntGroup::Waiter {
  void OnLanded() noexcept override { ++landed; }
  std::atomic<int> landed = 0;
};

auto KeepIn(std::optional<Lead>& kept) {
  return [&kept](Lead lead) { kept = std::move(lead); };
}
const auto kMustNotLaunch = [](Lead) { FAIL("a follower launches nothing"); };

// A call of `fn` that its only caller, a thread in Do, was stopped on.
template <class Fn>
class AbandonedCall {
 public:
  AbandonedCall(IntGroup& group, Fn fn)
      : leader_([this, &group, fn] { return group.Do("key", fn, {.stop = stop_.get_token()}); }) {
    AwaitCallers(group, "key", 1);
    stop_.request_stop();
  }
  const Outcome<int>& Join() { return leader_.Join(); }

 private:
  StopSource stop_;
  Caller<int> leader_;
};

}  // namespace

TEST_CASE("Promise 11: callers that wait less long than the work takes cause one execution") {
  IntGroup group;
  std::latch finish(1);
  std::atomic<int> runs = 0;
  const auto work = [&] {
    ++runs;
    finish.wait();
    return 7;
  };
  AbandonedCall first(group, work);
  for (int i = 0; i < 30; ++i) {
    CHECK(ErrorOf([&] { return group.Do("key", work, {.timeout = 1ns}); }) == std::errc::timed_out);
  }
  CHECK(runs == 1);
  CHECK(group.Callers("key") == 0);
  Caller served([&] { return group.Do("key", work); });
  AwaitCallers(group, "key", 1);
  finish.count_down();
  CHECK(served.Join().value == 7);
  CHECK(served.Join().role == Role::kFollower);
  CHECK(served.Join().shared);  // its leader, which waited for its own function, got it, too
  CHECK(first.Join().value == 7);
  CHECK(runs == 1);
}

TEST_CASE("Promise 11: work without a stop token is joined after all waiters have left it") {
  IntGroup group;
  TestWaiter first;
  TestWaiter second;
  std::optional<Lead> lead;
  group.Join("key", first, KeepIn(lead));
  CHECK(group.Leave(first));
  CHECK(group.Callers("key") == 0);
  CHECK(group.GetStats().in_flight == 1);
  CHECK(group.Join("key", second, kMustNotLaunch) == Role::kFollower);
  lead->Succeed(7);
  CHECK(second.landed == 1);
  const auto result = second.TakeResult();
  CHECK(*result == 7);
  CHECK_FALSE(result.shared());  // nobody else got it
  CHECK(first.landed == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

TEST_CASE("Promise 11: work that nobody came back for lands, and its value is dropped") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  CHECK(group.Leave(waiter));
  CHECK(lead->Succeed(7));
  CHECK(waiter.landed == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .left = 1});
  CHECK(*group.Do("key", [] { return 8; }) == 8);
}

TEST_CASE("Promise 11: nobody joins a call whose value is being dropped, because all had left") {
  struct AsksWhenDestroyed {
    explicit AsksWhenDestroyed(std::function<void()> ask) : ask_(std::move(ask)) {}
    AsksWhenDestroyed(AsksWhenDestroyed&& other) noexcept
        : ask_(std::exchange(other.ask_, nullptr)) {}
    ~AsksWhenDestroyed() {
      if (ask_) ask_();
    }
    std::function<void()> ask_;
  };
  using AskingGroup = singleflight::Group<std::string, AsksWhenDestroyed>;
  struct Silent final : AskingGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter;
  AskingGroup group;
  std::optional<AskingGroup::Lead> lead;
  std::optional<AskingGroup::Lead> newer;
  std::optional<singleflight::Future<AsksWhenDestroyed>> future;
  group.Join("key", waiter, [&](AskingGroup::Lead made) { lead = std::move(made); });
  CHECK(group.Leave(waiter));
  CHECK(lead->Succeed(AsksWhenDestroyed([&] {
    future = group.Join("key", [&](AskingGroup::Lead made) { newer = std::move(made); });
  })));
  REQUIRE(newer);
  CHECK(newer->Succeed(AsksWhenDestroyed(nullptr)));
  CHECK(future->Get()->ask_ == nullptr);
}

TEST_CASE("Promise 11: a token that is taken after the last caller left is requested at once") {
  IntGroup group;
  TestWaiter first;
  TestWaiter second;
  std::optional<Lead> lead;
  group.Join("key", first, KeepIn(lead));
  CHECK(group.Leave(first));
  CHECK(lead->GetStopToken().stop_requested());
  std::optional<Lead> newer;
  CHECK(group.Join("key", second, KeepIn(newer)) == Role::kLeader);  // the first was forgotten
  CHECK(lead->Succeed(1));
  CHECK(newer->Succeed(2));
  CHECK(*second.TakeResult() == 2);
}

TEST_CASE("Promise 11: a token that is taken while a newcomer is there is not requested") {
  IntGroup group;
  TestWaiter first;
  TestWaiter second;
  std::optional<Lead> lead;
  group.Join("key", first, KeepIn(lead));
  CHECK(group.Leave(first));
  group.Join("key", second, kMustNotLaunch);
  const StopToken stop = lead->GetStopToken();
  CHECK_FALSE(stop.stop_requested());
  CHECK(group.Leave(second));
  CHECK(stop.stop_requested());
  CHECK(lead->Fail(nullptr));
}

TEST_CASE("Promise 11: work in Lead::Run takes the token only if its function does") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("plain", waiter, KeepIn(lead));
  CHECK(lead->Run([&] {
    CHECK(group.Leave(waiter));
    CHECK(group.ForgetUnshared("plain"));  // it was still in flight
    return 1;
  }));
  group.Join("obeys", waiter, KeepIn(lead));
  CHECK(lead->Run([&](StopToken stop) {
    CHECK(group.Leave(waiter));
    CHECK(stop.stop_requested());
    CHECK_FALSE(group.Forget("obeys"));  // it was forgotten when it was asked to stop
    return 1;
  }));
}

TEST_CASE("Promise 11: a call that all have left is still replaced when it is older than max_age") {
  IntGroup group({.max_age = 1ns});
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  CHECK(group.Leave(waiter));
  CHECK(*group.Do("key", [] { return 2; }) == 2);
  CHECK(lead->Succeed(1));
}

TEST_CASE("Promise 14: the destructor still asks work to stop whose token nobody took") {
  TestWaiter waiter;
  std::optional<StopCallback<std::function<void()>>> on_stop;
  {
    IntGroup group;
    group.Join("key", waiter, [&](Lead lead) {
      on_stop.emplace(lead.WatchStop(), [lead]() mutable { lead.Fail(nullptr); });
    });
    CHECK(group.Leave(waiter));
    CHECK(group.GetStats().in_flight == 1);
  }
  CHECK(waiter.landed == 0);
}

TEST_CASE(
    "A Lead may take the token on one thread while another lands the call and the group goes") {
  for (int i = 0; i < 200; ++i) {
    auto group = std::make_unique<IntGroup>();
    TestWaiter waiter;
    std::optional<Lead> lead;
    group->Join("key", waiter, KeepIn(lead));
    Lead other(*lead);
    std::latch start(2);
    JoiningThread takes([&] {
      start.arrive_and_wait();
      static_cast<void>(other.GetStopToken());
    });
    start.arrive_and_wait();
    lead->Succeed(1);
    group.reset();
  }
}

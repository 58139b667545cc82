// SPDX-License-Identifier: MIT

// Traits::Listener: what a group tells it of callers in Do, and of callers of Join.

#include <array>
#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/hooked_mutex.hpp"
#include "support/platform.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"
#include "support/watched_mutex.hpp"

using namespace test;
using singleflight::DoThen;
using singleflight::GroupOptions;
using singleflight::Landing;
using singleflight::LeaveReason;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace listened_to {

struct Reply {
  int status = 200;
};
inline bool IsFailure(const Reply& reply) { return reply.status >= 500; }

}  // namespace listened_to

namespace {

using Waiter = RecordedGroup::Waiter;
using Lead = RecordedGroup::Lead;

int MustNotRun() { throw std::logic_error("this fn must not run"); }
int GoDown() { throw std::runtime_error("down"); }

struct QuietWaiter final : Waiter {
  void OnLanded() noexcept override {}
};

// A call whose leader does not block. Its Lead is kept until Land, Fail or Drop.
class KeptCall {
 public:
  explicit KeptCall(RecordedGroup& group) {
    group.Join("key", waiter, [this](Lead its_lead) { lead = std::move(its_lead); });
  }
  ~KeptCall() { waiter.Detach(); }
  void Drop() { lead.reset(); }

  QuietWaiter waiter;
  std::optional<Lead> lead;
};

}  // namespace

// ---- Leading and landing

TEST_CASE("Listener: it is told when a call begins and when it lands") {
  RecordedGroup group;
  CHECK(*group.Do("a", [&] {
    CHECK(group.GetListener().Told() == Lines{"lead a #1"});
    return 1;
  }) == 1);
  CHECK(group.GetListener().Told() == Lines{"lead a #1", "land a #1: 1"});
  CHECK(*group.Do(std::string("b"), [] { return 2; }, {.timeout = 1h}) == 2);
  CHECK(std::as_const(group).GetListener().Told() ==
        Lines{"lead a #1", "land a #1: 1", "lead b #2", "land b #2: 1"});
}

TEST_CASE("Listener: it is told that a call failed") {
  RecordedGroup group;
  CHECK(Keep([&] { return group.Do("a", GoDown); }).message == "down");
  CHECK(group.GetListener().Told() == Lines{"lead a #1", "land a #1: 1, failed"});
}

TEST_CASE("Listener: it is told that a value says that it is a failure") {
  GroupWith<Recorder, listened_to::Reply> group;
  CHECK(group.Do("a", [] { return listened_to::Reply{200}; })->status == 200);
  CHECK(group.Do("b", [] { return listened_to::Reply{500}; })->status == 500);
  CHECK(group.GetListener().Told() ==
        Lines{"lead a #1", "land a #1: 1", "lead b #2", "land b #2: 1, failed"});
}

TEST_CASE("Listener: it is told of a call that is led asynchronously") {
  RecordedGroup group;
  KeptCall call(group);
  CHECK(group.GetListener().Told() == Lines{"lead key #1"});
  CHECK(call.lead->Succeed(1));
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "land key #1: 1"});
  CHECK(*call.waiter.TakeResult() == 1);
}

TEST_CASE("Listener: it is told that a Lead was dropped") {
  RecordedGroup group;
  KeptCall call(group);
  call.Drop();
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "land key #1: 1, failed"});
}

TEST_CASE("Listener: it is told that a launch threw") {
  RecordedGroup group;
  QuietWaiter waiter;
  CHECK(group.Join("key", waiter, [](Lead) { GoDown(); }) == Role::kLeader);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "land key #1: 1, failed"});
}

TEST_CASE("Listener: it is told of a landing before a waiter is notified") {
  struct Noting final : Waiter {
    explicit Noting(RecordedGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override { told = group.GetListener().Told(); }
    RecordedGroup& group;
    Lines told;
  };
  RecordedGroup group;
  Noting waiter(group);
  group.Join("key", waiter, [](Lead lead) { lead.Succeed(1); });
  CHECK(waiter.told == Lines{"lead key #1", "land key #1: 1"});
}

TEST_CASE("Listener: when it is told of a landing the key is free") {
  struct Asking {
    void OnLand(std::string_view key, const Landing&) {
      callers = static_cast<int>(group->Callers(key));
    }
    GroupWith<Asking>* group = nullptr;
    int callers = -1;
  };
  GroupWith<Asking> group;
  group.GetListener().group = &group;
  CHECK(*group.Do("key", [] { return 1; }) == 1);
  CHECK(group.GetListener().callers == 0);
}

// ---- Following

TEST_CASE("Listener: a follower gets the tag of its leader") {
  RecordedGroup group;
  HeldCall leader(group, "key");
  Caller follower([&] { return group.Do("key", MustNotRun); });
  Caller patient([&] { return group.Do("key", MustNotRun, {.timeout = 1h}); });
  QuietWaiter waiter;
  CHECK(group.Join("key", waiter, [](Lead) {}) == Role::kFollower);
  const auto future = group.Join("key", [](Lead) {});
  group.GetListener().AwaitTold(5);
  leader.Finish();
  CHECK(follower.Join().value == 1);
  CHECK(patient.Join().value == 1);
  const Lines expected{"lead key #1",   "follow key #1", "follow key #1",
                       "follow key #1", "follow key #1", "land key #1: 5"};
  CHECK(group.GetListener().Told() == expected);
}

TEST_CASE("Listener: a follower of a call that is led asynchronously gets the tag of its leader") {
  RecordedGroup group;
  KeptCall call(group);
  Caller follower([&] { return group.Do("key", MustNotRun); });
  QuietWaiter waiter;
  CHECK(group.Join("key", waiter, [](Lead) {}) == Role::kFollower);
  group.GetListener().AwaitTold(3);
  call.lead->Fail(std::make_exception_ptr(std::runtime_error("down")));
  CHECK(follower.Join().message == "down");
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "follow key #1", "land key #1: 3, failed"});
}

namespace {

// Its OnLead waits until Continue.
struct SlowToLead {
  int OnLead(std::string_view) {
    begun.count_down();
    go_on.wait();
    return 7;
  }
  void OnFollow(std::string_view, const int& tag) { followed = tag; }

  std::latch begun{1};
  std::latch go_on{1};
  std::atomic<int> followed = 0;
};

}  // namespace

TEST_CASE("Listener: a caller that joins while OnLead runs gets the tag, too") {
  GroupWith<SlowToLead> group;
  SlowToLead& listener = group.GetListener();
  Caller leader([&] { return group.Do("key", [] { return 1; }); });
  listener.begun.wait();
  Caller follower([&] { return group.Do("key", MustNotRun); });
  AwaitCallers(group, "key", 2);
  LetOthersRun(100);
  CHECK(listener.followed == 0);
  listener.go_on.count_down();
  CHECK(follower.Join().value == 1);
  CHECK(listener.followed == 7);
}

TEST_CASE("Listener: a waiter that joins while OnLead runs gets the tag, too") {
  GroupWith<SlowToLead> group;
  SlowToLead& listener = group.GetListener();
  Caller leader([&] {
    auto future = group.Join("key", [](auto lead) { lead.Succeed(1); });
    return future.Get();
  });
  listener.begun.wait();
  Caller follower([&] {
    auto future = group.Join("key", [](auto) {});
    return future.Get();
  });
  AwaitCallers(group, "key", 2);
  LetOthersRun(100);
  CHECK(listener.followed == 0);
  listener.go_on.count_down();
  CHECK(follower.Join().value == 1);
  CHECK(leader.Join().value == 1);
  CHECK(listener.followed == 7);
}

// ---- Leaving

TEST_CASE("Listener: it is told which follower in Do leaves and why") {
  RecordedGroup group;
  HeldCall leader(group, "key");
  CHECK(ErrorOf([&] { return group.Do("key", MustNotRun, {.timeout = 1ms}); }) ==
        std::errc::timed_out);
  CHECK(ErrorOf([&] { return group.Do("key", MustNotRun, {.timeout = 0ms}); }) ==
        std::errc::timed_out);
  StopSource stop;
  Caller stopped([&] { return group.Do("key", MustNotRun, {.stop = stop.get_token()}); });
  group.GetListener().AwaitTold(6);
  stop.request_stop();
  CHECK(stopped.Join().error == std::errc::operation_canceled);
  leader.Finish();
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "leave key #1: timeout", "follow key #1",
              "leave key #1: timeout", "follow key #1", "leave key #1: stop", "land key #1: 1"});
}

TEST_CASE("Listener: it is told that a leader in Do was stopped") {
  RecordedGroup group;
  StopSource stop;
  CHECK(*group.Do("key",
                  [&] {
                    stop.request_stop();
                    return 1;
                  },
                  {.stop = stop.get_token()}) == 1);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "leave key #1: stop", "land key #1: 0"});
}

TEST_CASE("Listener: it is told that a caller leaves before the call is asked to stop") {
  RecordedGroup group;
  KeptCall call(group);
  const singleflight::StopCallback on_stop(call.lead->GetStopToken(), [&] { call.Drop(); });
  CHECK(call.waiter.Leave());
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "leave key #1", "land key #1: 0, failed"});
}

TEST_CASE("Listener: it is told that a caller in Do leaves before the call is asked to stop") {
  RecordedGroup group;
  KeptCall call(group);
  const singleflight::StopCallback on_stop(call.lead->GetStopToken(), [&] { call.Drop(); });
  StopSource stop;
  Caller follower([&] { return group.Do("key", MustNotRun, {.stop = stop.get_token()}); });
  group.GetListener().AwaitTold(2);
  CHECK(call.waiter.Leave());
  stop.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "leave key #1",
                                            "leave key #1: stop", "land key #1: 0, failed"});
}

TEST_CASE("Listener: it is told the reason that a waiter gives when it leaves") {
  RecordedGroup group;
  KeptCall call(group);
  std::array<QuietWaiter, 3> waiters;
  for (auto& waiter : waiters) group.Join("key", waiter, [](Lead) {});
  CHECK(waiters[0].Leave());
  CHECK(waiters[1].Leave(LeaveReason::kTimeout));
  CHECK(waiters[2].Detach());
  CHECK_FALSE(waiters[0].Leave());
  call.lead->Succeed(1);
  CHECK_FALSE(call.waiter.Leave());
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "follow key #1", "follow key #1", "leave key #1",
              "leave key #1: timeout", "leave key #1", "land key #1: 1"});
}

TEST_CASE("Listener: it is told that a future was destroyed") {
  RecordedGroup group;
  HeldCall leader(group, "key");
  {
    auto joined = group.Join(std::string("key"), [](Lead) {});
  }
  std::optional<Lead> kept;
  {
    auto led = group.Join(std::string("b"), [&](Lead lead) { kept = std::move(lead); });
  }
  kept->Succeed(1);
  leader.Finish();
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "leave key #1",
                                            "lead b #2", "leave b #2", "land b #2: 0",
                                            "land key #1: 1"});
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("Listener: it is told of threads that are cancelled") {
  RecordedGroup group;
  CancellableThread leader([&] {
    static_cast<void>(group.Do("key", []() -> int {
      for (;;) pthread_testcancel();
    }));
  });
  group.GetListener().AwaitTold(1);
  CancellableThread follower(
      [&] { static_cast<void>(group.Do("key", MustNotRun, {.timeout = 1h})); });
  group.GetListener().AwaitTold(2);
  follower.Cancel();
  CHECK(follower.JoinWasUnwound());
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "leave key #1", "land key #1: 1, failed"});
}

namespace {

struct CancelledInOnLead {
  int OnLead(std::string_view) {
    begun = true;
    for (;;) pthread_testcancel();
  }
  void OnFollow(std::string_view, const int& tag) { followed = tag + 1; }
  std::atomic<bool> begun = false;
  std::atomic<int> followed = 0;
};

}  // namespace

TEST_CASE("Listener: a leader that is cancelled inside OnLead lands its call with owner_dead") {
  GroupWith<CancelledInOnLead> group;
  CancellableThread leader([&] { static_cast<void>(group.Do("key", MustNotRun)); });
  Await([&] { return group.GetListener().begun.load(); });
  Caller follower([&] { return group.Do("key", MustNotRun); });
  AwaitCallers(group, "key", 2);
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(follower.Join().error == std::errc::owner_dead);
  CHECK(group.GetListener().followed == 1);  // of the tag that was not made
}
#endif

// ---- Being refused

TEST_CASE("Listener: it is told which callers the limits refuse") {
  constexpr auto kFull = std::errc::resource_unavailable_try_again;
  {
    RecordedGroup group(GroupOptions{.max_callers_per_call = 1});
    HeldCall leader(group, "key");
    CHECK(ErrorOf([&] { return group.Do("key", MustNotRun); }) == kFull);
    QuietWaiter waiter;
    CHECK(ErrorOf([&] { return group.Join("key", waiter, [](Lead) {}); }) == kFull);
    leader.Finish();
    CHECK(group.GetListener().Told() ==
          Lines{"lead key #1", "refuse key: full", "refuse key: full", "land key #1: 1"});
  }
  for (const GroupOptions options :
       {GroupOptions{.max_callers = 1}, GroupOptions{.max_calls_in_flight = 1}}) {
    RecordedGroup group(options);
    HeldCall leader(group, "key");
    CHECK(ErrorOf([&] { return group.Do("b", MustNotRun); }) == kFull);
    QuietWaiter waiter;
    CHECK(ErrorOf([&] { return group.Join("c", waiter, [](Lead) {}); }) == kFull);
    leader.Finish();
    CHECK(group.GetListener().Told() ==
          Lines{"lead key #1", "refuse b: full", "refuse c: full", "land key #1: 1"});
  }
  {
    RecordedGroup group;
    group.Close();
    CHECK(ErrorOf([&] { return group.Do("key", MustNotRun); }) == kFull);
    CHECK(group.GetListener().Told() == Lines{"refuse key: full"});
  }
}

TEST_CASE("Listener: it is told of a deadlock in Do") {
  RecordedGroup group;
  CHECK(ErrorOf([&] { return group.Do("key", [&] { return *group.Do("key", MustNotRun); }); }) ==
        std::errc::resource_deadlock_would_occur);
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "refuse key: deadlock", "land key #1: 1, failed"});
}

// ---- Other ways for a call to go

TEST_CASE("Listener: calls that were forgotten or replaced keep their tags") {
  RecordedGroup group;
  HeldCall first(group, "key");
  CHECK(group.Forget("key"));
  HeldCall second(group, "key");
  first.Finish();
  second.Finish();
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "lead key #2", "land key #1: 1", "land key #2: 1"});
}

TEST_CASE("Listener: a call that was cancelled lands when its work has finished") {
  struct OnlyCanceled {
    void OnLand(std::string_view, const Landing& landing) {
      canceled += landing.canceled;
      callers += landing.callers;
    }
    int canceled = 0;
    std::size_t callers = 0;
  };
  constexpr auto kCanceled = std::errc::operation_canceled;
  RecordedGroup group;
  HeldCall leader(group, "key");
  Caller follower([&] { return group.Do("key", MustNotRun); });
  group.GetListener().AwaitTold(2);
  CHECK(group.Cancel("key"));
  CHECK(follower.Join().error == kCanceled);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1"});
  CHECK(leader.Finish().error == kCanceled);
  KeptCall call(group);
  CHECK(group.Cancel("key"));
  CHECK_FALSE(call.waiter.Leave());
  CHECK_FALSE(call.lead->Succeed(1));
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1",
                                            "land key #1: 0, failed", "lead key #2",
                                            "land key #2: 0, failed"});

  GroupWith<OnlyCanceled> alone;
  CHECK(ErrorOf([&] { return alone.Do("key", [&] { return alone.Cancel("key"); }); }) == kCanceled);
  CHECK(*alone.Do("key", [] { return 1; }) == 1);
  CHECK(alone.GetListener().canceled == 1);
  CHECK(alone.GetListener().callers == 1);
}

TEST_CASE("Listener: a leader that is stopped after Cancel is not said to leave") {
  RecordedGroup group;
  StopSource stop;
  CHECK(ErrorOf([&] {
          return group.Do("key",
                          [&] {
                            group.Cancel("key");
                            stop.request_stop();
                            return 1;
                          },
                          {.stop = stop.get_token()});
        }) == std::errc::operation_canceled);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "land key #1: 0, failed"});
}

TEST_CASE("Listener: a second try after a failure is told as a call of its own") {
  RecordedGroup group;
  std::latch fail{1};
  Caller leader([&] {
    return group.Do("key", [&] {
      fail.wait();
      return GoDown();
    });
  });
  group.GetListener().AwaitTold(1);
  std::latch finish{1};
  const auto ask = [&] {
    return group.Do("key",
                    [&] {
                      finish.wait();
                      return 2;
                    },
                    {.on_failure = OnFailure::kRetry});
  };
  Caller a(ask), b(ask);
  group.GetListener().AwaitTold(3);
  fail.count_down();
  CHECK(leader.Join().message == "down");
  group.GetListener().AwaitTold(6);
  finish.count_down();
  CHECK(a.Join().value == 2);
  CHECK(b.Join().value == 2);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "follow key #1",
                                            "land key #1: 3, failed", "lead key #2",
                                            "follow key #2", "land key #2: 2"});
}

TEST_CASE("Listener: a follower that asks again after the second try has landed is told of") {
  struct Retrying final : Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  };
  RecordedGroup group;
  KeptCall call(group);
  std::array<Retrying, 2> waiters;
  for (auto& waiter : waiters)
    group.Join(
        "key", waiter, [](Lead) {}, OnFailure::kRetry);
  call.lead->Fail(std::make_exception_ptr(std::runtime_error("down")));
  CHECK(group.JoinAgain("key", waiters[0], [](Lead lead) { lead.Succeed(2); }) == Role::kLeader);
  CHECK(group.JoinAgain("key", waiters[1], [](Lead) {}) == Role::kFollower);
  CHECK(waiters[1].landed == 2);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "follow key #1",
                                            "land key #1: 3, failed", "lead key #2",
                                            "land key #2: 2", "follow key #2"});
}

TEST_CASE("Listener: a caller in Do that asks again after the second try has landed is told of") {
  using HookedGroup =
      singleflight::Group<int, int, singleflight::DefaultHash<int>, singleflight::DefaultEqual<int>,
                          ListenedTo<Recorder, Hooked>>;
  HookedGroup group;
  std::latch fail{1};
  std::latch about_to_ask_again{1};
  std::latch second_try_landed{1};
  Caller leader([&] {
    return group.Do(1, [&] {
      fail.wait();
      return GoDown();
    });
  });
  group.GetListener().AwaitTold(1);
  Caller late([&] {
    int locks = 0;
    HookedMutex::before_lock = [&] {
      if (++locks != 2) return;
      about_to_ask_again.count_down();
      second_try_landed.wait();
    };
    return group.Do(1, MustNotRun, {.on_failure = OnFailure::kRetry});
  });
  group.GetListener().AwaitTold(2);
  std::function<void()> task;
  singleflight::Caller leads_second = DoThen(
      group, 1, [] { return 2; }, [&](auto its_task) { task = its_task; }, [](const auto&) {},
      OnFailure::kRetry);
  fail.count_down();
  about_to_ask_again.wait();
  CHECK(leader.Join().message == "down");
  CHECK(leads_second.Leave());
  task();
  second_try_landed.count_down();
  CHECK(late.Join().value == 2);
  CHECK(group.GetListener().Told() == Lines{"lead 1 #1", "follow 1 #1", "follow 1 #1",
                                            "land 1 #1: 3, failed", "lead 1 #2", "leave 1 #2",
                                            "land 1 #2: 1", "follow 1 #2"});
}

TEST_CASE("Listener: a deadlock of a caller that asks again is told and counts as no follower") {
  using HookedGroup =
      singleflight::Group<int, int, singleflight::DefaultHash<int>, singleflight::DefaultEqual<int>,
                          ListenedTo<Recorder, Hooked>>;
  HookedGroup group;
  struct Silent final : HookedGroup::Waiter {
    void OnLanded() noexcept override {}
  } first;
  std::optional<HookedGroup::Lead> lead;
  group.Join(1, first, [&](HookedGroup::Lead its) { lead = std::move(its); });
  // It waits before it asks again until the other thread leads the second try, and waits for it.
  Caller deadlocked([&] {
    return group.Do(2, [&] {
      HookedMutex::before_lock = [&group, locks = 0]() mutable {
        if (++locks == 2) Await([&] { return group.Callers(2) == 2; });
      };
      return *group.Do(1, MustNotRun, {.on_failure = OnFailure::kRetry});
    });
  });
  group.GetListener().AwaitTold(3);
  Caller leads_second([&] {
    return group.Do(1, [&] { return *group.Do(2, MustNotRun); }, {.on_failure = OnFailure::kRetry});
  });
  group.GetListener().AwaitTold(4);
  lead->Fail(std::make_exception_ptr(std::runtime_error("down")));
  CHECK(deadlocked.Join().error == std::errc::resource_deadlock_would_occur);
  CHECK(leads_second.Join().error == std::errc::resource_deadlock_would_occur);
  CHECK(group.GetListener().Sorted() == Lines{"follow 1 #1", "follow 1 #1", "follow 2 #2",
                                              "land 1 #1: 3, failed", "land 1 #3: 1, failed",
                                              "land 2 #2: 2, failed", "lead 1 #1", "lead 1 #3",
                                              "lead 2 #2", "refuse 1: deadlock"});
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 3, .failures = 3});
}

namespace {

// Its OnLand waits until Continue, and notes in `told` that it has returned.
struct SlowToLand {
  SlowToLand(std::latch& its_begin, std::latch& its_end, std::atomic<bool>& is_told)
      : begun(&its_begin), go_on(&its_end), told(&is_told) {}
  void OnLand(std::string_view, const Landing&) {
    begun->count_down();
    go_on->wait();
    *told = true;
  }
  std::latch* begun;
  std::latch* go_on;
  std::atomic<bool>* told;
};

}  // namespace

TEST_CASE("Promise 14: the destructor of a group waits until its listener was told of a landing") {
  std::latch begun{1};
  std::latch go_on{1};
  std::atomic<bool> told = false;
  using SlowGroup = GroupWith<SlowToLand>;
  auto group = std::make_unique<SlowGroup>(GroupOptions{}, SlowToLand(begun, go_on, told));
  std::optional<SlowGroup::Lead> lead;
  auto future = group->Join("key", [&](SlowGroup::Lead its_lead) { lead = std::move(its_lead); });
  // The destructor asks the calls to stop that it will wait for.
  const singleflight::StopCallback on_stop(lead->GetStopToken(), [&] { go_on.count_down(); });
  JoiningThread lands([&] { lead->Succeed(1); });
  begun.wait();
  group.reset();
  CHECK(told);
  lands.join();
  CHECK(*future.Get() == 1);
}

// ---- The hooks

namespace {

struct Throwing {
  int OnLead(std::string_view) { throw 1; }
  void OnFollow(std::string_view, const int& tag) {
    tags += tag;
    throw 2;
  }
  void OnLeave(std::string_view, const int&, LeaveReason) { throw 3; }
  void OnLand(std::string_view, const int&, const Landing&) { throw 4; }
  void OnRefuse(std::string_view, std::error_code) { throw 5; }
  std::atomic<int> tags = 0;
};

}  // namespace

TEST_CASE("Listener: hooks that throw harm nobody") {
  GroupWith<Throwing> group(GroupOptions{.max_callers_per_call = 2});
  {
    HeldCall leader(group, "key");
    CHECK(ErrorOf([&] { return group.Do("key", MustNotRun, {.timeout = 1ms}); }) ==
          std::errc::timed_out);
    Caller follower([&] { return group.Do("key", MustNotRun); });
    AwaitCallers(group, "key", 2);
    CHECK(ErrorOf([&] { return group.Do("key", MustNotRun); }) ==
          std::errc::resource_unavailable_try_again);
    CHECK(leader.Finish().value == 1);
    CHECK(follower.Join().value == 1);
  }
  auto led = group.Join("key", [](auto lead) { lead.Succeed(2); });
  CHECK(*led.Get() == 2);
  CHECK(group.GetListener().tags == 0);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2, .left = 1, .refused = 1});
}

namespace {

// Has each hook, and counts those that run while this thread holds a lock.
struct UnderLock {
  int OnLead(int) { return Note(); }
  void OnFollow(int, const int&) { Note(); }
  void OnLeave(int, const int&, LeaveReason) { Note(); }
  void OnLand(int, const int&, const Landing&) { Note(); }
  void OnRefuse(int, std::error_code) { Note(); }

  int Note() {
    ++told;
    if (locks_held > 0) ++under_lock;
    return 1;
  }
  std::atomic<int> told = 0;
  std::atomic<int> under_lock = 0;
};

}  // namespace

TEST_CASE("Promise 8: no lock is held while a hook of a listener runs") {
  using G =
      singleflight::Group<int, int, singleflight::DefaultHash<int>, singleflight::DefaultEqual<int>,
                          ListenedTo<UnderLock, OneWatchedShard>>;
  struct Kept final : G::Waiter {
    void OnLanded() noexcept override {}
  };
  G group(GroupOptions{.max_callers_per_call = 3, .max_calls_in_flight = 2});
  const auto refused = [&](int key) {
    return ErrorOf([&] { return group.Do(key, MustNotRun); }) ==
           std::errc::resource_unavailable_try_again;
  };
  {
    HeldCall leader(group, 1);
    Caller follower([&] { return group.Do(1, MustNotRun); });
    AwaitCallers(group, 1, 2);
    CHECK(ErrorOf([&] { return group.Do(1, MustNotRun, {.timeout = 0ms}); }) ==
          std::errc::timed_out);
    CHECK(ErrorOf([&] { return group.Do(1, MustNotRun, {.timeout = 1ms}); }) ==
          std::errc::timed_out);
    Kept waiter;
    group.Join(1, waiter, [](G::Lead) {});
    CHECK(refused(1));
    CHECK(waiter.Leave());
    std::optional<G::Lead> kept;
    {
      Kept led;
      group.Join(2, led, [&](G::Lead lead) { kept = std::move(lead); });
      CHECK(refused(3));
      CHECK(led.Leave());
    }
    kept->Succeed(1);
    leader.Finish();
  }
  CHECK(*group.Do(4, [] { return 1; }) == 1);
  // two calls in Do and one that is led asynchronously, four followers, two refused, four leave
  CHECK(group.GetListener().told == 3 + 4 + 2 + 4 + 3);
  CHECK(group.GetListener().under_lock == 0);
}

namespace {

// Asks its own group for the key that it is told of.
template <bool kBlocks>
struct AsksItsGroup {
  int OnLead(std::string_view key) {
    if (kBlocks) {
      error = ErrorOf([&] { return group->Do(key, MustNotRun); });
    } else {
      error = ErrorOf([&] { return group->Join(key, [](auto) {}).valid(); });
    }
    return 1;
  }
  void OnFollow(std::string_view, const int&) {}
  GroupWith<AsksItsGroup>* group = nullptr;
  std::optional<std::errc> error;
};

template <class G>
void CheckThatOnLeadMayNotAsk() {
  G group;
  group.GetListener().group = &group;
  CHECK(*group.Do("key", [] { return 1; }) == 1);
  CHECK(std::exchange(group.GetListener().error, {}) == std::errc::resource_deadlock_would_occur);
  CHECK(*group.Join("key", [](auto lead) { lead.Succeed(2); }).Get() == 2);
  CHECK(group.GetListener().error == std::errc::resource_deadlock_would_occur);
  CHECK(group.GetStats() == Stats{.executions = 2});
}

}  // namespace

TEST_CASE("Listener: an OnLead that asks for its own key gets an error") {
  CheckThatOnLeadMayNotAsk<GroupWith<AsksItsGroup<true>>>();
  CheckThatOnLeadMayNotAsk<GroupWith<AsksItsGroup<false>>>();
}

TEST_CASE("Listener: each hook may be missing") {
  struct OnlyLand {
    void OnLand(std::string_view, const Landing& landing) { callers += landing.callers; }
    std::size_t callers = 0;
  };
  struct OnlyLead {
    void OnLead(std::string_view) { ++calls; }
    int calls = 0;
  };
  struct OnlyLeave {
    void OnLeave(std::string_view key, LeaveReason) { left += key; }
    std::string left;
  };
  struct OnlyFollow {
    void OnFollow(std::string_view) { ++followers; }
    int followers = 0;
  };
  GroupWith<OnlyLand> land;
  CHECK(*land.Do("key", [] { return 1; }) == 1);
  CHECK(land.GetListener().callers == 1);
  GroupWith<OnlyLead> lead;
  CHECK(*lead.Do("key", [] { return 1; }) == 1);
  CHECK(lead.GetListener().calls == 1);
  GroupWith<OnlyLeave> leave;
  {
    HeldCall leader(leave, "key");
    CHECK(ErrorOf([&] { return leave.Do("key", MustNotRun, {.timeout = 0ms}); }) ==
          std::errc::timed_out);
    CHECK(leave.Join("key", [](auto) {}).valid());
  }
  CHECK(leave.GetListener().left == "keykey");
  GroupWith<OnlyFollow> follow;
  {
    HeldCall leader(follow, "key");
    CHECK(ErrorOf([&] { return follow.Do("key", MustNotRun, {.timeout = 0ms}); }) ==
          std::errc::timed_out);
    CHECK(follow.Join("key", [](auto) {}).valid());
  }
  CHECK(follow.GetListener().followers == 2);
}

TEST_CASE("Listener: it sees the string of the caller and no copy") {
  struct Seeing {
    void OnLead(std::string_view key) { lead = key.data(); }
    void OnLand(std::string_view key, const Landing&) { land = key.data(); }
    const char* lead = nullptr;
    const char* land = nullptr;
  };
  GroupWith<Seeing> group;
  const std::string key = "a key that is too long for a small string";
  CHECK(*group.Do(key, [] { return 1; }) == 1);
  CHECK(group.GetListener().lead == key.data());
  CHECK(group.GetListener().land == key.data());
}

TEST_CASE("Listener: a key of another type is given by reference") {
  struct Pairs {
    void OnLead(const std::pair<int, int>& key) { seen = &key; }
    const void* seen = nullptr;
  };
  struct HashOfPair {
    std::size_t operator()(const std::pair<int, int>& key) const {
      return static_cast<std::size_t>(key.first);
    }
  };
  singleflight::Group<std::pair<int, int>, int, HashOfPair, std::equal_to<std::pair<int, int>>,
                      ListenedTo<Pairs>>
      group;
  const std::pair<int, int> key{1, 2};
  CHECK(*group.Do(key, [] { return 1; }) == 1);
  CHECK(group.GetListener().seen == &key);
}

TEST_CASE("Listener: how long a call took is from its beginning to its outcome") {
  struct Timing {
    void OnLand(std::string_view, const singleflight::TimedLanding& landing) {
      took = landing.took;
    }
    std::chrono::nanoseconds took{-1};
  };
  using Clock = std::chrono::steady_clock;
  GroupWith<Timing> group;
  std::chrono::nanoseconds inside{};
  const auto before = Clock::now();
  CHECK(*group.Do("key", [&] {
    const auto begun = Clock::now();
    Await([&] { return Clock::now() - begun >= 2ms; });
    inside = Clock::now() - begun;
    return 1;
  }) == 1);
  CHECK(group.GetListener().took >= inside);
  CHECK(group.GetListener().took <= Clock::now() - before);
  const auto before_join = Clock::now();
  CHECK(*group.Join("key", [](auto lead) { lead.Succeed(2); }).Get() == 2);
  CHECK(group.GetListener().took >= 0ns);
  CHECK(group.GetListener().took <= Clock::now() - before_join);
}

TEST_CASE("Listener: one that is given to the group is moved there") {
  struct Sharing {
    explicit Sharing(std::shared_ptr<int> its_count) : count(std::move(its_count)) {}
    void OnLead(std::string_view) { ++*count; }
    std::shared_ptr<int> count;
  };
  const auto count = std::make_shared<int>(0);
  GroupWith<Sharing> a({}, Sharing(count));
  GroupWith<Sharing> b({.max_callers = 1}, Sharing(count));
  CHECK(count.use_count() == 3);
  CHECK(*a.Do("key", [] { return 1; }) == 1);
  CHECK(*b.Do("key", [] { return 1; }) == 1);
  CHECK(*count == 2);
}

TEST_CASE("Listener: what it is told adds up to the statistics of the group") {
  struct Counting {
    int OnLead(std::string_view) { return ++led; }
    void OnFollow(std::string_view, const int&) { ++followed; }
    void OnLeave(std::string_view, const int&, LeaveReason) { ++left; }
    void OnLand(std::string_view, const int&, const Landing& landing) {
      ++landed;
      failed += landing.failed;
      callers += static_cast<int>(landing.callers);
    }
    void OnRefuse(std::string_view, std::error_code) { ++refused; }
    std::atomic<int> led = 0, followed = 0, left = 0, landed = 0, failed = 0, refused = 0;
    std::atomic<int> callers = 0;
  };
  GroupWith<Counting> group(GroupOptions{.max_callers_per_call = 3});
  std::atomic<int> turn = 0;
  AskAtOnce(4, [&] {
    for (int i = 0; i < 2000; ++i) {
      const auto timeout = i % 3 == 0 ? 0ns : std::chrono::nanoseconds(i);
      const auto work = [&] {
        std::this_thread::yield();
        return ++turn % 5 == 0 ? GoDown() : 1;
      };
      if (i % 2 == 0) {
        const auto on_failure = i % 4 == 0 ? OnFailure::kRetry : OnFailure::kShare;
        Keep([&] { return group.Do("key", work, {.timeout = timeout, .on_failure = on_failure}); });
      } else {
        Keep([&] {
          auto future = group.Join("key", [&](auto lead) { lead.Run(work); });
          return future.Get();
        });
      }
    }
    return group.Do("other", [] { return 1; });
  });
  const Stats stats = group.GetStats();
  const Counting& told = group.GetListener();
  CHECK(stats == Stats{.executions = static_cast<std::uint64_t>(told.led),
                       .followers = static_cast<std::uint64_t>(told.followed),
                       .failures = static_cast<std::uint64_t>(told.failed),
                       .left = static_cast<std::uint64_t>(told.left),
                       .refused = static_cast<std::uint64_t>(told.refused)});
  CHECK(told.landed == told.led);
  CHECK(told.callers == told.led + told.followed - told.left);
}

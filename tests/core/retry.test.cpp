// SPDX-License-Identifier: MIT

// OnFailure::kRetry: a follower whose leader failed asks again.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <latch>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "support/catch.hpp"
#include "support/hooked_mutex.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {

int Fail() { throw std::runtime_error("down"); }

// Says whether it was ever moved or destroyed under a lock.
struct Movable {
  explicit Movable(int its_number) : number(its_number) {}
  Movable(Movable&& other) noexcept : number(other.number) {
    if (HookedMutex::held > 0) under_lock = true;
  }
  Movable(const Movable&) = default;
  ~Movable() {
    if (HookedMutex::held > 0) under_lock = true;
  }
  int number;
  static inline std::atomic<bool> under_lock = false;
};

}  // namespace

TEST_CASE("kRetry: a follower whose leader failed becomes a leader itself") {
  Group<int, int> group;
  Caller leader([&] {
    return group.Do(1,
                    [&] {
                      AwaitCallers(group, 1, 2);
                      return Fail();
                    },
                    {.on_failure = OnFailure::kRetry});
  });
  AwaitCallers(group, 1, 1);
  const auto follower =
      Keep([&] { return group.Do(1, [] { return 2; }, {.on_failure = OnFailure::kRetry}); });
  CHECK(leader.Join().message == "down");  // a leader's own failure is final
  CHECK(follower.value == 2);
  CHECK(follower.role == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1});
}

TEST_CASE("kRetry: a follower whose leader succeeded asks no more") {
  Group<int, int> group;
  HeldCall leader(group, 1);
  Caller follower([&] { return group.Do(1, [] { return 2; }, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, 1, 2);
  leader.Finish();
  CHECK(follower.Join().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

TEST_CASE("kRetry: of many followers whose leader failed, one leads and the others join it") {
  constexpr std::size_t kFollowers = 6;
  Group<int, int> group;
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, kFollowers + 1);
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  std::atomic<int> runs = 0;
  const auto outcomes = AskAtOnce(kFollowers, [&] {
    return group.Do(1,
                    [&] {
                      AwaitCallers(group, 1, kFollowers);
                      return ++runs;
                    },
                    {.on_failure = OnFailure::kRetry});
  });
  CHECK(leader.Join().message == "down");
  CHECK(runs == 1);
  for (const auto& outcome : outcomes) CHECK(outcome.value == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2 * kFollowers - 1, .failures = 1});
}

TEST_CASE("Promise 17: when every function fails, a crowd runs it twice, however late it wakes") {
  constexpr std::size_t kCallers = 50;
  Group<int, int> group;
  std::atomic<int> runs = 0;
  const auto outcomes = AskAtOnce(kCallers, [&] {
    return group.Do(1,
                    [&]() -> int {
                      const int run = ++runs;
                      if (run == 1) AwaitCallers(group, 1, kCallers);
                      throw std::runtime_error("run " + std::to_string(run));
                    },
                    {.on_failure = OnFailure::kRetry});
  });
  CHECK(runs == 2);
  std::size_t first = 0;
  for (const auto& outcome : outcomes) first += outcome.message == "run 1";
  CHECK(first == 1);  // the first leader: its own failure is final
  for (const auto& outcome : outcomes) {
    CHECK((outcome.message == "run 1" || outcome.message == "run 2"));
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2 * kCallers - 3, .failures = 2});
}

TEST_CASE("Promise 17: followers that wake after the second try has landed get its result, too") {
  // The second try takes no time, so most followers come after it has landed.
  constexpr std::size_t kCallers = 50;
  Group<int, int> group;
  std::atomic<int> runs = 0;
  const auto outcomes = AskAtOnce(kCallers, [&] {
    return group.Do(1,
                    [&] {
                      if (++runs > 1) return 2;
                      AwaitCallers(group, 1, kCallers);
                      return Fail();
                    },
                    {.timeout = 1h, .on_failure = OnFailure::kRetry});
  });
  CHECK(runs == 2);
  std::size_t served = 0;
  for (const auto& outcome : outcomes) served += outcome.value == 2 && outcome.shared;
  CHECK(served == kCallers - 1);
}

TEST_CASE("Promise 17: the first to ask again joins a newer call, and brings the others along") {
  constexpr std::size_t kFollowers = 20;
  Group<int, int> group;
  std::latch newer_began(1);
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, kFollowers + 1);
      group.Forget(1);
      newer_began.count_down();
      AwaitCallers(group, 1, 1);
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  Caller newer([&] {
    newer_began.wait();
    return group.Do(1, [&] {
      AwaitCallers(group, 1, kFollowers + 1);
      return 9;
    });
  });
  const auto outcomes = AskAtOnce(kFollowers, [&] {
    return group.Do(1, [] { return -1; }, {.on_failure = OnFailure::kRetry});
  });
  CHECK(leader.Join().message == "down");
  CHECK(newer.Join().value == 9);
  for (const auto& outcome : outcomes) CHECK(outcome.value == 9);
  CHECK(group.GetStats().executions == 2);
}

TEST_CASE("Promise 17: where a limit leaves no room for the others, each asks for itself") {
  // Three callers may be on a call. The newer call has two when the two followers ask again.
  Group<int, int> group({.max_callers_per_call = 3});
  std::latch fail(1);
  Caller leader([&] {
    return group.Do(1, [&] {
      fail.wait();
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  const auto ask = [&] {
    return group.Do(1, [] { return -1; }, {.on_failure = OnFailure::kRetry});
  };
  Caller first([&] { return ask(); });
  Caller second([&] { return ask(); });
  AwaitCallers(group, 1, 3);
  group.Forget(1);
  std::latch finish(1);
  const auto held = [&] {
    finish.wait();
    return 9;
  };
  Caller newer([&] { return group.Do(1, held); });
  AwaitCallers(group, 1, 1);
  Caller other([&] { return group.Do(1, held); });
  AwaitCallers(group, 1, 2);
  fail.count_down();
  Await([&] { return group.GetStats().refused == 1; });
  finish.count_down();
  CHECK(newer.Join().value == 9);
  CHECK(other.Join().value == 9);
  const int served = (first.Join().value == 9) + (second.Join().value == 9);
  CHECK(served == 1);
}

TEST_CASE("Promise 17: a caller asks again at most once, whoever leads the second try") {
  Group<int, int> group;
  std::atomic<int> own_runs = 0;
  std::latch newer_began(1);
  Caller first([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 2);
      group.Forget(1);
      newer_began.count_down();
      AwaitCallers(group, 1, 1);
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower(
      [&] { return group.Do(1, [&] { return ++own_runs; }, {.on_failure = OnFailure::kRetry}); });
  Caller newer([&] {
    newer_began.wait();
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 2);
      return Fail();
    });
  });
  CHECK(follower.Join().message == "down");
  CHECK(own_runs == 0);
  CHECK(newer.Join().message == "down");
  CHECK(first.Join().message == "down");
}

TEST_CASE("kRetry: a follower with kShare gets the failure while another one retries") {
  Group<int, int> group;
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 3);
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  Caller shares([&] { return group.Do(1, [] { return 2; }); });
  AwaitCallers(group, 1, 2);
  Caller retries([&] { return group.Do(1, [] { return 3; }, {.on_failure = OnFailure::kRetry}); });
  CHECK(leader.Join().message == "down");
  CHECK(shares.Join().message == "down");
  CHECK(retries.Join().value == 3);
}

TEST_CASE("kRetry: the timeout counts from the first join, through all retries") {
  Group<int, int> group;
  std::latch finish(1);
  std::atomic<bool> second_leads = false;
  Caller first([&] {
    return group.Do(1, [&]() -> int {
      AwaitCallers(group, 1, 2);
      group.Forget(1);  // the next caller then leads the call that the follower retries on
      Await([&] { return second_leads.load(); });
      throw std::runtime_error("down");
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] {
    return group.Do(1, [] { return 5; }, {.timeout = 50ms, .on_failure = OnFailure::kRetry});
  });
  Await([&] { return group.GetStats().followers == 1 && group.Callers(1) == 0; });
  Caller second([&] {
    return group.Do(1, [&] {
      second_leads = true;
      finish.wait();
      return 6;
    });
  });
  CHECK(follower.Join().error == std::errc::timed_out);
  finish.count_down();
  CHECK(second.Join().value == 6);
  CHECK(first.Join().message == "down");
}

TEST_CASE("kRetry: a follower whose timeout has passed when it asks again does not wait") {
  using Clock = std::chrono::steady_clock;
  static constexpr auto kTimeout = 100ms;
  // Lets the timeout pass while the follower looks for a call for the second time.
  static thread_local std::optional<Clock::time_point> asked;
  static thread_local int looks;
  struct Equal {
    bool operator()(int a, int b) const {
      if (asked && ++looks == 2) Await([] { return Clock::now() > *asked + 2 * kTimeout; });
      return a == b;
    }
  };
  Group<int, int, std::hash<int>, Equal> group;
  std::latch fail(1);
  std::atomic<bool> finish = false;
  Caller first([&] {
    return group.Do(1, [&]() -> int {
      fail.wait();
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] {
    asked = Clock::now();
    return group.Do(1, [] { return 5; }, {.timeout = kTimeout, .on_failure = OnFailure::kRetry});
  });
  Await([&] { return group.GetStats().followers == 1; });  // the follower may have left by now
  group.Forget(1);
  Caller second([&] {
    return group.Do(1, [&] {
      Await([&] { return finish || group.Callers(1) == 2; });  // 2: the follower wrongly waits here
      return 6;
    });
  });
  AwaitCallers(group, 1, 1);
  fail.count_down();
  CHECK(follower.Join().error == std::errc::timed_out);
  finish = true;
  CHECK(second.Join().value == 6);
  CHECK(first.Join().message == "down");
}

TEST_CASE("kRetry: a leader that vanished counts as one that failed") {
  using IntGroup = Group<int, int>;
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter;
  IntGroup group;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](IntGroup::Lead made) { lead = std::move(made); });
  Caller follower([&] { return group.Do(1, [] { return 4; }, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, 1, 2);
  lead.reset();
  CHECK(follower.Join().value == 4);
}

TEST_CASE("kRetry: a follower that was stopped when its leader failed does not lead") {
  // Requests the stop when the failed call is closed, which is too late for the follower to leave.
  Group<int, int, std::hash<int>, std::equal_to<int>, Hooked> group;
  StopSource stop;
  JoiningThread leader([&] {
    const auto fail = [&]() -> int {
      AwaitCallers(group, 1, 2);
      HookedMutex::after_unlock = [&] {
        if (group.Callers(1) == 0) stop.request_stop();
      };
      throw std::runtime_error("down");
    };
    static_cast<void>(Keep([&] { return group.Do(1, fail); }));
  });
  AwaitCallers(group, 1, 1);
  bool ran = false;
  const auto ask = [&] {
    return group.Do(1,
                    [&] {
                      ran = true;
                      return 2;
                    },
                    {.stop = stop.get_token(), .on_failure = OnFailure::kRetry});
  };
  CHECK(ErrorOf(ask) == std::errc::operation_canceled);
  CHECK_FALSE(ran);
}

TEST_CASE("Promise 8: a caller that comes late to a second try gets its value with no lock held") {
  using MovableGroup = Group<int, Movable, std::hash<int>, std::equal_to<int>, Hooked>;
  MovableGroup group;
  std::latch fail(1);
  std::latch about_to_ask_again(1);
  std::latch second_try_landed(1);
  JoiningThread leader([&] {
    const auto fails = [&]() -> Movable {
      fail.wait();
      throw std::runtime_error("down");
    };
    try {
      static_cast<void>(group.Do(1, fails));
    } catch (const std::runtime_error&) {
    }
  });
  AwaitCallers(group, 1, 1);
  int got = 0;
  JoiningThread late([&] {
    int locks = 0;
    HookedMutex::before_lock = [&] {
      if (++locks != 2) return;
      about_to_ask_again.count_down();
      second_try_landed.wait();
    };
    got = group.Do(1, [] { return Movable(9); }, {.on_failure = OnFailure::kRetry})->number;
  });
  AwaitCallers(group, 1, 2);
  std::function<void()> task;
  singleflight::Caller leads_second = DoThen(
      group, 1, [] { return Movable(5); }, [&](auto its_task) { task = its_task; },
      [](const auto&) {}, OnFailure::kRetry);
  fail.count_down();
  about_to_ask_again.wait();
  leader.join();
  CHECK(leads_second.Leave());
  task();
  second_try_landed.count_down();
  late.join();
  CHECK(got == 5);
  CHECK_FALSE(Movable::under_lock);
}

// SPDX-License-Identifier: MIT

// Tests of CoDo with OnFailure::kRetry.

#include <atomic>
#include <coroutine>
#include <functional>
#include <latch>
#include <map>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::ResumeInline;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;

// Leads a call for "key" that fails when `signal` is fired.
Routine LeadAndFail(IntGroup& group, Outcome<int>& outcome, Signal& signal) {
  return StoreOutcome(outcome, [&] {
    const auto fn = [&signal]() -> Task<int> {
      co_await signal;
      throw std::runtime_error("down");
      co_return 0;
    };
    return CoDo(group, "key", std::move(fn), {}, ResumeInline(), OnFailure::kRetry);
  });
}

// Asks for "key" with OnFailure::kRetry.
template <class Fn>
Routine Ask(IntGroup& group, Outcome<int>& outcome, Fn fn, StopToken stop = {}) {
  return StoreOutcome(outcome, [&] {
    return CoDo(group, "key", std::move(fn), stop, ResumeInline(), OnFailure::kRetry);
  });
}

auto AwaitSignal(Signal& signal, int value) {
  return [&signal, value]() -> Task<int> {
    co_await signal;
    co_return value;
  };
}

int MustNotRun() { throw std::logic_error("this fn must not run"); }

}  // namespace

TEST_CASE("Promise 17: a coroutine whose leader failed asks again, and its own function runs") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> retrying;
  Outcome<int> sharing;
  std::thread::id ran_on;
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine retries = Ask(group, retrying, [&] {
    ran_on = std::this_thread::get_id();
    return 7;
  });
  const Routine shares = StoreOutcome(sharing, [&] {
    return CoDo(group, "key", MustNotRun, {}, ResumeInline(), OnFailure::kShare);
  });
  std::thread::id landing;
  JoiningThread([&] {
    landing = std::this_thread::get_id();
    signal.Fire();
  }).join();
  CHECK(leading.message == "down");  // a leader's own failure is final
  CHECK(sharing.message == "down");
  CHECK(retrying.value == 7);
  CHECK(retrying.role == Role::kLeader);
  CHECK(ran_on == landing);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2, .failures = 1});
}

TEST_CASE("Promise 17: coroutines whose leader failed share one second try, and its result") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  Outcome<int> outcomes[10];
  std::vector<Routine> routines;
  const Routine leader = LeadAndFail(group, leading, first);
  for (auto& outcome : outcomes) {
    routines.push_back(Ask(group, outcome, AwaitSignal(second, static_cast<int>(routines.size()))));
  }
  first.Fire();
  CHECK(leading.message == "down");
  CHECK(group.Callers("key") == 10);
  second.Fire();
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == 0);
    CHECK(outcome.shared);
    CHECK(outcome.role == (&outcome == outcomes ? Role::kLeader : Role::kFollower));
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 19, .failures = 1});
}

TEST_CASE("Promise 17: a plain function that runs at once is the second try of all coroutines") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> outcomes[10];
  std::vector<Routine> routines;
  int runs = 0;
  const Routine leader = LeadAndFail(group, leading, signal);
  for (auto& outcome : outcomes) routines.push_back(Ask(group, outcome, [&] { return ++runs; }));
  signal.Fire();
  for (const auto& outcome : outcomes) CHECK(outcome.value == 1);
  CHECK(group.GetStats().executions == 2);
}

TEST_CASE("Promise 17: the failure of a coroutine's second try is final") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> outcomes[3];
  std::vector<Routine> routines;
  int runs = 0;
  const auto fail_again = [&]() -> int {
    ++runs;
    throw std::runtime_error("down again");
  };
  const Routine leader = LeadAndFail(group, leading, signal);
  for (auto& outcome : outcomes) routines.push_back(Ask(group, outcome, fail_again));
  signal.Fire();
  for (const auto& outcome : outcomes) CHECK(outcome.message == "down again");
  CHECK(runs == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 5, .failures = 2});
}

TEST_CASE("Promise 17: a coroutine and a thread in Do share a second try") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  Outcome<int> retrying;
  const Routine leader = LeadAndFail(group, leading, first);
  const Routine routine = Ask(group, retrying, AwaitSignal(second, 7));
  Caller blocked(
      [&] { return group.Do("key", [] { return 7; }, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, "key", 3);
  first.Fire();
  Await([&] { return second.Awaited() || retrying.value.has_value(); });
  if (second.Awaited()) second.Fire();
  CHECK(blocked.Join().value == 7);
  Await([&] { return routine.Done(); });
  CHECK(retrying.value == 7);
  CHECK(group.GetStats().executions == 2);
}

TEST_CASE("Promise 17: an executor runs the second try, and resume_on gets the coroutine") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> retrying;
  std::vector<std::function<void()>> tasks;
  std::vector<std::coroutine_handle<>> posted;
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine routine = StoreOutcome(retrying, [&] {
    return CoDo(
        group, "key", [] { return 7; }, [&](auto task) { tasks.emplace_back(task); }, {},
        [&](std::coroutine_handle<> handle) { posted.push_back(handle); }, OnFailure::kRetry);
  });
  CHECK(tasks.empty());
  signal.Fire();
  REQUIRE(tasks.size() == 1);
  CHECK(posted.empty());
  tasks[0]();
  REQUIRE(posted.size() == 1);
  CHECK(retrying.value == std::nullopt);
  posted[0].resume();
  CHECK(retrying.value == 7);
}

TEST_CASE("Promise 17: braces stand for no stop and for ResumeInline, before on_failure") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> outcomes[2];
  const auto fn = [] { return 7; };
  const auto at_once = [](const auto& task) { task(); };
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine routines[] = {
      StoreOutcome(outcomes[0], [&] { return CoDo(group, "key", fn, {}, {}, OnFailure::kRetry); }),
      StoreOutcome(outcomes[1],
                   [&] { return CoDo(group, "key", fn, at_once, {}, {}, OnFailure::kRetry); })};
  signal.Fire();
  CHECK(outcomes[0].value == 7);
  CHECK(outcomes[1].value == 7);
}

TEST_CASE("Promise 17: a function and an executor that are named are copied, not referred to") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  std::vector<std::function<void()>> tasks;
  std::optional<int> seen;
  const Routine leader = LeadAndFail(group, leading, signal);
  Routine retries;
  const auto ask = [&]() -> Routine {
    const auto captured = std::make_shared<int>(7);
    const auto fn = [captured, &seen] { return *(seen = *captured); };
    // Destroys the frame, in which the function and the executor are.
    const auto queue = [&](auto task) {
      retries.Destroy();
      tasks.emplace_back(task);
    };
    static_cast<void>(
        co_await CoDo(group, "key", fn, queue, {}, ResumeInline(), OnFailure::kRetry));
  };
  retries = ask();
  signal.Fire();
  REQUIRE(tasks.size() == 1);
  tasks[0]();
  CHECK(seen == 7);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1, .left = 1});
}

TEST_CASE("Promise 10: a coroutine leaves its second try when it is stopped") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  Outcome<int> outcomes[2];
  StopSource stop;
  const Routine leader = LeadAndFail(group, leading, first);
  const Routine leads = Ask(group, outcomes[0], AwaitSignal(second, 7), stop.get_token());
  const Routine follows = Ask(group, outcomes[1], MustNotRun);
  first.Fire();
  CHECK(group.Callers("key") == 2);
  stop.request_stop();
  CHECK(outcomes[0].error == std::errc::operation_canceled);
  CHECK(group.Callers("key") == 1);
  second.Fire();
  CHECK(outcomes[1].value == 7);
}

TEST_CASE("Promise 10: a coroutine is stopped while its plain function is the second try") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> retrying;
  StopSource stop;
  bool left_at_once = false;
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine routine = Ask(
      group, retrying,
      [&] {
        stop.request_stop();
        left_at_once = retrying.error == std::errc::operation_canceled;
        return 7;
      },
      stop.get_token());
  signal.Fire();
  CHECK(left_at_once);
  CHECK(routine.Done());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1, .left = 1});
}

TEST_CASE("Promise 10: a coroutine that was stopped before its second try does not ask again") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> retrying;
  Outcome<int> other;
  StopSource stop;
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine retries = Ask(group, retrying, MustNotRun, stop.get_token());
  const auto follow = [&]() -> Routine {
    try {
      static_cast<void>(co_await CoDo(group, "key", MustNotRun));
    } catch (const std::runtime_error&) {
      stop.request_stop();  // too late to leave the call that failed
    }
  };
  const Routine resumed_first = follow();
  const Routine stays = Ask(group, other, [] { return 8; });
  signal.Fire();
  CHECK(retrying.error == std::errc::operation_canceled);
  CHECK(other.value == 8);
  CHECK_FALSE(other.shared);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 1});
}

TEST_CASE("Promise 10: a coroutine leaves its second try when its frame is destroyed") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  Outcome<int> outcomes[2];
  const Routine leader = LeadAndFail(group, leading, first);
  Routine leads = Ask(group, outcomes[0], AwaitSignal(second, 7));
  const Routine follows = Ask(group, outcomes[1], MustNotRun);
  first.Fire();
  leads.Destroy();
  CHECK(group.Callers("key") == 1);
  second.Fire();
  CHECK(outcomes[1].value == 7);
}

TEST_CASE("Promise 11: a frame that is destroyed before it asks again is no caller of the second") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  Outcome<int> outcomes[2];
  StopSource stop;
  StopToken asked;
  Routine destroyed;
  const Routine leader = LeadAndFail(group, leading, first);
  const Routine leads = Ask(
      group, outcomes[0],
      [&](StopToken token) -> Task<int> {
        asked = std::move(token);
        destroyed.Destroy();  // its turn to ask again has not come
        co_await second;
        co_return 7;
      },
      stop.get_token());
  destroyed = Ask(group, outcomes[1], MustNotRun);
  first.Fire();
  CHECK(group.Callers("key") == 1);
  stop.request_stop();
  CHECK(asked.stop_requested());
  second.Fire();
}

TEST_CASE("Promise 10: the function of a second try may destroy the frame that asked for it") {
  IntGroup group;
  Signal signal;
  Outcome<int> leading;
  Outcome<int> retrying;
  Routine routine;
  const Routine leader = LeadAndFail(group, leading, signal);
  routine = Ask(group, retrying, [&] {
    routine.Destroy();
    return 7;
  });
  signal.Fire();
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1, .left = 1});
}

TEST_CASE(
    "Promise 17: a coroutine that has not suspended when its leader fails asks again itself") {
  IntGroup group;
  Signal first;
  Signal second;
  Outcome<int> leading;
  const std::string key = "key";
  StopSource stop;
  int runs = 0;
  const auto awaiter_for = [&](auto fn) {
    return CoDo(group, key, fn, stop.get_token(), ResumeInline(), OnFailure::kRetry)
        .
        operator co_await();
  };
  SECTION("and does not suspend if that lands at once") {
    const Routine leader = LeadAndFail(group, leading, first);
    auto awaiter = awaiter_for([&] { return ++runs; });
    CHECK_FALSE(awaiter.await_ready());
    first.Fire();
    CHECK(runs == 0);
    CHECK_FALSE(awaiter.await_suspend(std::noop_coroutine()));
    CHECK(*awaiter.await_resume() == 1);
  }
  SECTION("and suspends if that takes time") {
    const Routine leader = LeadAndFail(group, leading, first);
    auto awaiter = awaiter_for(AwaitSignal(second, 7));
    CHECK_FALSE(awaiter.await_ready());
    first.Fire();
    CHECK(awaiter.await_suspend(std::noop_coroutine()));
    second.Fire();
    CHECK(*awaiter.await_resume() == 7);
  }
  SECTION("unless it was stopped meanwhile") {
    const Routine leader = LeadAndFail(group, leading, first);
    auto awaiter = awaiter_for([&] { return ++runs; });
    CHECK_FALSE(awaiter.await_ready());
    first.Fire();
    stop.request_stop();
    CHECK_FALSE(awaiter.await_suspend(std::noop_coroutine()));
    CHECK(ErrorOf([&] { return awaiter.await_resume(); }) == std::errc::operation_canceled);
    CHECK(runs == 0);
  }
  SECTION("unless it is destroyed") {
    const Routine leader = LeadAndFail(group, leading, first);
    {
      auto awaiter = awaiter_for([&] { return ++runs; });
      CHECK_FALSE(awaiter.await_ready());
      first.Fire();
    }
    CHECK(runs == 0);
  }
  CHECK(group.GetStats().in_flight == 0);
  CHECK(leading.message == "down");
}

TEST_CASE("Promise 7: whichever allocation fails, a coroutine that asks again gets an outcome") {
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    IntGroup group;
    Signal signal;
    Outcome<int> leading;
    Outcome<int> outcomes[2];
    const Routine leader = LeadAndFail(group, leading, signal);
    const auto task = []() -> Task<int> { co_return 7; };
    const Routine routines[] = {Ask(group, outcomes[0], task), Ask(group, outcomes[1], task)};
    std::optional<FailAllocations> fail(allocation);
    signal.Fire();
    fail.reset();
    int served = 0;
    for (const auto& outcome : outcomes) {
      CHECK((outcome.value == 7) != (outcome.message == std::bad_alloc().what()));
      served += outcome.value == 7 ? 1 : 0;
    }
    CHECK(group.GetStats().in_flight == 0);
    CHECK(group.Callers("key") == 0);
    // An allocation that fails before the coroutines' turn has come is the leader's.
    if (leading.message == "down" && served == 2) break;
    ++failures;
  }
  CHECK(failures > 1);
}

TEST_CASE("Promise 12: a coroutine that may not ask again is told so") {
  Group<std::string, int> group({.max_calls_in_flight = 1});
  Signal signal;
  Signal other;
  Outcome<int> leading;
  Outcome<int> retrying;
  Outcome<int> elsewhere;
  const Routine leader = LeadAndFail(group, leading, signal);
  const Routine routine = Ask(group, retrying, MustNotRun);
  Routine newcomer;
  const auto follow = [&]() -> Routine {
    try {
      static_cast<void>(co_await CoDo(group, "key", MustNotRun));
    } catch (const std::runtime_error&) {
      newcomer =
          StoreOutcome(elsewhere, [&] { return CoDo(group, "other", AwaitSignal(other, 8)); });
    }
  };
  const Routine resumed_first = follow();
  signal.Fire();
  CHECK(retrying.error == std::errc::resource_unavailable_try_again);
  other.Fire();
  CHECK(elsewhere.value == 8);
}

TEST_CASE("Promise 17: a coroutine that asks again gets what a ReadThrough has cached by then") {
  struct Cache {
    std::optional<int> Get(const std::string& key) {
      const auto found = values.find(key);
      return found == values.end() ? std::nullopt : std::optional(found->second);
    }
    void Put(const std::string& key, int value) { values[key] = value; }
    std::map<std::string, int> values;
  };
  Cache cache;
  singleflight::ReadThrough<std::string, int, Cache&> numbers(cache);
  Signal signal;
  Outcome<int> leading;
  Outcome<int> loading;
  Outcome<int> finding;
  const auto ask = [&](Outcome<int>& outcome, auto fn) {
    return StoreOutcome(outcome, [&numbers, fn] {
      return CoDo(numbers, "key", fn, {}, ResumeInline(), OnFailure::kRetry);
    });
  };
  const Routine leader = ask(leading, [&]() -> Task<int> {
    co_await signal;
    throw std::runtime_error("down");
    co_return 0;
  });
  const Routine loads = ask(loading, [] { return 7; });
  const Routine finds = ask(finding, MustNotRun);
  signal.Fire();
  CHECK(leading.message == "down");
  CHECK(loading.value == 7);
  CHECK(finding.value == 7);
  CHECK(cache.values == std::map<std::string, int>{{"key", 7}});
}

TEST_CASE("Promise 10: when a stop races with a failure, a coroutine gets exactly one outcome") {
  constexpr int kRounds = 1000;
  IntGroup group;
  int outcomes = 0;
  for (int round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> leading;
    Outcome<int> retrying;
    StopSource stop;
    const Routine leader = LeadAndFail(group, leading, signal);
    const Routine routine = Ask(
        group, retrying, [] { return 7; }, stop.get_token());
    std::latch together(2);
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    together.arrive_and_wait();
    signal.Fire();
    stopping.join();
    const bool got = retrying.value == 7;
    const bool left = retrying.error == std::errc::operation_canceled;
    if (routine.Done() && got != left && leading.message == "down") ++outcomes;
  }
  CHECK(outcomes == kRounds);
  CHECK(group.GetStats().in_flight == 0);
}

// The holder of a handle must not use it once the frame is destroyed, so here nobody does.
TEST_CASE("Promise 10: a frame can be destroyed while its coroutine is asking again") {
  constexpr int kRounds = 1000;
  IntGroup group;
  std::atomic<int> handles = 0;
  for (int round = 0; round < kRounds; ++round) {
    Signal signal;
    Outcome<int> leading;
    const Routine leader = LeadAndFail(group, leading, signal);
    const auto ask = [&]() -> Routine {
      const auto fn = [] { return 7; };
      const auto count = [&handles](std::coroutine_handle<>) { ++handles; };
      static_cast<void>(co_await CoDo(group, "key", fn, {}, count, OnFailure::kRetry));
    };
    Routine retries = ask();
    std::latch together(2);
    JoiningThread landing([&] {
      together.arrive_and_wait();
      signal.Fire();
    });
    together.arrive_and_wait();
    retries.Destroy();
    landing.join();
    CHECK(group.Callers("key") == 0);
  }
  CHECK(handles <= kRounds);
  CHECK(group.GetStats().in_flight == 0);
}

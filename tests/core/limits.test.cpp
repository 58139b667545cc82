// SPDX-License-Identifier: MIT

// Promise 12 (bounded damage): the limits of GroupOptions refuse callers and forget old calls.

#include <atomic>
#include <latch>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::GroupOptions;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;

constexpr auto kRefused = std::errc::resource_unavailable_try_again;

}  // namespace

TEST_CASE("Promise 12: a caller beyond max_callers_per_call is refused, and runs nothing") {
  Group<int, int> group({.max_callers_per_call = 2});
  HeldCall leader(group, 1);
  Caller follower([&] { return group.Do(1, [] { return 2; }); });
  AwaitCallers(group, 1, 2);
  bool ran = false;
  const auto ask = [&] { return group.Do(1, [&] { return ran = true; }); };
  const auto ask_and_wait = [&] {
    return group.Do(1, [&] { return ran = true; }, {.timeout = 1h});
  };
  CHECK(ErrorOf(ask) == kRefused);
  CHECK(ErrorOf(ask_and_wait) == kRefused);
  CHECK_FALSE(ran);
  CHECK(group.Callers(1) == 2);
  CHECK(*group.Do(2, [] { return 7; }) == 7);  // another key is not affected
  CHECK(leader.Finish().value == 1);
  CHECK(follower.Join().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .refused = 2});
}

TEST_CASE("Promise 12: a follower that leaves makes room for another caller") {
  Group<int, int> group({.max_callers_per_call = 2});
  HeldCall leader(group, 1);
  for (int i = 0; i < 3; ++i) {
    CHECK(ErrorOf([&] { return group.Do(1, [] { return 2; }, {.timeout = 1ms}); }) ==
          std::errc::timed_out);
  }
  CHECK(leader.Finish().value == 1);
  CHECK(group.GetStats().refused == 0);
}

TEST_CASE("Promise 12: a caller that would begin a call beyond max_calls_in_flight is refused") {
  Group<int, int> group({.max_calls_in_flight = 2});
  const auto result = group.Do(1, [&] {
    return *group.Do(2, [&] {
      CHECK(ErrorOf([&] { return group.Do(3, [] { return 3; }); }) == kRefused);
      return 2;
    });
  });
  CHECK(*result == 2);
  CHECK(*group.Do(3, [] { return 3; }) == 3);
  CHECK(group.GetStats() == Stats{.executions = 3, .refused = 1});
}

TEST_CASE("Promise 12: a call that was forgotten still counts as in flight") {
  Group<int, int> group({.max_calls_in_flight = 1});
  const auto result = group.Do(1, [&] {
    group.Forget(1);
    CHECK(group.GetStats().in_flight == 1);
    CHECK(ErrorOf([&] { return group.Do(1, [] { return 3; }); }) == kRefused);
    return 1;
  });
  CHECK(*result == 1);
  CHECK(group.GetStats().in_flight == 0);
  CHECK(*group.Do(1, [] { return 3; }) == 3);
}

TEST_CASE("Promise 12: calls that fail make room again") {
  Group<int, int> group({.max_calls_in_flight = 1});
  for (int i = 0; i < 3; ++i) {
    CHECK_THROWS_AS(static_cast<void>(group.Do(1, []() -> int { throw std::logic_error("no"); })),
                    std::logic_error);
  }
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 3});
}

TEST_CASE("Promise 12: the limits hold for Join as well") {
  using NumberGroup = Group<int, int>;
  struct Silent final : NumberGroup::Waiter {
    void OnLanded() noexcept override {}
  };
  NumberGroup group({.max_callers_per_call = 1, .max_calls_in_flight = 1});
  Silent first;
  Silent second;
  std::optional<NumberGroup::Lead> lead;
  group.Join(1, first, [&](NumberGroup::Lead made) { lead = made; });
  const auto launch = [](NumberGroup::Lead) { FAIL("launch was called for a refused caller"); };
  CHECK(ErrorOf([&] { return group.Join(1, second, launch); }) == kRefused);
  CHECK(ErrorOf([&] { return group.Join(2, second, launch); }) == kRefused);
  CHECK_FALSE(group.Leave(second));  // it never joined
  lead->Succeed(1);
  CHECK(*first.TakeResult() == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .refused = 2});
}

TEST_CASE("Promise 12: a call older than max_age is forgotten by the next caller") {
  Group<int, int> group({.max_age = 1ns});
  HeldCall stuck(group, 1);
  const auto seen = std::chrono::steady_clock::now();  // the call began before this
  Await([&] { return std::chrono::steady_clock::now() - seen > 1ns; });
  CHECK(*group.Do(1, [] { return 2; }) == 2);
  CHECK(group.GetStats() == Stats{.executions = 2, .in_flight = 1});
  CHECK(stuck.Finish().value == 1);
}

TEST_CASE("Promise 12: a call younger than max_age is joined") {
  Group<int, int> group({.max_age = 1h});
  const auto outcomes = AskAtOnce(3, [&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 3);
      return 1;
    });
  });
  CHECK(outcomes[2].value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2});
}

TEST_CASE("Promise 12: a caller beyond max_callers, over all keys, is refused and runs nothing") {
  IntGroup group({.max_callers = 3});
  HeldCall first(group, "a");
  HeldCall second(group, "b");
  const auto must_not_run = []() -> int {
    throw std::logic_error("a refused caller runs nothing");
  };
  {
    Caller follower([&] { return group.Do("a", must_not_run); });
    AwaitCallers(group, "a", 2);
    CHECK(ErrorOf([&] { return group.Do("a", must_not_run); }) == kRefused);
    CHECK(ErrorOf([&] { return group.Do("c", must_not_run); }) == kRefused);
    first.Finish();
    CHECK(follower.Join().value == 1);
  }
  CHECK(*group.Do("c", [] { return 3; }) == 3);  // both callers of "a" made room
  CHECK(group.GetStats().refused == 2);
}

TEST_CASE("Promise 12: whoever leaves or fails makes room under max_callers, exactly once") {
  IntGroup group({.max_callers = 2});
  {
    HeldCall held(group, "a");
    CHECK(ErrorOf([&] { return group.Do("a", [] { return 0; }, {.timeout = 1ms}); }) ==
          std::errc::timed_out);
    CHECK(*group.Do("b", [] { return 2; }) == 2);
    CHECK_THROWS_AS(group.Do("b", []() -> int { throw std::runtime_error("down"); }),
                    std::runtime_error);
    HeldCall other(group, "b");
    CHECK(ErrorOf([&] { return group.Do("b", [] { return 0; }, {.timeout = 1ms}); }) == kRefused);
  }
  StopSource stop;
  std::latch finish(1);
  Caller left([&] {
    return group.Do("a",
                    [&] {
                      finish.wait();
                      return 1;
                    },
                    {.stop = stop.get_token()});
  });
  AwaitCallers(group, "a", 1);
  stop.request_stop();  // it no longer counts, although it has not returned
  HeldCall first(group, "b");
  HeldCall second(group, "c");
  CHECK(ErrorOf([&] { return group.Do("d", [] { return 0; }); }) == kRefused);
  finish.count_down();
  CHECK(left.Join().value == 1);
  CHECK(ErrorOf([&] { return group.Do("d", [] { return 0; }); }) == kRefused);
}

TEST_CASE("Promise 12: a call that max_callers refuses does not count as in flight") {
  IntGroup group({.max_callers = 2, .max_calls_in_flight = 2});
  {
    HeldCall held(group, "a");
    Caller follower([&] { return group.Do("a", [] { return 0; }); });
    AwaitCallers(group, "a", 2);
    CHECK(ErrorOf([&] { return group.Do("b", [] { return 0; }); }) == kRefused);
    held.Finish();
    CHECK(follower.Join().value == 1);
  }
  HeldCall first(group, "a");
  CHECK(*group.Do("b", [] { return 2; }) == 2);
}

TEST_CASE("Promise 12: max_callers counts waiters and futures, and those who ask again") {
  IntGroup group({.max_callers = 3});
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter;
  std::optional<IntGroup::Lead> lead;
  const auto launch = [&](IntGroup::Lead made) { lead = std::move(made); };
  group.Join("a", waiter, launch);
  auto future = group.Join("a", launch);
  Caller follower([&] {
    return group.Do("a", [] { return 4; }, {.on_failure = singleflight::OnFailure::kRetry});
  });
  AwaitCallers(group, "a", 3);
  CHECK(ErrorOf([&] { return group.Do("b", [] { return 0; }); }) == kRefused);
  lead->Fail(nullptr);
  CHECK(follower.Join().value == 4);
  HeldCall first(group, "a");
  HeldCall second(group, "b");
  HeldCall third(group, "c");
  CHECK(ErrorOf([&] { return group.Do("d", [] { return 0; }); }) == kRefused);
}

TEST_CASE("Promise 12: callers that race for the last places under max_callers never exceed it") {
  constexpr std::size_t kLimit = 3;
  singleflight::Group<int, int> group({.max_callers = kLimit});
  std::atomic<std::size_t> inside = 0;
  std::atomic<bool> exceeded = false;
  std::vector<JoiningThread> threads;
  for (int t = 0; t < 6; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 500; ++i) {
        try {
          static_cast<void>(group.Do(t, [&] {
            if (++inside > kLimit) exceeded = true;
            std::this_thread::yield();
            --inside;
            return 1;
          }));
        } catch (const std::system_error&) {
        }
      }
    });
  }
  threads.clear();
  CHECK_FALSE(exceeded);
  std::vector<std::unique_ptr<HeldCall<singleflight::Group<int, int>, int>>> held;
  for (int key = 0; key < static_cast<int>(kLimit); ++key) {
    held.push_back(std::make_unique<HeldCall<singleflight::Group<int, int>, int>>(group, key));
  }
  CHECK(ErrorOf([&] { return group.Do(9, [] { return 0; }); }) == kRefused);
}

TEST_CASE("The constructor refuses limits under which nothing would be served or shared") {
  CHECK_THROWS_AS(IntGroup({.max_callers_per_call = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_callers = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_calls_in_flight = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_age = 0ns}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_age = -1s}), std::invalid_argument);
  CHECK_NOTHROW(IntGroup(
      {.max_callers_per_call = 1, .max_callers = 1, .max_calls_in_flight = 1, .max_age = 1ns}));
}

TEST_CASE("Promise 12: a caller refused by one limit does not forget a call that is too old") {
  Group<int, int> group({.max_calls_in_flight = 1, .max_age = 1ns});
  HeldCall old(group, 1);
  const auto seen = std::chrono::steady_clock::now();
  Await([&] { return std::chrono::steady_clock::now() - seen > 1ns; });
  CHECK(ErrorOf([&] { return group.Do(1, [] { return 2; }); }) == kRefused);
  CHECK(group.Callers(1) == 1);
  CHECK(old.Finish().value == 1);
}

TEST_CASE(
    "Promise 12: a caller that would wait for itself gets a deadlock error even on a full call") {
  Group<int, int> group({.max_callers_per_call = 1});
  std::optional<std::errc> error;
  static_cast<void>(group.Do(1, [&] {
    error = ErrorOf([&] { return group.Do(1, [] { return -1; }); });
    return 1;
  }));
  CHECK(error == std::errc::resource_deadlock_would_occur);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

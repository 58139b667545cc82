// SPDX-License-Identifier: MIT

// Promise 12 (bounded damage): the limits of GroupOptions refuse callers and forget old calls.

#include <latch>
#include <stdexcept>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::GroupOptions;
using singleflight::Stats;

namespace {

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
  using IntGroup = Group<int, int>;
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  };
  IntGroup group({.max_callers_per_call = 1, .max_calls_in_flight = 1});
  Silent first;
  Silent second;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, first, [&](IntGroup::Lead made) { lead = made; });
  const auto launch = [](IntGroup::Lead) { FAIL("launch was called for a refused caller"); };
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

TEST_CASE("The constructor refuses limits under which nothing would be served or shared") {
  using IntGroup = Group<int, int>;
  CHECK_THROWS_AS(IntGroup({.max_callers_per_call = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_calls_in_flight = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_age = 0ns}), std::invalid_argument);
  CHECK_THROWS_AS(IntGroup({.max_age = -1s}), std::invalid_argument);
  CHECK_NOTHROW(IntGroup({.max_callers_per_call = 1, .max_calls_in_flight = 1, .max_age = 1ns}));
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

// SPDX-License-Identifier: MIT

// OnFailure::kRetry: a follower whose leader failed asks again.

#include <atomic>
#include <latch>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {

int Fail() { throw std::runtime_error("down"); }

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

TEST_CASE("kRetry: when every function fails, each caller gets a failure of its own") {
  constexpr std::size_t kCallers = 4;
  Group<int, int> group;
  std::atomic<int> runs = 0;
  const auto outcomes = AskAtOnce(kCallers, [&] {
    return group.Do(1,
                    [&]() -> int {
                      // All callers are on the first run, and each later one lacks one more leader.
                      const int run = ++runs;
                      AwaitCallers(group, 1, kCallers + 1 - static_cast<std::size_t>(run));
                      throw std::runtime_error("run " + std::to_string(run));
                    },
                    {.on_failure = OnFailure::kRetry});
  });
  std::vector<std::string> messages;
  for (const auto& outcome : outcomes) messages.push_back(outcome.message);
  std::sort(messages.begin(), messages.end());
  CHECK(messages == std::vector<std::string>{"run 1", "run 2", "run 3", "run 4"});
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
  constexpr auto kTimeout = 100ms;
  // It is notified before the follower, and delays it until its timeout has passed.
  struct Delays final : Group<int, int>::Waiter {
    void OnLanded() noexcept override {
      Await([this] { return Clock::now() > until; });
    }
    Clock::time_point until;
  } waiter;
  Group<int, int> group;
  std::latch fail(1);
  std::atomic<bool> finish = false;
  Caller first([&] {
    return group.Do(1, [&]() -> int {
      fail.wait();
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  group.Join(1, waiter, [](Group<int, int>::Lead) {});
  Caller follower([&] {
    return group.Do(1, [] { return 5; }, {.timeout = kTimeout, .on_failure = OnFailure::kRetry});
  });
  Await([&] { return group.GetStats().followers == 2; });  // the follower may have left by now
  waiter.until = Clock::now() + kTimeout;
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
  Group<int, int> group;
  std::stop_source stop;
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 3);
      return Fail();
    });
  });
  AwaitCallers(group, 1, 1);
  // Stops the follower while callers are notified of the failure, when it is too late to leave.
  struct Stops final : Group<int, int>::Waiter {
    explicit Stops(std::stop_source& its_stop) : stop(its_stop) {}
    void OnLanded() noexcept override { stop.request_stop(); }
    std::stop_source& stop;
  } waiter(stop);
  group.Join(1, waiter, [](Group<int, int>::Lead) {});
  bool ran = false;
  const auto ask = [&] {
    return group.Do(1, [&] { return ran = true; },
                    {.stop = stop.get_token(), .on_failure = OnFailure::kRetry});
  };
  CHECK(ErrorOf(ask) == std::errc::operation_canceled);
  CHECK_FALSE(ran);
  CHECK(leader.Join().message == "down");
}

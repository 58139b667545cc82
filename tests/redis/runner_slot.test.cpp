// SPDX-License-Identifier: MIT

// Tests which of a call's callers is given its work: the slot at which they offer themselves.

#include <atomic>
#include <latch>
#include <memory>
#include <singleflight/detail/redis/runner_slot.hpp>
#include <vector>

#include "support/catch.hpp"
#include "support/threads.hpp"

using singleflight::redis::detail::Grant;
using singleflight::redis::detail::Runner;
using singleflight::redis::detail::RunnerSlot;
using test::JoiningThread;

namespace {

struct TestGrant : Grant {};

class TestRunner final : public Runner {
 public:
  explicit TestRunner(int* alive = nullptr) : alive_(alive) {}
  ~TestRunner() override {
    if (alive_ != nullptr) --*alive_;
  }
  void OnFollows() noexcept override { ++times_told; }

  int times_told = 0;

 private:
  int* alive_;
};

}  // namespace

TEST_CASE("RunnerSlot: the first runner that is still there is taken, and the others can go") {
  RunnerSlot slot;
  TestGrant grant;
  TestRunner left, first, second;
  for (TestRunner* each : {&left, &first, &second}) CHECK(slot.Offer(*each) == nullptr);
  CHECK(slot.Withdraw(left));
  CHECK(slot.TakeFirst(grant).runner == &first);
  CHECK_FALSE(slot.Withdraw(first));
  CHECK(slot.Close() == nullptr);
  CHECK(slot.Withdraw(second));
  CHECK_FALSE(slot.Withdraw(first));
}

TEST_CASE("RunnerSlot: a grant waits for the first runner that is offered, unless it is canceled") {
  RunnerSlot slot;
  TestGrant grant;
  CHECK(slot.TakeFirst(grant).runner == nullptr);
  SECTION("offered") {
    TestRunner runner, other;
    CHECK(slot.Offer(runner) == &grant);
    CHECK_FALSE(slot.Withdraw(runner));
    CHECK(slot.Offer(other) == nullptr);
    CHECK(slot.Withdraw(other));
    CHECK_FALSE(slot.StopWaiting());
  }
  SECTION("canceled") {
    CHECK(slot.StopWaiting());
    CHECK_FALSE(slot.StopWaiting());
    TestRunner runner;
    CHECK(slot.Offer(runner) == nullptr);
    CHECK(slot.Withdraw(runner));
  }
}

TEST_CASE("RunnerSlot: runners hear that another one leads, also those that come later") {
  RunnerSlot slot;
  TestRunner before, after, taken, too_late;
  slot.Offer(taken);
  slot.Offer(before);
  slot.NotifyFollows();
  CHECK(before.times_told == 1);
  slot.Offer(after);
  CHECK(after.times_told == 1);
  TestGrant grant;
  CHECK(slot.TakeFirst(grant).runner == &taken);
  slot.Close();
  CHECK(before.times_told > 0);
  CHECK(after.times_told > 0);
  CHECK(slot.Offer(too_late) == nullptr);
  CHECK(too_late.times_told == 1);
  CHECK(slot.Withdraw(too_late));
}

TEST_CASE("RunnerSlot: runners hear it, too, if one of their own process leads") {
  RunnerSlot slot;
  TestRunner taken, other;
  slot.Offer(taken);
  slot.Offer(other);
  TestGrant grant;
  CHECK(slot.TakeFirst(grant).runner == &taken);
  slot.Close();
  CHECK(taken.times_told == 0);
  CHECK(other.times_told == 1);
}

TEST_CASE("RunnerSlot: it keeps one runner of its own, and destroys it at the end") {
  int alive = 1;
  {
    RunnerSlot slot;
    CHECK(slot.NeedsOwned());
    std::unique_ptr<Runner> own = std::make_unique<TestRunner>(&alive);
    CHECK(slot.Offer(own) == nullptr);
    CHECK(own == nullptr);
    CHECK_FALSE(slot.NeedsOwned());
    std::unique_ptr<Runner> another = std::make_unique<TestRunner>();
    CHECK(slot.Offer(another) == nullptr);
    CHECK(another != nullptr);
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
}

TEST_CASE("RunnerSlot: its own runner is the taker's, and a closed slot keeps none") {
  int alive = 1;
  RunnerSlot slot;
  std::unique_ptr<Runner> own = std::make_unique<TestRunner>(&alive);
  const Runner* const kept = own.get();
  CHECK(slot.Offer(own) == nullptr);
  TestGrant grant;
  {
    const RunnerSlot::Taken taken = slot.TakeFirst(grant);
    CHECK(taken.runner == kept);
    CHECK(taken.owned.get() == kept);
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
  CHECK(slot.Close() == nullptr);
  CHECK_FALSE(slot.NeedsOwned());
}

TEST_CASE("RunnerSlot: once it is closed it keeps nobody and releases those it had") {
  int alive = 1;
  TestRunner stack, late;
  RunnerSlot slot;
  std::unique_ptr<Runner> own = std::make_unique<TestRunner>(&alive);
  const Runner* const kept = own.get();
  CHECK(slot.Offer(stack) == nullptr);
  CHECK(slot.Offer(own) == nullptr);
  own = slot.Close();
  CHECK(own.get() == kept);
  CHECK(slot.Offer(late) == nullptr);
  CHECK(slot.Offer(own) == nullptr);
  CHECK(own.get() == kept);
  CHECK_FALSE(slot.NeedsOwned());
  CHECK(slot.Withdraw(stack));
  CHECK(slot.Withdraw(late));
  CHECK(alive == 1);
}

TEST_CASE("RunnerSlot: a runner that is offered to another slot can be withdrawn again") {
  TestRunner runner;
  TestGrant grant;
  RunnerSlot first, second;
  CHECK(first.Offer(runner) == nullptr);
  CHECK(first.TakeFirst(grant).runner == &runner);
  CHECK(second.Offer(runner) == nullptr);
  CHECK(second.Withdraw(runner));
}

TEST_CASE("RunnerSlot: of threads that offer and withdraw, a grant goes to exactly one") {
  constexpr int kThreads = 4;
  for (int round = 0; round < 300; ++round) {
    RunnerSlot slot;
    TestGrant grant;
    std::atomic<int> granted = 0;
    std::latch ready(kThreads + 1);
    std::vector<JoiningThread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        TestRunner runner;
        ready.arrive_and_wait();
        const bool at_once = slot.Offer(runner) == &grant;
        const bool is_taken = !slot.Withdraw(runner);
        if (at_once || is_taken) ++granted;
      });
    }
    ready.arrive_and_wait();
    const bool taken = slot.TakeFirst(grant).runner != nullptr;
    threads.clear();
    const bool waits = slot.StopWaiting();
    REQUIRE(granted == (waits ? 0 : 1));
    REQUIRE_FALSE((taken && waits));
  }
}

// SPDX-License-Identifier: MIT

// Tests which of a call's callers is given its work: the slot at which they offer themselves.

#include <memory>
#include <singleflight/detail/redis/runner_slot.hpp>
#include <utility>

#include "support/catch.hpp"

using singleflight::redis::detail::Grant;
using singleflight::redis::detail::Runner;
using singleflight::redis::detail::RunnerSlot;

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
    TestRunner runner;
    CHECK(slot.Offer(runner) == &grant);
    CHECK_FALSE(slot.Withdraw(runner));
    CHECK_FALSE(slot.StopWaiting());
  }
  SECTION("canceled") {
    CHECK(slot.StopWaiting());
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
  slot.Offer(own);
  TestGrant grant;
  {
    const RunnerSlot::Taken taken = slot.TakeFirst(grant);
    CHECK(taken.runner == taken.owned.get());
    CHECK(alive == 1);
  }
  CHECK(alive == 0);
  CHECK(slot.Close() == nullptr);
  CHECK_FALSE(slot.NeedsOwned());
}

// SPDX-License-Identifier: MIT

// These tests interleave the followers of a failed call that ask again and share one second try.

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "callers.hpp"
#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::ExploreAll;
using interleave::ExplorePreemptions;
using interleave::ExploreRandom;
using interleave::NotifiedWaiter;
using interleave::Run;
using interleave::Scenario;
using interleave::tally;
using interleave::Untracked;
using interleave::World;
using singleflight::OnFailure;

namespace {

using Group = World::Group;
using Result = singleflight::KeyResult<interleave::Value>;

constexpr auto kInline = [](auto task) { task(); };

// A call that fails. Its first caller is a waiter, which asked before the threads start.
struct Failing {
  explicit Failing(Scenario& scenario)
      : waiter(std::make_shared<NotifiedWaiter>(*scenario)), full(std::make_shared<bool>(false)) {
    scenario->group->Join(1, *waiter, [this](Group::Lead its_lead) { lead = its_lead; });
  }
  // Lands the call, and notes in `full` whether it had `callers` then. If so, all of them are
  // followers who can share one second try.
  auto Landing(std::size_t callers) {
    return [its_lead = std::move(lead), its_full = full, callers](World& world) mutable {
      const auto count = [&] {
        const bool has_all = world.group->Callers(1) == callers;
        const Untracked unseen;
        *its_full = has_all;
      };
      its_lead->Run(world.Fn(1, count, /*fails=*/true));
      its_lead.reset();
    };
  }
  std::shared_ptr<NotifiedWaiter> waiter;
  std::shared_ptr<bool> full;
  std::optional<Group::Lead> lead;
};

// A caller who asks again on the thread that landed the first call, or says that it will not.
class RetryingWaiter final : public Group::Waiter {
 public:
  explicit RetryingWaiter(World& world, bool gives_up = false)
      : world_(world), group_(*world.group), id_(world.StartCaller(1)), gives_up_(gives_up) {
    group_.Join(1, *this, Leading(), OnFailure::kRetry);
  }

 private:
  std::function<void(Group::Lead)> Leading() {
    return [this](Group::Lead lead) { lead.Run(world_.Fn(1)); };
  }
  void OnLanded() noexcept override {
    if (this->AsksAgain() && !gives_up_) {
      group_.JoinAgain(1, *this, Leading());
      return;
    }
    group_.GiveUp(*this);
    world_.Finish(id_, World::OutcomeOf([this] { return this->TakeResult(); }));
  }

  World& world_;
  Group& group_;
  const std::size_t id_;
  const bool gives_up_;
};

void Retry(World& world) {
  const auto outcome = world.Do(1, {.on_failure = OnFailure::kRetry});
  World::Expect(!outcome.failed, "a caller that retried got the failure of its first call");
}

std::size_t Executions(World& world) { return world.group->GetStats().executions; }

}  // namespace

TEST_CASE(
    "Interleavings: a crowd whose leader failed shares one second try, however late each is") {
  std::size_t crowds = 0;
  const auto scenario_of = [&crowds](int others) {
    return [&crowds, others](Run& run) {
      Scenario scenario(run);
      Failing failing(scenario);
      const auto callers = static_cast<std::size_t>(1 + others);
      scenario.Thread(failing.Landing(callers));
      for (int i = 0; i < others; ++i) scenario.Thread(Retry);
      scenario.Finally([waiter = failing.waiter] { waiter->Take(); });
      scenario.AtEnd([&crowds, full = failing.full](World& world) {
        if (!*full) return;
        ++crowds;
        World::Expect(Executions(world) == 2, "a crowd has more than one second try");
      });
    };
  };
  ExplorePreemptions("second_try", 2, scenario_of(2));
  CHECK(crowds > 0);
  CHECK(tally.shared > 0);
  ExploreRandom("second_try_of_three", 3000, scenario_of(3));
}

TEST_CASE("Interleavings: a second try is shared by callers who block and those who do not") {
  std::size_t crowds = 0;
  const auto scenario_of = [&crowds](bool gives_up) {
    return [&crowds, gives_up](Run& run) {
      Scenario scenario(run);
      scenario->drops = gives_up;
      Failing failing(scenario);
      const auto first = std::make_shared<RetryingWaiter>(*scenario);
      const auto second = std::make_shared<RetryingWaiter>(*scenario, gives_up);
      scenario.Thread(failing.Landing(4));
      scenario.Thread(Retry);
      scenario.Finally([first, second, leader = failing.waiter] { leader->Take(); });
      scenario.AtEnd([&crowds, full = failing.full](World& world) {
        if (!*full) return;
        ++crowds;
        World::Expect(Executions(world) == 2, "a crowd has more than one second try");
      });
    };
  };
  ExploreAll("second_try_of_waiters", scenario_of(false));
  CHECK(crowds > 0);
  CHECK(tally.shared > 0);
  ExploreAll("second_try_without_waiter", scenario_of(true));
}

TEST_CASE("Interleavings: a caller who leaves before the second try is not waited for") {
  ExplorePreemptions("second_try_timeout", 2, [](Run& run) {
    Scenario scenario(run);
    scenario->drops = true;  // the caller that left is counted until it has left
    Failing failing(scenario);
    scenario.Thread(failing.Landing(3));
    scenario.Thread(Retry);
    scenario.Thread(
        [](World& world) { world.Do(1, {.timeout = 50ms, .on_failure = OnFailure::kRetry}); });
    scenario.Finally([waiter = failing.waiter] { waiter->Take(); });
  });
  CHECK(tally.timed_out > 0);
  CHECK(tally.shared > 0);
}

TEST_CASE("Interleavings: a newcomer joins the second try, or runs before or after it") {
  ExploreAll("second_try_newcomer", [](Run& run) {
    Scenario scenario(run);
    Failing failing(scenario);
    scenario.Thread(failing.Landing(2));
    scenario.Thread(Retry);
    scenario.Thread([](World& world) { world.Do(1); });
    scenario.Finally([waiter = failing.waiter] { waiter->Take(); });
  });
  CHECK(tally.shared > 0);
}

TEST_CASE("Interleavings: a Caller who asks again can leave at any time, and gets one outcome") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = scenario->drops = true;
      Failing failing(scenario);
      const auto caller = std::make_shared<singleflight::Caller>();
      const std::size_t id = scenario->StartCaller(1);
      World* const world = &*scenario;
      singleflight::DoThen(
          *caller, *scenario->group, 1, scenario->StoppableFn(1), kInline,
          [world, id](Result result) {
            world->Finish(id, World::OutcomeOf([&] { return std::move(result).result(); }));
          },
          OnFailure::kRetry);
      scenario.Thread(failing.Landing(2));
      scenario.Thread([caller, id](World& its_world) {
        if (caller->Leave()) its_world.Finish(id, {.error = std::errc::operation_canceled});
      });
      (scenario.Thread(others), ...);
      scenario.Finally([waiter = failing.waiter] { waiter->Take(); });
    };
  };
  ExploreAll("second_try_caller_leaves", scenario_of());
  CHECK(tally.canceled > 0);
  CHECK(tally.stopped > 0);
  ExplorePreemptions("second_try_caller_leaves_others", 2, scenario_of(Retry));
}

TEST_CASE("Interleavings: a Future that asks again can be dropped at any time") {
  ExplorePreemptions("second_try_future_dropped", 2, [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    Failing failing(scenario);
    using Future = singleflight::Future<interleave::Value>;
    const auto future = std::make_shared<Future>(singleflight::DoAsync(
        *scenario->group, 1, scenario->StoppableFn(1), kInline, OnFailure::kRetry));
    scenario.Thread(failing.Landing(2));
    scenario.Thread([future](World&) { *future = {}; });
    scenario.Thread(Retry);
    scenario.Finally([waiter = failing.waiter] { waiter->Take(); });
  });
}

TEST_CASE("Interleavings: a group can be destroyed while the followers of a failure ask again") {
  ExploreAll("second_try_group_ends", [](Run& run) {
    Scenario scenario(run);
    Failing failing(scenario);
    const auto waiter = std::make_shared<RetryingWaiter>(*scenario);
    scenario.Thread([lead = failing.lead](World& world) mutable {
      lead->Run(world.FailingFn(1));
      lead.reset();
    });
    failing.lead.reset();
    scenario.Thread([](World& world) { world.group.reset(); });
    scenario.Finally([waiter, leader = failing.waiter] { leader->Take(); });
  });
}

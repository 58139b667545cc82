// SPDX-License-Identifier: MIT

// These tests interleave Cancel with landing, joining and leaving, and Inspect with all that
// changes what it lists.

#include <functional>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <system_error>
#include <thread>
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

void DoOne(World& world) { world.Do(1); }
void CancelOne(World& world) { world.Cancel(1); }
void CheckThatOnlyCancelCancels(World& world) {
  World::Expect(world.cancelled > 0 || world.Count(std::errc::operation_canceled) == 0,
                "a caller was cancelled, but no call");
}

// A call that a waiter made before the threads start.
struct Cancelable {
  explicit Cancelable(Scenario& scenario) : waiter(std::make_shared<NotifiedWaiter>(*scenario)) {
    scenario->group->Join(1, *waiter, [this](Group::Lead its_lead) { lead = its_lead; });
  }
  auto Landing() const {
    return [lead = lead](World& world) mutable {
      world.Run(*lead, 1);
      lead.reset();
    };
  }
  std::shared_ptr<NotifiedWaiter> waiter;
  std::optional<Group::Lead> lead;
};

// A caller that is destroyed when it is notified, with what launches its call.
class SelfDestroying final : public Group::Waiter {
 public:
  // Joins, and does the work if it leads: in its launch, or after Join has returned.
  static void Join(World& world, bool runs_in_launch) {
    auto* const self = new SelfDestroying(world);
    std::optional<Group::Lead> kept;
    world.group->Join(1, *self, [&](Group::Lead lead) {
      ++self->uses_;
      if (runs_in_launch) {
        world.Run(lead, 1);  // from here on it may be gone
      } else {
        kept = lead;
        ++self->uses_;
      }
    });
    if (kept) world.Run(*kept, 1);
  }

 private:
  explicit SelfDestroying(World& world) : world_(world), id_(world.StartCaller(1)) {}

  void OnLanded() noexcept override {
    world_.Finish(id_, World::OutcomeOf([this] { return this->TakeResult(); }));
    delete this;
  }

  World& world_;
  const std::size_t id_;
  int uses_ = 0;
};

}  // namespace

TEST_CASE("Interleavings: a leader in Do is cancelled or lands, and its followers with it") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario.AtEnd(CheckThatOnlyCancelCancels);
      scenario.Thread(DoOne);
      scenario.Thread(CancelOne);
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("cancel_against_a_leader", scenario_of());
  CHECK(tally.canceled > 0);
  ExplorePreemptions("cancel_against_callers", 3, scenario_of(DoOne));
  CHECK(tally.canceled > 0);
  CHECK(tally.shared > 0);
  ExploreRandom("cancel_against_many_callers", 3000, scenario_of(DoOne, DoOne));
}

TEST_CASE("Interleavings: a call that is led elsewhere is cancelled or lands, but not both") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario.AtEnd(CheckThatOnlyCancelCancels);
      Cancelable call(scenario);
      scenario.Thread(call.Landing());
      scenario.Thread(CancelOne);
      scenario.Finally([waiter = call.waiter] { waiter->Take(); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("cancel_against_landing", scenario_of());
  CHECK(tally.canceled > 0);
  ExplorePreemptions("cancel_against_joining", 2, scenario_of([](World& world) {
                       NotifiedWaiter waiter(world);
                       world.group->Join(1, waiter, [&](Group::Lead lead) { world.Run(lead, 1); });
                       waiter.Take();
                     }));
  CHECK(tally.canceled > 0);
  ExplorePreemptions("cancel_against_cancel", 2, scenario_of(CancelOne));
  ExploreRandom("cancel_against_blocked_callers", 3000, scenario_of(DoOne, DoOne));
}

TEST_CASE("Interleavings: Cancel notifies nobody while a call is being launched") {
  const auto scenario_of = [](bool runs_in_launch, auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario.AtEnd(CheckThatOnlyCancelCancels);
      scenario.Thread([=](World& world) { SelfDestroying::Join(world, runs_in_launch); });
      scenario.Thread(CancelOne);
      (scenario.Thread(others), ...);
    };
  };
  for (const bool runs_in_launch : {false, true}) {
    const std::string name = runs_in_launch ? "_that_runs" : "";
    ExploreAll("cancel_against_launch" + name, scenario_of(runs_in_launch));
    CHECK(tally.canceled > 0);
    ExplorePreemptions("cancel_against_launch_and_a_follower" + name, 2,
                       scenario_of(runs_in_launch, DoOne));
    CHECK(tally.canceled > 0);
  }
}

TEST_CASE("Interleavings: a waiter that leaves while its call is cancelled gets one outcome") {
  ExploreAll("cancel_against_leaving", [](Run& run) {
    Scenario scenario(run);
    scenario->drops = true;
    Cancelable call(scenario);
    scenario.Thread(call.Landing());
    scenario.Thread(CancelOne);
    scenario.Thread([waiter = call.waiter](World&) { waiter->LeaveOrTake(); });
  });
}

TEST_CASE("Interleavings: a caller that is stopped while its call is cancelled gets one outcome") {
  ExploreRandom("cancel_against_stop", 3000, [](Run& run) {
    Scenario scenario(run);
    scenario->drops = scenario->overlaps = true;
    auto stop = std::make_shared<std::stop_source>();
    scenario.Thread([stop](World& world) { world.Do(1, {.stop = stop->get_token()}); });
    scenario.Thread([stop](World& world) { world.Do(1, {.stop = stop->get_token()}); });
    scenario.Thread(CancelOne);
    scenario.Thread([stop](World&) { stop->request_stop(); });
    scenario->idle = true;
  });
}

TEST_CASE("Interleavings: a second try is cancelled or lands for all who share it") {
  ExploreRandom("cancel_against_retrying", 5000, [](Run& run) {
    Scenario scenario(run);
    scenario.Thread([](World& world) { world.DoFailing(1, {.on_failure = OnFailure::kRetry}); });
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([](World& world) { world.Do(1, {.on_failure = OnFailure::kRetry}); });
    }
    scenario.Thread(CancelOne);
  });
  CHECK(tally.canceled > 0);
}

TEST_CASE("Interleavings: Inspect lists what is in flight all the time once") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      Cancelable call(scenario);
      scenario.Thread([](World& world) {
        std::size_t times = 0;
        for (const auto& listed : world.group->Inspect()) times += listed.key == 1;
        World::Expect(times == 1, "Inspect does not list a call once");
      });
      (scenario.Thread(others), ...);
      scenario.Finally([call, world = &*scenario] {
        auto lead = call.lead;
        world->Run(*lead, 1);
        call.waiter->Take();
      });
    };
  };
  const auto forget = [](World& world) { world.group->Forget(1); };
  const auto other = [](World& world) { world.Do(2); };
  ExploreAll("inspect_against_forget", scenario_of(forget));
  ExplorePreemptions("inspect_against_others", 2, scenario_of(forget, other));
  ExplorePreemptions("inspect_against_cancel", 2, scenario_of(CancelOne, other));
}

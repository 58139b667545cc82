// SPDX-License-Identifier: MIT

// These tests interleave a Caller's leaving with joining, landing and its destruction.

#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "callers.hpp"
#include "support/catch.hpp"
#include "world.hpp"

using interleave::ExploreAll;
using interleave::ExploreRandom;
using interleave::NotifiedWaiter;
using interleave::Run;
using interleave::Scenario;
using interleave::tally;
using interleave::World;

namespace {

using Group = World::Group;
using Result = singleflight::KeyResult<interleave::Value>;

// A caller by DoThen, which notes its outcome.
class Called {
 public:
  explicit Called(World& world) : world_(world), id_(world.StartCaller(1)) {}

  // `executor` gets the task, if there is one.
  template <class Executor>
  void Ask(Executor executor) {
    singleflight::DoThen(caller_, *world_.group, 1, world_.StoppableFn(1), executor,
                         [&world = world_, id = id_](Result result) {
                           world.Finish(
                               id, World::OutcomeOf([&] { return std::move(result).result(); }));
                         });
  }
  // True at most once for each caller.
  bool Leave() { return caller_.Leave(); }
  void LeaveAndFinish() {
    if (Leave()) Canceled();
  }
  void Canceled() { world_.Finish(id_, {.error = std::errc::operation_canceled}); }

 private:
  World& world_;
  const std::size_t id_;
  singleflight::Caller caller_;
};

constexpr auto kInline = [](auto task) { task(); };

// A call that a waiter made before the threads start.
struct Pending {
  explicit Pending(Scenario& scenario) : waiter(std::make_shared<NotifiedWaiter>(*scenario)) {
    scenario->group->Join(1, *waiter, [this](Group::Lead its_lead) { lead = its_lead; });
    scenario.Finally([its_waiter = waiter] { its_waiter->Take(); });
  }
  auto Landing() const {
    return [its_lead = lead](World& world) mutable {
      its_lead->Run(world.StoppableFn(1));
      its_lead.reset();
    };
  }
  std::shared_ptr<NotifiedWaiter> waiter;
  std::optional<Group::Lead> lead;
};

std::shared_ptr<Called> MakeCalled(Scenario& scenario) {
  scenario->overlaps = scenario->drops = true;
  return std::make_shared<Called>(*scenario);
}

}  // namespace

TEST_CASE("Interleavings: a Caller that leaves while its call lands gets exactly one outcome") {
  ExploreAll("caller_leaves", [](Run& run) {
    Scenario scenario(run);
    const auto called = MakeCalled(scenario);
    std::function<void()> task;
    called->Ask([&task](auto its_task) { task = its_task; });
    scenario.Thread([task = std::exchange(task, nullptr)](World&) mutable {
      task();
      task = nullptr;
    });
    scenario.Thread([called](World&) { called->LeaveAndFinish(); });
  });
  CHECK(tally.canceled > 0);
  CHECK(tally.stopped > 0);
}

TEST_CASE("Interleavings: a Caller can leave while it leads a call inside DoThen") {
  ExploreAll("caller_leaves_while_leading", [](Run& run) {
    Scenario scenario(run);
    scenario->idle = true;  // it may have left before
    const auto called = MakeCalled(scenario);
    scenario.Thread([called](World&) { called->Ask(kInline); });
    scenario.Thread([called](World&) { called->LeaveAndFinish(); });
  });
  CHECK(tally.canceled > 0);
  CHECK(tally.stopped > 0);
}

TEST_CASE("Interleavings: a Caller can leave while it joins a call that lands") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      const auto called = MakeCalled(scenario);
      const Pending pending(scenario);
      scenario.Thread(pending.Landing());
      scenario.Thread([called](World&) { called->Ask(kInline); });
      scenario.Thread([called](World&) { called->LeaveAndFinish(); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("caller_leaves_while_joining", scenario_of());
  CHECK(tally.canceled > 0);
  CHECK(tally.shared > 0);
  ExploreRandom("caller_leaves_while_others_join", 3000,
                scenario_of([](World& world) { world.Do(1); }));
}

TEST_CASE("Interleavings: of several threads that make a Caller leave, none sees it half done") {
  ExploreAll("caller_leaves_twice", [](Run& run) {
    Scenario scenario(run);
    const auto called = MakeCalled(scenario);
    const Pending pending(scenario);
    called->Ask(kInline);
    const auto left = std::make_shared<std::array<bool, 2>>();
    scenario.Thread(pending.Landing());
    for (std::size_t i = 0; i < 2; ++i) {
      scenario.Thread([=](World&) {
        const bool mine = called->Leave();
        const interleave::Untracked unseen;
        (*left)[i] = mine;
      });
    }
    scenario.Finally([=] {
      World::Expect((*left)[0] == (*left)[1], "one thread was told that it left, and one was not");
      if ((*left)[0]) called->Canceled();
      pending.waiter->Take();
    });
  });
  CHECK(tally.canceled > 0);
}

TEST_CASE("Interleavings: once a Caller is destroyed, its callback neither runs nor exists") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = scenario->drops = true;
      const Pending pending(scenario);
      struct Target {
        int called = 0;
      };
      const auto caller = std::make_shared<std::optional<singleflight::Caller>>(std::in_place);
      const auto target = std::make_shared<std::unique_ptr<Target>>(std::make_unique<Target>());
      struct Touching {  // both the callback and its destructor touch the target
        ~Touching() {
          if (at != nullptr) ++at->called;
        }
        explicit Touching(Target* its_target) : at(its_target) {}
        Touching(Touching&& other) noexcept : at(std::exchange(other.at, nullptr)) {}
        void operator()(const Result&) const { ++at->called; }
        Target* at;
      };
      singleflight::DoThen(**caller, *scenario->group, 1, scenario->Fn(1), kInline,
                           Touching(target->get()));
      scenario.Thread(pending.Landing());
      scenario.Thread([=](World&) {
        caller->reset();
        World::Expect((*target)->called > 0, "the callback still exists");
        target->reset();  // from here on, any access to it is reported
      });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("caller_destroyed", scenario_of());
  ExploreRandom("caller_destroyed_and_caller", 3000,
                scenario_of([](World& world) { world.Do(1); }));
}

TEST_CASE("Interleavings: a callback may destroy its Caller while another thread lands its call") {
  ExploreAll("caller_destroyed_by_callback", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    const Pending pending(scenario);
    const auto caller = std::make_shared<std::optional<singleflight::Caller>>(std::in_place);
    const auto called = std::make_shared<int>(0);
    scenario.Thread(pending.Landing());
    scenario.Thread([=](World& world) {
      const auto id = world.StartCaller(1);
      singleflight::DoThen(
          **caller, *world.group, 1, world.Fn(1), kInline, [=, &world](Result result) {
            caller->reset();
            world.Finish(id, World::OutcomeOf([&] { return std::move(result).result(); }));
          });
    });
  });
  CHECK(tally.shared > 0);
}

// SPDX-License-Identifier: MIT

// Interleavings of callers that do not block, and of calls that are led by somebody else: waiters,
// futures, coroutines, batches.

#include <coroutine>
#include <mutex>
#include <stop_token>
#include <thread>

#include "callers.hpp"
#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::Ask;
using interleave::ExploreAll;
using interleave::ExploreRandom;
using interleave::Many;
using interleave::Run;
using interleave::Scenario;
using interleave::tally;
using interleave::Told;
using interleave::Unseen;
using interleave::World;

namespace {

using Group = World::Group;

void Do(World& world) { world.Do(1); }

// A call that was made before the threads begin, by a waiter, and that nobody has landed.
struct Pending {
  explicit Pending(Scenario& scenario) : waiter(std::make_shared<Told>(*scenario)) {
    scenario->group->Join(1, *waiter, [this](Group::Lead its_lead) { lead = its_lead; });
  }
  std::shared_ptr<Told> waiter;
  std::optional<Group::Lead> lead;
};

// Lands it by running fn.
auto Landing(const Pending& pending) {
  return [lead = pending.lead](World& world) mutable {
    lead->Run(world.StoppableFn(1));
    lead.reset();
  };
}

void ForgetThenDo(World& world) { world.ForgetThenDo(1); }

}  // namespace

TEST_CASE("Interleavings: a waiter leaves while its call lands") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = scenario->drops = true;
      Pending pending(scenario);
      scenario.Thread(Landing(pending));
      scenario.Thread([waiter = pending.waiter](World&) { waiter->LeaveOrTake(); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("leave_against_landing", scenario_of());
  CHECK(tally.canceled > 0);
  CHECK(tally.stopped > 0);
  ExploreAll("last_waiter_against_newcomer", scenario_of(Do));
  ExploreRandom("last_waiter_against_newcomers", 3000, scenario_of(Do, ForgetThenDo));
}

TEST_CASE("Interleavings: a waiter that ends is told before that or not at all") {
  ExploreAll("detach_against_landing", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    struct Gone final : Group::Waiter {
      void OnLanded() noexcept override { told.store(true); }
      std::atomic<bool> told = false;
    };
    auto waiter = std::make_shared<std::unique_ptr<Gone>>(std::make_unique<Gone>());
    std::optional<Group::Lead> lead;
    scenario->group->Join(1, **waiter, [&](Group::Lead its_lead) { lead = its_lead; });
    scenario.Thread([lead](World& world) mutable {
      lead->Run(world.Fn(1));
      lead.reset();
    });
    scenario.Thread([waiter](World&) {
      if (!(*waiter)->Detach()) {
        while (!(*waiter)->told.load()) std::this_thread::yield();
      }
      waiter->reset();  // and whoever touches it now is found
    });
    scenario.Thread(Do);
  });
}

TEST_CASE("Interleavings: of several that land one call, one does") {
  const auto scenario_of = [](auto land, std::size_t vanish) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->vanish = vanish;
      Pending pending(scenario);
      const auto landed = std::make_shared<int>(0);
      for (int i = 0; i < 2; ++i) {
        scenario.Thread([lead = pending.lead, land, landed](World& world) mutable {
          const bool mine = land(world, *lead);
          lead.reset();
          const Unseen unseen;
          *landed += mine;
        });
      }
      scenario.Thread(Do);
      scenario.Finally([waiter = pending.waiter] { waiter->Take(); });
      scenario.AtEnd([landed](World&) {
        World::Expect(*landed == 1, "a call was landed by none or by both");
      });
    };
  };
  const auto run_fn = [](World& world, Group::Lead& lead) { return lead.Run(world.Fn(1)); };
  const auto give_up = [](World&, Group::Lead& lead) { return lead.Fail(nullptr); };
  ExploreAll("run_twice", scenario_of(run_fn, 0));
  ExploreAll("landed_twice", scenario_of(give_up, 1));
}

TEST_CASE("Interleavings: the last Lead that goes lands its call, by whichever thread") {
  ExploreAll("lead_dropped", [](Run& run) {
    Scenario scenario(run);
    Pending pending(scenario);
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([lead = pending.lead](World&) mutable { lead.reset(); });
    }
    scenario.Thread([](World& world) {
      const auto outcome = world.Do(1);
      World::Expect(outcome.led || outcome.error == std::errc::owner_dead, "not owner_dead");
    });
    scenario->vanish = 1;
    scenario.Finally([waiter = pending.waiter] { waiter->Take(); });
  });
  CHECK(tally.owner_dead > 0);
}

namespace {

// A call whose task nobody has run yet, and the Future of its first caller.
struct Submitted {
  explicit Submitted(Scenario& scenario)
      : future(std::make_shared<Future>(singleflight::DoAsync(
            *scenario->group, 1, scenario->Fn(1), [this](auto its_task) { task = its_task; }))) {}

  using Future = singleflight::Future<interleave::Value>;
  std::function<void()> task;
  std::shared_ptr<Future> future;
};

auto Running(Submitted& submitted) {
  return [task = std::exchange(submitted.task, nullptr)](World&) mutable {
    task();
    task = nullptr;
  };
}

}  // namespace

TEST_CASE("Interleavings: a future is dropped while its call lands") {
  ExploreAll("future_dropped", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future](World&) { *future = {}; });
    scenario.Thread(Do);
  });
  CHECK(tally.overlapping > 0);  // where the one who drops it is the last to leave
}

TEST_CASE("Interleavings: a future and a caller that blocks are on one call") {
  ExploreAll("future_gets", [](Run& run) {
    Scenario scenario(run);
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future, id = scenario->StartCaller(1)](World& world) {
      world.Finish(id, World::OutcomeOf([&] { return future->Get(); }));
    });
    scenario.Thread(Do);
  });
}

TEST_CASE("Interleavings: a wait for a future beyond the clock's end is no timeout") {
  ExploreAll("future_waits_for_ever", [](Run& run) {
    Scenario scenario(run);
    scenario->drops = true;
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future](World&) {
      const auto status = future->WaitFor(std::chrono::nanoseconds::max());
      World::Expect(status == std::future_status::ready, "it timed out");
      *future = {};
    });
  });
}

TEST_CASE("Interleavings: copies of a SharedFuture are read while its call lands") {
  ExploreAll("shared_future", [](Run& run) {
    Scenario scenario(run);
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    singleflight::SharedFuture<interleave::Value> shared(std::move(*submitted.future));
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([shared](World&) mutable {
        World::Expect(shared.Get()->execution == 0, "not the value");
        shared = {};
      });
    }
    scenario->drops = true;
  });
}

TEST_CASE("Interleavings: a future outlives its group") {
  ExploreAll("future_outlives", [](Run& run) {
    Scenario scenario(run);
    scenario->drops = true;
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future](World& world) {
      world.group.reset();
      *future = {};
    });
  });
}

TEST_CASE("Interleavings: a group ends while a call that is led elsewhere lands") {
  const auto scenario_of = [](bool leaves) {
    return [leaves](Run& run) {
      Scenario scenario(run);
      Pending pending(scenario);
      scenario.Thread([lead = pending.lead, waiter = pending.waiter, leaves](World& world) mutable {
        if (leaves) waiter->LeaveOrTake();
        lead->Run(world.StoppableFn(1));
        lead.reset();
        if (!leaves) waiter->Take();
        waiter.reset();
      });
      scenario.Thread([](World& world) { world.group.reset(); });
    };
  };
  ExploreAll("group_ends", scenario_of(false));
  CHECK(tally.stopped > 0);
  ExploreAll("group_ends_unwanted", scenario_of(true));
}

namespace {

// Runs coroutines later, when it is asked to: what a loop of the user's does.
class Loop {
 public:
  void Post(std::coroutine_handle<> handle) {
    const std::lock_guard lock(mutex_);
    posted_ = handle;
  }
  // Resumes what has been posted.
  void Poll() {
    std::coroutine_handle<> handle;
    {
      const std::lock_guard lock(mutex_);
      handle = std::exchange(posted_, nullptr);
    }
    if (handle) handle.resume();
  }

 private:
  std::mutex mutex_;
  std::coroutine_handle<> posted_;
};

struct PostTo {
  Loop* loop;
  void operator()(std::coroutine_handle<> handle) const { loop->Post(handle); }
};

}  // namespace

TEST_CASE("Interleavings: a coroutine's frame is destroyed while its call lands") {
  const auto scenario_of = [](bool stops, auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = scenario->drops = true;
      const auto upstream = std::make_shared<test::Signal>();
      const auto loop = std::make_shared<Loop>();
      const auto resumed = std::make_shared<bool>(false);
      const std::stop_source stop;
      const auto routine =
          std::make_shared<test::Routine>(Ask(*scenario, *upstream, stop.get_token(),
                                              PostTo{loop.get()}, [resumed] { *resumed = true; }));
      scenario.Thread([upstream](World&) { upstream->Fire(); });
      scenario.Thread([=](World& world) {  // the loop's thread
        loop->Poll();
        if (*resumed) return;
        routine->Destroy();  // what is posted now is not resumed any more
        world.Finish(0, {.error = std::errc::operation_canceled});
      });
      if (stops) scenario.Thread([stop](World&) mutable { stop.request_stop(); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("frame_destroyed", scenario_of(false));
  CHECK(tally.canceled > 0);
  ExploreAll("frame_destroyed_3", scenario_of(false, Do));
  ExploreAll("frame_destroyed_stop", scenario_of(true));
}

TEST_CASE("Interleavings: a coroutine's stop races with landing") {
  const auto scenario_of = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = scenario->drops = true;
      const std::stop_source stop;
      const auto upstream = std::make_shared<test::Signal>();
      Ask<test::FireAndForget>(*scenario, *upstream, stop.get_token(), singleflight::ResumeInline(),
                               [] {});
      scenario.Thread([upstream](World&) { upstream->Fire(); });
      scenario.Thread([stop](World&) mutable { stop.request_stop(); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("coroutine_stop", scenario_of());
  CHECK(tally.canceled > 0);
  ExploreAll("coroutine_stop_3", scenario_of(Do));
}

TEST_CASE("Interleavings: a stop comes while a coroutine joins and suspends") {
  ExploreAll("coroutine_suspends", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    Pending pending(scenario);
    const std::stop_source stop;
    const auto routine = std::make_shared<test::Routine>();
    const auto unused = std::make_shared<test::Signal>();
    scenario.Thread([=](World& world) {
      *routine = Ask(world, *unused, stop.get_token(), singleflight::ResumeInline(), [] {});
    });
    scenario.Thread([stop](World&) mutable { stop.request_stop(); });
    scenario.Thread(Landing(pending));
    scenario.Finally([routine, unused, waiter = pending.waiter] {
      waiter->Take();
      // Where the pending call has landed before, the coroutine leads one of its own.
      if (unused->Awaited()) unused->Fire();
    });
  });
  CHECK(tally.canceled > 0);
  CHECK(tally.shared > 0);
}

TEST_CASE("Interleavings: a coroutine that is resumed destroys the one to be resumed next") {
  ExploreAll("destroys_the_next", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    const auto upstream = std::make_shared<test::Signal>();
    const auto next = std::make_shared<test::Routine>();
    World* const world = &*scenario;
    const auto ends_next = [next, world] {
      next->Destroy();
      world->Finish(1, {.error = std::errc::operation_canceled});
    };
    const singleflight::ResumeInline resume;
    Ask<test::FireAndForget>(*scenario, *upstream, {}, resume, ends_next);
    *next = Ask(*scenario, *upstream, {}, resume, [] {});
    scenario.Thread([upstream](World&) { upstream->Fire(); });
    scenario.Thread(Do);
  });
}

TEST_CASE("Interleavings: batches that overlap do not block each other") {
  const auto crossing = [](auto... others) {
    return [=](Run& run) {
      Scenario scenario(run);
      scenario->drops = true;  // a batch holds its results until it has all
      scenario.Thread([](World& world) { Many(world, {1, 2}); });
      scenario.Thread([](World& world) { Many(world, {2, 1}); });
      (scenario.Thread(others), ...);
    };
  };
  ExploreAll("batches", crossing());
  CHECK(tally.shared > 0);
  ExploreRandom("batches_and_callers", 3000, crossing(Do, [](World& world) { world.Do(2); }));
  ExploreAll("batch_against_caller", [](Run& run) {
    Scenario scenario(run);
    scenario.Thread([](World& world) { Many(world, {1}); });
    scenario.Thread(Do);
  });
}

// SPDX-License-Identifier: MIT

// These tests interleave callers that do not block (waiters, futures, coroutines, batches), and
// calls that another thread lands.

#include <coroutine>
#include <functional>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "callers.hpp"
#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::Ask;
using interleave::ExploreAll;
using interleave::ExploreRandom;
using interleave::InShards;
using interleave::Many;
using interleave::NotifiedWaiter;
using interleave::Run;
using interleave::Scenario;
using interleave::tally;
using interleave::Untracked;
using interleave::World;

namespace {

using Group = World::Group;

void Do(World& world) { world.Do(1); }

// A call that a waiter made before the threads start, and that has not landed.
struct Pending {
  explicit Pending(Scenario& scenario, int its_key = 1)
      : key(its_key), waiter(std::make_shared<NotifiedWaiter>(*scenario, key)) {
    scenario->group->Join(key, *waiter, [this](Group::Lead its_lead) { lead = its_lead; });
  }
  int key;
  std::shared_ptr<NotifiedWaiter> waiter;
  std::optional<Group::Lead> lead;
};

// Lands the call by running fn.
auto Landing(const Pending& pending) {
  return [key = pending.key, lead = pending.lead](World& world) mutable {
    lead->Run(world.StoppableFn(key));
    lead.reset();
  };
}

void ForgetThenDo(World& world) { world.ForgetThenDo(1); }

}  // namespace

TEST_CASE("Interleavings: when a waiter leaves while its call lands, it gets exactly one outcome") {
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

namespace {

// A call whose first caller is a waiter that detaches, and that has not landed.
struct Detaching {
  struct Gone final : Group::Waiter {
    void OnLanded() noexcept override { notified.store(true); }
    std::atomic<bool> notified = false;
  };

  explicit Detaching(Scenario& scenario) {
    scenario->group->Join(1, **waiter, [this](Group::Lead its_lead) { lead = its_lead; });
    scenario->overlaps = scenario->drops = true;
  }

  auto Landing() const {
    return [lead = lead](World& world) mutable {
      lead->Run(world.Fn(1));
      lead.reset();
    };
  }
  auto Detach() const {
    return [waiter = waiter](World&) {
      if (!(*waiter)->Detach()) {
        while (!(*waiter)->notified.load()) std::this_thread::yield();
      }
      waiter->reset();  // from here on, any access to it is reported
    };
  }

  std::shared_ptr<std::unique_ptr<Gone>> waiter =
      std::make_shared<std::unique_ptr<Gone>>(std::make_unique<Gone>());
  std::optional<Group::Lead> lead;
};

}  // namespace

TEST_CASE("Interleavings: a waiter is notified before it is destroyed, or not at all") {
  ExploreAll("detach_against_landing", [](Run& run) {
    Scenario scenario(run);
    const Detaching detaching(scenario);
    scenario.Thread(detaching.Landing());
    scenario.Thread(detaching.Detach());
    scenario.Thread(Do);
  });
}

TEST_CASE("Interleavings: a waiter can detach while others of its call wait to be notified") {
  // Its thread has not seen that the other one joined, except by seeing that the call has landed.
  ExploreAll("detach_beside_a_waiter", [](Run& run) {
    Scenario scenario(run);
    const Detaching detaching(scenario);
    scenario.Thread(detaching.Landing());
    scenario.Thread(detaching.Detach());
    scenario.Thread([](World& world) {
      NotifiedWaiter waiter(world);
      world.group->Join(1, waiter, [&](Group::Lead lead) { lead.Run(world.Fn(1)); });
      waiter.Take();
    });
  });
}

TEST_CASE("Interleavings: when two threads land one call, exactly one of them succeeds") {
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
          const Untracked unseen;
          *landed += mine;
        });
      }
      scenario.Thread(Do);
      scenario.Finally([waiter = pending.waiter] { waiter->Take(); });
      scenario.AtEnd([landed](World&) {
        World::Expect(*landed == 1, "neither or both of the threads landed the call");
      });
    };
  };
  const auto run_fn = [](World& world, Group::Lead& lead) { return lead.Run(world.Fn(1)); };
  const auto give_up = [](World&, Group::Lead& lead) { return lead.Fail(nullptr); };
  ExploreAll("run_twice", scenario_of(run_fn, 0));
  ExploreAll("landed_twice", scenario_of(give_up, 1));
}

TEST_CASE(
    "Interleavings: the last Lead to be destroyed lands its call, whichever thread destroys it") {
  ExploreAll("lead_dropped", [](Run& run) {
    Scenario scenario(run);
    Pending pending(scenario);
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([lead = pending.lead](World&) mutable { lead.reset(); });
    }
    scenario.Thread([](World& world) {
      const auto outcome = world.Do(1);
      World::Expect(outcome.led || outcome.error == std::errc::owner_dead,
                    "a follower did not get owner_dead");
    });
    scenario->vanish = 1;
    scenario.Finally([waiter = pending.waiter] { waiter->Take(); });
  });
  CHECK(tally.owner_dead > 0);
}

namespace {

// A call whose task has not run yet, and the Future of its first caller.
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

TEST_CASE("Interleavings: a future can be dropped while its call lands") {
  ExploreAll("future_dropped", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future](World&) { *future = {}; });
    scenario.Thread(Do);
  });
  CHECK(tally.overlapping == 0);  // work that takes no token stays joinable (promise 11)
}

TEST_CASE("Interleavings: a future and a blocking caller can share one call") {
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

TEST_CASE("Interleavings: a wait for a future beyond the clock's range never times out") {
  ExploreAll("future_waits_for_ever", [](Run& run) {
    Scenario scenario(run);
    scenario->drops = true;
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    scenario.Thread([future = submitted.future](World&) {
      const auto status = future->WaitFor(std::chrono::nanoseconds::max());
      World::Expect(status == std::future_status::ready, "the wait timed out");
      *future = {};
    });
  });
}

TEST_CASE("Interleavings: copies of a SharedFuture can be read while its call lands") {
  ExploreAll("shared_future", [](Run& run) {
    Scenario scenario(run);
    Submitted submitted(scenario);
    scenario.Thread(Running(submitted));
    singleflight::SharedFuture<interleave::Value> shared(std::move(*submitted.future));
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([shared](World&) mutable {
        World::Expect(shared.Get()->execution == 0, "the future has the wrong value");
        shared = {};
      });
    }
    scenario->drops = true;
  });
}

TEST_CASE("Interleavings: a future that outlives its group can be destroyed safely") {
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

TEST_CASE("Interleavings: a group can be destroyed while another thread lands its call") {
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

TEST_CASE("Interleavings: a group can be destroyed while calls in several shards land") {
  // One call lands at any time. The other one, in either shard, lands only if it is asked to stop.
  const auto scenario_of = [](int waits) {
    return [waits](Run& run) {
      Scenario scenario(run, {}, 2);
      Pending lands(scenario, 3 - waits);
      Pending stops(scenario, waits);
      scenario.Thread(Landing(lands));
      scenario.Thread([waits, lead = stops.lead](World& world) mutable {
        lead->Run([&](std::stop_token stop) {
          while (!stop.stop_requested()) std::this_thread::yield();
          return world.Fn(waits)();
        });
        lead.reset();
      });
      scenario.Thread([](World& world) { world.group.reset(); });
      scenario.Finally([lands = lands.waiter, stops = stops.waiter] {
        lands->Take();
        stops->Take();
      });
    };
  };
  for (const int waits : {1, 2}) {
    ExploreAll("group_ends_in_2_shards_" + std::to_string(waits), scenario_of(waits));
    CHECK(tally.stopped > 0);
  }
}

TEST_CASE("Interleavings: a group's destructor also waits for calls that its calls begin") {
  // The second call lands only if it is asked to stop, too.
  const auto scenario_of = [](int first, int second) {
    return [=](Run& run) {
      Scenario scenario(run, {}, 2);
      Pending pending(scenario, first);
      const auto waiter = std::make_shared<NotifiedWaiter>(*scenario, second);
      scenario.Thread([=, group = scenario->group.get()](World& world) mutable {
        std::unique_ptr<Group::Lead> lead;
        pending.lead->Run([&] {
          const auto value = world.Fn(first)();
          group->Join(second, *waiter, [&](const Group::Lead& its_lead) {
            lead = std::make_unique<Group::Lead>(its_lead);
          });
          return value;
        });
        pending.lead.reset();
        lead->Run([&](std::stop_token stop) {
          while (!stop.stop_requested()) std::this_thread::yield();
          return world.Fn(second)();
        });
      });
      scenario.Thread([](World& world) { world.group.reset(); });
      scenario.Finally([pending = pending.waiter, waiter] {
        pending->Take();
        waiter->Take();
      });
    };
  };
  ExploreAll("group_ends_begins_in_same_shard", scenario_of(1, 3));
  ExploreAll("group_ends_begins_in_later_shard", scenario_of(2, 1));
  ExploreAll("group_ends_begins_in_earlier_shard", scenario_of(1, 2));
}

namespace {

// Stands for a user's event loop: it resumes posted coroutines later, in Poll.
class Loop {
 public:
  void Post(std::coroutine_handle<> handle) {
    const std::lock_guard lock(mutex_);
    posted_ = handle;
  }
  // Resumes the coroutine that was posted, if any.
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

TEST_CASE(
    "Interleavings: when a coroutine's frame is destroyed while its call lands, nothing touches it "
    "afterwards") {
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
        routine->Destroy();  // a handle that is posted after Poll is never resumed
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

TEST_CASE(
    "Interleavings: when a coroutine's stop races with landing, the coroutine gets exactly one "
    "outcome") {
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

TEST_CASE("Interleavings: a coroutine can be stopped while it joins and suspends") {
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
      // If the pending call has already landed, the coroutine leads a call of its own.
      if (unused->Awaited()) unused->Fire();
    });
  });
  CHECK(tally.canceled > 0);
  CHECK(tally.shared > 0);
}

namespace {

// A caller in a coroutine, whose function waits in `task` until it is called.
test::FireAndForget AskQueued(World& world, std::function<void()>& task, std::stop_token stop) {
  const std::size_t id = world.StartCaller(1);
  World::Outcome outcome;
  const auto fn = [&world]() -> test::Task<interleave::Value> { co_return world.Fn(1)(); };
  const auto queue = [&task](auto its_task) { task = its_task; };
  try {
    const auto result = co_await singleflight::CoDo(*world.group, 1, fn, queue, stop);
    outcome = World::OutcomeOf([&] { return result; });
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  }
  world.Finish(id, outcome);
}

}  // namespace

TEST_CASE(
    "Interleavings: a coroutine's queued task is started once, while the coroutine may leave") {
  ExploreAll("coroutine_queued", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = scenario->drops = true;
    const std::stop_source stop;
    std::function<void()> task;
    AskQueued(*scenario, task, stop.get_token());
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([task](World&) mutable {
        task();
        task = nullptr;
      });
    }
    scenario.Thread([stop](World&) mutable { stop.request_stop(); });
  });
  CHECK(tally.canceled > 0);
}

TEST_CASE("Interleavings: a resumed coroutine may destroy the one that is to be resumed next") {
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
  const auto crossing = [](std::size_t shards, auto... others) {
    return [=](Run& run) {
      Scenario scenario(run, {}, shards);
      scenario->drops = true;  // a batch keeps its results until it has all of them
      scenario.Thread([](World& world) { Many(world, {1, 2}); });
      scenario.Thread([](World& world) { Many(world, {2, 1}); });
      (scenario.Thread(others), ...);
    };
  };
  for (const std::size_t shards : {1u, 2u}) {
    ExploreAll(InShards("batches", shards), crossing(shards));
    CHECK(tally.shared > 0);
  }
  ExploreRandom("batches_and_callers", 3000, crossing(2, Do, [](World& world) { world.Do(2); }));
  ExploreAll("batch_against_caller", [](Run& run) {
    Scenario scenario(run);
    scenario.Thread([](World& world) { Many(world, {1}); });
    scenario.Thread(Do);
  });
}

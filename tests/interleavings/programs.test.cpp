// SPDX-License-Identifier: MIT

// These tests interleave small programs that are drawn from a seed. Each has three threads, and
// each thread does two operations of any kind on two keys.

#include <functional>
#include <memory>
#include <random>
#include <stop_token>
#include <string>
#include <vector>

#include "callers.hpp"
#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::NotifiedWaiter;
using interleave::Run;
using interleave::Scenario;
using interleave::World;
using singleflight::CallOptions;
using singleflight::OnFailure;

namespace {

using Operation = std::function<void(World&)>;

test::FireAndForget AskInCoroutine(World& world, int key, std::stop_token stop) {
  const std::size_t id = world.StartCaller(key);
  World::Outcome outcome;
  try {
    const auto fn = world.Fn(key);
    const auto result = co_await singleflight::CoDo(*world.group, key, fn, stop);
    outcome = World::OutcomeOf([&] { return result; });
  } catch (const interleave::Failure& failure) {
    outcome.execution = failure.execution;
    outcome.failed = true;
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  }
  world.Finish(id, outcome);
}

// Returns false if a limit refused the caller.
template <class Join>
bool Ask(Join&& join) {
  try {
    join();
    return true;
  } catch (const std::system_error& error) {
    World::Expect(error.code() == std::errc::resource_unavailable_try_again,
                  "a caller failed, but was not refused");
    return false;
  }
}

Operation Draw(std::mt19937& random, std::stop_source stop) {
  const int key = 1 + static_cast<int>(random() % 2);
  const int other = 3 - key;
  const bool fails = random() % 4 == 0;
  CallOptions options;
  if (random() % 3 == 0) options.timeout = std::chrono::milliseconds(random() % 3);
  if (random() % 3 == 0) options.stop = stop.get_token();
  if (random() % 3 == 0) options.on_failure = OnFailure::kRetry;
  const auto here = [](auto task) { task(); };  // an executor
  switch (random() % 11) {
    case 0:
      return [=](World& world) { world.group->Forget(key); };
    case 1:
      return [=](World& world) { world.group->ForgetUnshared(key); };
    case 2:
      return [=](World&) mutable { stop.request_stop(); };
    case 3:
      return [=](World& world) { interleave::Many(world, {key, other}, options); };
    case 4:
      return [=](World& world) {
        world.Call(key, [&] {
          return singleflight::DoAsync(*world.group, key, world.Fn(key), here).Get();
        });
      };
    case 5:
      return [=](World& world) {
        Ask([&] {
          static_cast<void>(singleflight::DoAsync(*world.group, key, world.FailingFn(key), here));
        });
      };
    case 6:
      return [=](World& world) {
        NotifiedWaiter told(world, key);
        const auto launch = [&](World::Group::Lead lead) { lead.Run(world.Fn(key)); };
        if (Ask([&] { world.group->Join(key, told, launch); })) {
          told.LeaveOrTake();
        } else {
          told.GiveUp();
        }
      };
    case 7:
      return [=](World& world) { AskInCoroutine(world, key, options.stop); };
    case 8:
      return [=](World& world) {
        const auto ask_other = [&] { world.Do(other, options); };
        world.Call(key, [&] { return world.group->Do(key, world.Fn(key, ask_other)); });
      };
    default:
      return [=](World& world) {
        const auto fn = world.Fn(
            key, [] {}, fails);
        if (options.stop.stop_possible()) {
          const auto with_stop = [&](std::stop_token) { return fn(); };
          world.Call(key, [&] { return world.group->Do(key, with_stop, options); });
        } else {
          world.Call(key, [&] { return world.group->Do(key, fn, options); });
        }
      };
  }
}

}  // namespace

TEST_CASE("Interleavings: the promises hold in random programs of every kind of operation") {
  const unsigned programs = test::Long() ? 10000 : 300;
  std::size_t schedules = 0;
  for (unsigned seed = 1; seed <= programs; ++seed) {
    interleave::Pct search = interleave::RandomSearch(seed, 50, 150);
    const auto body = [seed](Run& run) {
      std::mt19937 random(seed);
      singleflight::GroupOptions limits;
      if (random() % 4 == 0) limits.max_callers_per_call = 2;
      if (random() % 4 == 0) limits.max_calls_in_flight = 2;
      if (random() % 4 == 0) limits.max_age = 1ms;
      Scenario scenario(run, limits, 1 + seed % 2);
      scenario->overlaps = scenario->drops = scenario->idle = true;
      const std::stop_source stop;
      for (int thread = 0; thread < 3; ++thread) {
        scenario.Thread([first = Draw(random, stop), second = Draw(random, stop)](World& world) {
          first(world);
          second(world);
        });
      }
    };
    schedules += Explore("program_" + std::to_string(seed), search, body).schedules;
  }
  test::Evidence("interleavings.programs", programs);
  test::Evidence("interleavings.random.programs", schedules);
}

// SPDX-License-Identifier: MIT

// These tests interleave blocking callers that join, land, forget, time out, stop and retry.

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <set>
#include <stop_token>
#include <string>
#include <system_error>

#include "support/catch.hpp"
#include "world.hpp"

using namespace std::chrono_literals;
using interleave::ExploreAll;
using interleave::ExplorePreemptions;
using interleave::ExploreRandom;
using interleave::InShards;
using interleave::Run;
using interleave::Scenario;
using interleave::tally;
using interleave::World;
using singleflight::OnFailure;

namespace {

void Do(World& world) { world.Do(1); }

void ForgetThenDo(World& world) { world.ForgetThenDo(1); }

void Retry(World& world) {
  const auto outcome = world.Do(1, {.on_failure = OnFailure::kRetry});
  World::Expect(!outcome.failed, "a caller that retried got another leader's failure");
}

}  // namespace

TEST_CASE("Interleavings: two callers of one key share a call or run one after the other") {
  ExploreAll("join_land", [](Run& run) {
    Scenario scenario(run);
    scenario.Thread(Do);
    scenario.Thread(Do);
    scenario.AtEnd([](World& world) {
      const auto stats = world.group->GetStats();
      World::Expect(stats.executions + stats.followers == 2, "a caller is not counted");
    });
  });
}

TEST_CASE("Interleavings: three callers of one key share a call or run one after another") {
  ExploreAll("join_join_land", [](Run& run) {
    Scenario scenario(run);
    for (int i = 0; i < 3; ++i) scenario.Thread(Do);
  });
}

TEST_CASE("Interleavings: a caller that asks again never gets the result of a landed call") {
  ExploreAll("join_land_twice", [](Run& run) {
    Scenario scenario(run);
    for (int i = 0; i < 2; ++i) {
      scenario.Thread([](World& world) {
        world.Do(1);
        world.Do(1);
      });
    }
  });
}

TEST_CASE("Interleavings: a call can be forgotten while others join it and while it lands") {
  ExploreAll("join_land_forget", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;
    scenario.Thread(Do);
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.group->Forget(1); });
  });
  ExploreAll("join_land_forget_unshared", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;
    scenario.Thread(Do);
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.group->ForgetUnshared(1); });
  });
}

TEST_CASE("Interleavings: a forgotten call that lands leaves the newer call in its place alone") {
  const auto scenario_of = [](int others) {
    return [others](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = true;
      scenario.Thread(Do);
      scenario.Thread(ForgetThenDo);
      for (int i = 0; i < others; ++i) scenario.Thread(Do);
    };
  };
  ExploreAll("aba_after_forget", scenario_of(0));
  CHECK(tally.overlapping > 0);
  ExploreAll("aba_after_forget_3", scenario_of(1));
  CHECK(tally.shared > 0);
}

TEST_CASE("Interleavings: when a timeout races with landing, the caller gets exactly one outcome") {
  const auto scenario_of = [](int others) {
    return [others](Run& run) {
      Scenario scenario(run);
      scenario.Thread(Do);
      scenario.Thread([](World& world) { world.Do(1, {.timeout = 50ms}); });
      for (int i = 0; i < others; ++i) scenario.Thread(Do);
      scenario.AtEnd([](World& world) {
        World::Expect(world.group->GetStats().left == world.Count(std::errc::timed_out),
                      "a caller that left is not counted");
      });
    };
  };
  for (const int others : {0, 1}) {
    ExploreAll(others == 0 ? "timeout_against_landing" : "timeout_against_landing_3",
               scenario_of(others));
    CHECK(tally.timed_out > 0);
    CHECK(tally.shared > 0);
  }
}

TEST_CASE(
    "Interleavings: when a follower's stop races with landing, the follower gets exactly one "
    "outcome") {
  ExploreAll("stop_against_landing", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;  // needed when the stopped caller leads
    const std::stop_source stop;
    scenario.Thread(Do);
    scenario.Thread([stop](World& world) { world.Do(1, {.stop = stop.get_token()}); });
    scenario.Thread([stop](World&) mutable { stop.request_stop(); });
  });
  CHECK(tally.canceled > 0);
  CHECK(tally.shared > 0);
}

namespace {

// A leader that may be stopped and whose fn takes the call's token.
struct StoppableLeader {
  std::stop_token stop;
  void operator()(World& world) const {
    world.Call(1, [&] { return world.group->Do(1, world.StoppableFn(1), {.stop = stop}); });
  }
};

}  // namespace

TEST_CASE(
    "Interleavings: a caller that asks while the last one leaves joins in time or leads a new "
    "call") {
  ExploreAll("last_leaver_against_newcomer", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;
    const std::stop_source stop;
    scenario.Thread(StoppableLeader{stop.get_token()});
    scenario.Thread([stop](World&) mutable { stop.request_stop(); });
    scenario.Thread(Do);
  });
  CHECK(tally.stopped > 0);
  CHECK(tally.shared > 0);
}

TEST_CASE("Interleavings: no caller joins a call that was asked to stop") {
  ExploreAll("told_to_stop", [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;
    const std::stop_source stop;
    scenario.Thread([token = stop.get_token()](World& world) {
      world.Call(1, [&] {
        return world.group->Do(1,
                               [&](std::stop_token of_call) {
                                 const auto value = world.Fn(1)();
                                 if (of_call.stop_requested() && world.group->Callers(1) != 0) {
                                   // A caller that is counted here is on a newer call. If it had
                                   // joined this one, there would be only one execution.
                                   World::Expect(world.group->GetStats().executions == 2,
                                                 "a caller joined a call that was asked to stop");
                                 }
                                 return value;
                               },
                               {.stop = token});
      });
    });
    scenario.Thread([stop](World&) mutable { stop.request_stop(); });
    scenario.Thread(Do);
  });
  CHECK(tally.overlapping > 0);
}

TEST_CASE("Interleavings: a call that is too old is forgotten by the next caller") {
  const auto body = [](Run& run) {
    Scenario scenario(run, {.max_age = 10ms});
    scenario->overlaps = true;
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.PassTimeThenDo(1, 20ms); });
    scenario.Thread(Do);
  };
  ExploreAll("max_age_3", body);
  ExploreAll("max_age_2", [](Run& run) {
    Scenario scenario(run, {.max_age = 10ms});
    scenario->overlaps = true;
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.PassTimeThenDo(1, 20ms); });
  });
  CHECK(tally.overlapping > 0);
}

TEST_CASE("Interleavings: a call that is led after a retry is young, however old its caller is") {
  std::size_t joined = 0;  // a call that was led after a retry
  ExploreAll("max_age_retry", [&joined](Run& run) {
    Scenario scenario(run, {.max_age = 10ms});
    scenario->overlaps = true;
    scenario.Thread([](World& world) {
      const auto takes_time = [] { interleave::PassTime(20ms); };
      world.Call(1, [&] { return world.group->Do(1, world.Fn(1, takes_time, /*fails=*/true)); });
    });
    scenario.Thread([&joined](World& world) {
      const auto ask_again = [&] {
        const auto stats = world.group->GetStats();
        const bool retries = stats.followers == 1 && stats.failures == 1;
        const auto inner = world.Do(1);  // a deadlock, if it joins the call that it is part of
        const interleave::Untracked unseen;
        joined += retries && inner.error == std::errc::resource_deadlock_would_occur;
      };
      world.Call(1, [&] {
        return world.group->Do(1, world.Fn(1, ask_again), {.on_failure = OnFailure::kRetry});
      });
    });
  });
  CHECK(joined > 0);
}

TEST_CASE("Interleavings: followers try again when their leader has failed") {
  const auto scenario_of = [](int others) {
    return [others](Run& run) {
      Scenario scenario(run);
      scenario.Thread([](World& world) { world.DoFailing(1); });
      for (int i = 0; i < others; ++i) {
        scenario.Thread(Retry);
      }
      scenario.AtEnd([others](World& world) {
        for (int i = 0; i <= others; ++i) {
          const auto& outcome = world.OutcomeOfCaller(static_cast<std::size_t>(i));
          World::Expect(outcome.execution != World::kNone,
                        "a caller got neither a value nor a failure");
        }
      });
    };
  };
  ExploreAll("retry", scenario_of(1));
  ExploreAll("retry_3", scenario_of(2));
  CHECK(tally.shared > 0);  // by the callers that retried
}

TEST_CASE("Interleavings: limits refuse exactly the callers that exceed them") {
  const auto scenario_of = [](singleflight::GroupOptions limits, int last_key, std::size_t shards) {
    return [=](Run& run) {
      Scenario scenario(run, limits, shards);
      scenario->max_callers = limits.max_callers_per_call;
      scenario->max_calls = limits.max_calls_in_flight;
      scenario.Thread(Do);
      scenario.Thread(Do);
      scenario.Thread([last_key](World& world) { world.Do(last_key); });
      scenario.AtEnd([](World& world) {
        const auto stats = world.group->GetStats();
        const std::size_t refused = world.Count(std::errc::resource_unavailable_try_again);
        World::Expect(stats.refused == refused, "a refused caller is not counted");
        World::Expect(stats.executions + stats.followers + stats.refused == 3,
                      "a caller is not counted");
      });
    };
  };
  ExploreAll("limit_of_callers", scenario_of({.max_callers_per_call = 2}, 1, 1));
  CHECK(tally.refused > 0);
  CHECK(tally.shared > 0);
  for (const std::size_t shards : {1u, 2u}) {
    ExploreAll(InShards("limit_of_calls", shards),
               scenario_of({.max_calls_in_flight = 1}, 2, shards));
    CHECK(tally.refused > 0);
    CHECK(tally.shared > 0);
  }
}

TEST_CASE("Interleavings: calls that land at the same time make room for as many new ones") {
  ExploreAll("limit_of_calls_after_landing", [](Run& run) {
    Scenario scenario(run, {.max_calls_in_flight = 2}, 2);
    scenario->max_calls = 2;
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.Do(2); });
    scenario.Finally([world = &*scenario] {
      const auto ask_other = [world] { world->Do(2); };
      world->Call(1, [&] { return world->group->Do(1, world->Fn(1, ask_other)); });
    });
    scenario.AtEnd([](World& world) {
      World::Expect(world.group->GetStats().refused == 0, "a caller was refused below the limit");
    });
  });
}

TEST_CASE("Interleavings: a limit of callers over all keys holds, and is given back exactly") {
  const auto scenario_of = [](std::size_t shards) {
    return [shards](Run& run) {
      Scenario scenario(run, {.max_callers = 2}, shards);
      const std::stop_source stop;
      scenario->overlaps = true;  // if the caller that is stopped leads
      scenario.Thread([stop](World& world) { world.Do(1, {.stop = stop.get_token()}); });
      scenario.Thread([stop](World& world) mutable {
        stop.request_stop();
        world.Do(1);
      });
      scenario.Thread([](World& world) { world.Do(2); });
      scenario.Finally([world = &*scenario] {
        const std::size_t refused = world->group->GetStats().refused;
        const auto ask_other = [world] { world->Do(2); };
        world->Call(1, [&] { return world->group->Do(1, world->Fn(1, ask_other)); });
        World::Expect(world->group->GetStats().refused == refused,
                      "a caller was refused below the limit");
      });
      scenario.AtEnd([](World& world) {
        World::Expect(world.group->GetStats().refused ==
                          world.Count(std::errc::resource_unavailable_try_again),
                      "a refused caller is not counted");
      });
    };
  };
  for (const std::size_t shards : {1u, 2u}) {
    ExplorePreemptions(InShards("limit_of_all_callers", shards), 2, scenario_of(shards));
    CHECK(tally.refused > 0);
    CHECK(tally.shared > 0);
    CHECK(tally.canceled > 0);
  }
}

TEST_CASE("Interleavings: once Close has returned, nothing is in flight and nobody is served") {
  const auto scenario_of = [](std::size_t shards, int closers) {
    return [=](Run& run) {
      Scenario scenario(run, {}, shards);
      scenario->idle = true;  // all may be refused
      scenario.Thread(Do);
      scenario.Thread([](World& world) { world.Do(2); });
      for (int i = 0; i < closers; ++i) {
        scenario.Thread([](World& world) {
          world.group->Close();
          World::Expect(world.group->GetStats().in_flight == 0, "a call is still in flight");
          World::Expect(world.Do(1).error == std::errc::resource_unavailable_try_again,
                        "a caller was served by a group that is closed");
        });
      }
    };
  };
  for (const std::size_t shards : {1u, 2u}) {
    ExploreAll(InShards("close", shards), scenario_of(shards, 1));
    CHECK(tally.refused > 0);
  }
  ExplorePreemptions("close_twice", 2, scenario_of(2, 2));
}

namespace {

// Notes which shard was locked last.
struct NotedMutex {
  void lock() {
    mutex.lock();
    last = this;
  }
  void unlock() { mutex.unlock(); }
  std::mutex mutex;
  static inline thread_local const void* last = nullptr;
};
struct TwoShards : singleflight::GroupTraits {
  using Mutex = NotedMutex;
  static constexpr std::size_t kShards = 2;
};
using TwoShardGroup = singleflight::Group<int, int, singleflight::DefaultHash<int>,
                                          singleflight::DefaultEqual<int>, TwoShards>;

}  // namespace

TEST_CASE("Interleavings: a limit of calls holds for keys in different shards") {
  struct Shared {
    TwoShardGroup group{{.max_calls_in_flight = 1}};
    std::atomic<int> inside = 0;
    std::atomic<int> refused = 0;
  };
  std::size_t refused = 0;
  ExploreAll("limit_of_calls_in_two_shards", [&refused](Run& run) {
    const auto shared = std::make_shared<Shared>();
    const auto shard_of = [&](int key) {
      shared->group.Callers(key);
      return NotedMutex::last;
    };
    int other = 1;
    while (shard_of(other) == shard_of(0)) ++other;
    for (const int key : {0, other}) {
      run.Thread([shared, key] {
        try {
          static_cast<void>(shared->group.Do(key, [&] {
            World::Expect(++shared->inside == 1, "more calls are in flight than the limit");
            --shared->inside;
            return 1;
          }));
        } catch (const std::system_error&) {
          ++shared->refused;
        }
      });
    }
    run.AtEnd([shared, &refused] {
      refused += shared->refused == 1;
      World::Expect(shared->group.GetStats().in_flight == 0, "a call is still in flight");
      World::Expect(*shared->group.Do(0, [] { return 2; }) == 2, "the limit was not given back");
    });
  });
  CHECK(refused > 0);
}

TEST_CASE("Interleavings: four callers with different options each get exactly one outcome") {
  const auto body = [](Run& run) {
    Scenario scenario(run);
    scenario->overlaps = true;
    scenario.Thread(Do);
    scenario.Thread([](World& world) { world.Do(1, {.timeout = 1ms}); });
    scenario.Thread(ForgetThenDo);
    scenario.Thread([](World& world) { world.DoFailing(1, {.on_failure = OnFailure::kRetry}); });
  };
  ExplorePreemptions("four_callers", test::Long() ? 3 : 2, body);
  ExploreRandom("four_callers", 5000, body);
}

TEST_CASE("Interleavings: keys that wait for each other are a deadlock, and nothing else is") {
  const auto cycle_of = [](int keys, std::size_t shards) {
    return [keys, shards](Run& run) {
      Scenario scenario(run, {}, shards);
      const auto led_own = std::make_shared<int>(0);
      const auto led_next = std::make_shared<int>(0);
      for (int key = 0; key < keys; ++key) {
        scenario.Thread([=, next = (key + 1) % keys](World& world) {
          const auto ask_next = [&] {
            const bool led = world.Do(next).led;
            const interleave::Untracked unseen;
            *led_next += led;
          };
          const auto ask_own = [&] { return world.group->Do(key, world.Fn(key, ask_next)); };
          const bool led = world.Call(key, ask_own).led;
          const interleave::Untracked unseen;
          *led_own += led;
        });
      }
      scenario.AtEnd([=](World& world) {
        // If each thread leads its own key and none leads the next, the last to wait closes the
        // cycle.
        const bool cycle = *led_own == keys && *led_next == 0;
        World::Expect(world.Count(std::errc::resource_deadlock_would_occur) == (cycle ? 1 : 0),
                      "a cycle without exactly one error, or an error without a cycle");
      });
    };
  };
  for (const std::size_t shards : {1u, 2u}) {
    ExploreAll(InShards("cycle_of_two", shards), cycle_of(2, shards));
    CHECK(tally.deadlocks > 0);
  }
  // Two of the three keys are in one shard.
  if (test::Long()) {
    ExploreAll("cycle_of_three", cycle_of(3, 2));
  } else {
    ExplorePreemptions("cycle_of_three", 2, cycle_of(3, 2));
    ExploreRandom("cycle_of_three", 5000, cycle_of(3, 2));
  }
}

TEST_CASE("Interleavings: a follower that is still waking up from a landed call waits for nobody") {
  const auto scenario_of = [](std::size_t shards) {
    return [shards](Run& run) {
      Scenario scenario(run, {}, shards);
      const auto ask = [](World& world, int key, int next) {
        const auto ask_next = [&] { world.Do(next); };
        world.Call(key, [&] { return world.group->Do(key, world.Fn(key, ask_next)); });
      };
      scenario.Thread([ask](World& world) {
        world.Do(1);
        ask(world, 2, 3);
      });
      scenario.Thread([ask](World& world) { ask(world, 3, 1); });
      scenario.AtEnd([](World& world) {
        World::Expect(world.Count(std::errc::resource_deadlock_would_occur) == 0,
                      "a deadlock was reported that does not exist");
      });
    };
  };
  for (const std::size_t shards : {1u, 2u}) {
    ExploreAll(InShards("no_false_alarm", shards), scenario_of(shards));
  }
}

TEST_CASE("Interleavings: the exhaustive search shows every history that the other searches show") {
  const auto body_of = [](std::set<std::string>& histories) {
    return [&histories](Run& run) {
      Scenario scenario(run);
      scenario->overlaps = true;
      scenario.Thread([](World& world) { world.DoFailing(1, {.timeout = 50ms}); });
      scenario.Thread(Retry);
      scenario.Thread(ForgetThenDo);
      scenario.AtEnd([&](World& world) { histories.insert(world.History()); });
    };
  };
  std::set<std::string> all;
  interleave::Exhaustive exhaustive;
  Explore("all", exhaustive, body_of(all));
  std::set<std::string> bounded;
  interleave::Preemptions preemptions(3);
  Explore("preemptions", preemptions, body_of(bounded));
  std::set<std::string> random;
  interleave::Pct pct(1, 20000, 4);
  Explore("random", pct, body_of(random));
  CHECK(std::includes(all.begin(), all.end(), bounded.begin(), bounded.end()));
  CHECK(std::includes(all.begin(), all.end(), random.begin(), random.end()));
  CHECK(bounded == all);
}

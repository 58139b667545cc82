// SPDX-License-Identifier: MIT

// Promises 5 and 7: every operation that can fail fails in turn, on every path of every kind of
// caller. Nobody hangs, nothing leaks, and the key works again. The callers that must fail get that
// failure and no other. See faults.hpp. The scenarios are in the files beside this one.

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <iostream>
#include <sstream>
#include <string>

#include "scenarios.hpp"
#include "support/catch.hpp"
#include "support/evidence.hpp"

using namespace test;

namespace {

// Counts everything that must not leak.
struct LiveCounts {
  static LiveCounts Now() {
    return {live_allocations, FaultyKey::live + FaultyValue::live + FaultyFn::live, Injected::live};
  }
  // A thread that has finished since, for example, may have freed more.
  bool NoMoreThan(const LiveCounts& other) const {
    return allocations <= other.allocations && objects <= other.objects &&
           exceptions <= other.exceptions;
  }

  std::ptrdiff_t allocations;
  int objects;  // keys, values, functions
  int exceptions;
};

std::ostream& operator<<(std::ostream& out, const LiveCounts& living) {
  return out << living.allocations << " allocations, " << living.objects
             << " keys, values and functions, " << living.exceptions << " exceptions";
}

// Runs the scenario once and returns what was wrong. `living` has the counts from before the run,
// and then those from after it.
std::string Run(const Scenario& scenario, Plan& plan, LiveCounts& living) {
  std::string problem = scenario.run(plan);
  const LiveCounts before = living;
  const auto deadline = std::chrono::steady_clock::now() + 10s;
  Await([&] {  // a detached thread may still be finishing
    living = LiveCounts::Now();
    return living.NoMoreThan(before) || std::chrono::steady_clock::now() > deadline ||
           !problem.empty();
  });
  if (!problem.empty() || living.NoMoreThan(before)) return problem;
  std::ostringstream leak;
  leak << "it leaks: there were " << before << ", there are " << living;
  return leak.str();
}

struct Points {
  std::size_t all = 0;
  std::size_t terminating = 0;
};

// Runs the scenario with every point failing in turn.
Points Exhaust(const Scenario& scenario) {
  {
    Plan none{.fails_at = static_cast<std::size_t>(-1), .and_all_later = false};
    CAPTURE(scenario.name);
    CHECK(scenario.run(none) == "");  // also creates what is created only once
  }
  Points points;
  LiveCounts living = LiveCounts::Now();
  for (const bool and_all_later : {false, true}) {
    for (std::size_t point = 0;; ++point) {
      Plan plan{.fails_at = point, .and_all_later = and_all_later};
      if (const std::string problem = Run(scenario, plan, living); !problem.empty()) {
        CAPTURE(scenario.name, point, and_all_later, Name(plan.first));
        CHECK(problem == "");
        living = LiveCounts::Now();
      }
      if (!plan.fired) break;
      if (!and_all_later) ++points.all;
    }
  }
  return points;
}

// ---- The same, with a process for each run

enum ExitCode { kAllRight, kProblem, kNoPoint, kTerminated };

const Plan* plan_of_process = nullptr;

[[noreturn]] void Terminate() {
  const Fault fault = plan_of_process->first;
  const bool allowed =
      fault == Fault::kAllocation || fault == Fault::kKey || fault == Fault::kFnCopy;
  _exit(allowed ? kTerminated : kProblem);
}

[[noreturn]] void RunInChild(const Scenario& scenario, std::size_t point) {
  alarm(60);
  Plan plan{.fails_at = point, .and_all_later = false};
  plan_of_process = &plan;
  std::set_terminate(Terminate);
  LiveCounts living = LiveCounts::Now();
  const std::string problem = Run(scenario, plan, living);
  if (!problem.empty()) {
    std::cerr << scenario.name << ", point " << point << ", " << Name(plan.first) << ": " << problem
              << std::endl;
  }
  _exit(!problem.empty() ? kProblem : plan.fired ? kAllRight : kNoPoint);
}

Points ExhaustInChildren(const Scenario& scenario) {
  Points points;
  for (;; ++points.all) {
    const pid_t child = fork();
    if (child == 0) RunInChild(scenario, points.all);
    int status = 0;
    waitpid(child, &status, 0);
    CAPTURE(scenario.name, points.all, status);
    REQUIRE(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) != kProblem);
    if (WEXITSTATUS(status) == kNoPoint) return points;
    if (WEXITSTATUS(status) == kTerminated) ++points.terminating;
  }
}

}  // namespace

TEST_CASE("Promises 5 and 7: whatever fails, at every point, fails only the callers it concerns") {
  Points all;
  for (const Scenario& scenario : Scenarios()) {
    const Points points = scenario.may_terminate ? ExhaustInChildren(scenario) : Exhaust(scenario);
    CHECK(points.all > points.terminating);
    std::string name = "faults.points." + scenario.name;
    std::erase(name, ',');
    std::replace(name.begin(), name.end(), ' ', '_');
    Evidence(name, points.all);
    all.all += points.all;
    all.terminating += points.terminating;
  }
  Evidence("faults.points", all.all);
  Evidence("faults.terminating", all.terminating);
}

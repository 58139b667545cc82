// SPDX-License-Identifier: MIT

// These scenarios fork with calls in flight, and show what the child may do.
//
// They do not run under a sanitizer. ThreadSanitizer stops a child that starts a thread if its
// parent had several. AddressSanitizer's allocator may be locked by another thread at the fork, and
// stays locked in the child.

#include "process.hpp"

#if !defined(UNDER_SANITIZER)

#include <unistd.h>

#include <atomic>
#include <latch>
#include <optional>

using namespace test;
using process::InChild;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::Stats;

namespace {

using IntGroup = Group<int, int>;

// Asks with every kind of caller, also on new threads.
void UseInEveryWay(IntGroup& group) {
  const Stats before = group.GetStats();
  MUST(*group.Do(1, [] { return 1; }) == 1);
  {
    HeldCall held(group, 1);
    Caller plain([&] { return group.Do(1, [] { return 2; }); });
    Caller patient([&] { return group.Do(1, [] { return 2; }, {.timeout = 1h}); });
    AwaitCallers(group, 1, 3);
    auto future = DoAsync(group, 1, [] { return 2; });
    Caller batch([&] {
      return DoMany(group, {1, 2}, [](std::span<const int>) { return std::vector{2}; })[0].result();
    });
    AwaitCallers(group, 1, 5);
    MUST(ErrorOf([&] { return group.Do(1, [] { return 2; }, {.timeout = 0s}); }) ==
         std::errc::timed_out);
    held.Finish();
    for (Caller<int>* caller : {&plain, &patient, &batch}) MUST(caller->Join().value == 1);
    MUST(*future.Get() == 1);
  }
  MUST(*DoAsync(group, 1, [] { return 3; }).Get() == 3);
  const Stats after = group.GetStats();
  MUST(after.executions - before.executions == 4);
  MUST(after.followers - before.followers == 5);
  MUST(after.in_flight == 0);
}

// Threads that are inside a group's calls all the time, also in calls that wait for other calls.
class Traffic {
 public:
  Traffic() {
    for (int i = 0; i < 3; ++i) {
      threads_.emplace_back([this, i](const StopToken& stop) {
        for (int round = i; !stop.stop_requested(); ++round) {
          static_cast<void>(group_.Do(round % 2, [this, round] {
            return *inner_.Do(round % 3, [] { return 1; }, {.timeout = 1h});
          }));
          ++rounds_;
        }
      });
    }
    Await([this] { return rounds_ > 100; });
  }

 private:
  IntGroup group_;
  IntGroup inner_;
  std::atomic<int> rounds_ = 0;
  std::vector<JoiningThread> threads_;
};

const process::Add new_group(
    "a child that is forked while other threads are inside calls can use a group that it makes",
    [] {
      const Traffic traffic;
      for (int i = 0; i < 20; ++i) {
        MUST(InChild([] {
          IntGroup group;
          UseInEveryWay(group);
        }));
      }
    });

const process::Add own_group(
    "a child that is forked while other threads are inside calls can use a group that only the "
    "forking thread used",
    [] {
      const Traffic traffic;
      IntGroup group;
      for (int i = 0; i < 20; ++i) {
        MUST(*group.Do(1, [] { return 1; }) == 1);
        MUST(InChild([&] { UseInEveryWay(group); }));
      }
      UseInEveryWay(group);
    });

const process::Add in_flight(
    "a fork does not disturb the parent's call in flight, nor its followers", [] {
      IntGroup group;
      HeldCall held(group, 1);
      Caller plain([&] { return group.Do(1, [] { return 2; }); });
      Caller patient([&] { return group.Do(1, [] { return 2; }, {.timeout = 1h}); });
      AwaitCallers(group, 1, 3);
      MUST(InChild([] {}));
      MUST(group.Callers(1) == 3);
      MUST(held.Finish().value == 1);
      MUST(plain.Join().value == 1);
      MUST(patient.Join().value == 1);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = 2}));
    });

const process::Add in_fn(
    "after a fork inside an fn that nobody else waits for, parent and child each land their own "
    "call",
    [] {
      IntGroup group;
      pid_t child = -1;
      const auto result = group.Do(1, [&] {
        child = fork();
        return child == 0 ? 1 : 2;
      });
      MUST(*result == (child == 0 ? 1 : 2));
      MUST((group.GetStats() == Stats{.executions = 1}));
      UseInEveryWay(group);
      if (child == 0) _exit(0);
      int status = 0;
      waitpid(child, &status, 0);
      MUST(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    });

const process::Add single(
    "a child that is forked by the only thread can wait for calls inside calls, and finds "
    "deadlocks",
    [] {
      IntGroup group;
      MUST(InChild([&] {
        UseInEveryWay(group);
        const auto deadlock = [&] {
          return group.Do(1, [&] { return *group.Do(1, [] { return 2; }); });
        };
        MUST(ErrorOf(deadlock) == std::errc::resource_deadlock_would_occur);
        HeldCall held(group, 1);
        Caller nested([&] { return group.Do(2, [&] { return *group.Do(1, [] { return 2; }); }); });
        AwaitCallers(group, 1, 2);
        held.Finish();
        MUST(nested.Join().value == 1);
      }));
    });

const process::Add own_threads(
    "a child that is forked after a group's own threads have landed their calls can use the group "
    "and destroy it",
    [] {
      for (int i = 0; i < 50; ++i) {
        std::optional<IntGroup> group(std::in_place);
        MUST(*DoAsync(*group, 1, [] { return 1; }).Get() == 1);  // this thread is about to exit
        MUST(InChild([&] { group.reset(); }));
        MUST(InChild([&] {
          UseInEveryWay(*group);
          group.reset();
        }));
        UseInEveryWay(*group);
      }
    });

}  // namespace

#endif

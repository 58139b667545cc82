// SPDX-License-Identifier: MIT

// These scenarios fork while threads wait for calls inside calls. The child sees nothing of those
// waits.
//
// They do not run under a sanitizer, for the reasons given in fork.cpp.

#include "process.hpp"

#if !defined(UNDER_SANITIZER)

#include <unistd.h>

#include <atomic>
#include <latch>
#include <optional>
#include <vector>

using namespace test;
using process::InChild;
using singleflight::Group;

namespace {

using IntGroup = Group<int, int>;

// One thread leads a call, and another follows it inside a call of its own. Each gets the stack of
// a different thread of the parent. `swapped` exchanges the two stacks.
void WaitInsideOfCall(bool swapped) {
  IntGroup group;
  std::latch end_of_first(1);
  std::optional<JoiningThread> first;
  if (swapped) first.emplace([&] { end_of_first.wait(); });
  HeldCall held(group, 1);
  end_of_first.count_down();
  first.reset();
  Caller nested([&] { return group.Do(2, [&] { return *group.Do(1, [] { return 2; }); }); });
  Await([&] { return group.Callers(1) == 2 || group.GetStats().failures > 0; });
  held.Finish();
  MUST(nested.Join().value == 1);
}

const process::Add edges(
    "a child that is forked while a thread waits for a call inside a call can do the same", [] {
      IntGroup group;
      HeldCall held(group, 1);
      Caller nested([&] { return group.Do(2, [&] { return *group.Do(1, [] { return 2; }); }); });
      AwaitCallers(group, 1, 2);
      for (const bool swapped : {false, true}) {
        MUST(InChild([&] { WaitInsideOfCall(swapped); }));
      }
      held.Finish();
      MUST(nested.Join().value == 1);
    });

const process::Add lock(
    "a child that is forked while a thread starts and stops waiting inside calls can wait there "
    "too",
    [] {
      constexpr int kChain = 100;  // calls that each wait for the next: a long walk
      IntGroup group;
      std::atomic<bool> begin = false;
      std::atomic<int> rounds = 0;
      std::atomic<bool> end = false;
      // Leads the last call, and so may not wait for the first. It holds the wait graph's lock
      // while it finds that out.
      Caller traffic([&] {
        return group.Do(kChain, [&] {
          Await([&] { return begin.load(); });
          for (; !end; ++rounds) {
            MUST(ErrorOf([&] { return group.Do(0, [] { return 2; }); }) ==
                 std::errc::resource_deadlock_would_occur);
          }
          return 1;
        });
      });
      AwaitCallers(group, kChain, 1);
      std::vector<JoiningThread> chain;
      for (int i = kChain - 1; i >= 0; --i) {
        chain.emplace_back([&group, i] {
          static_cast<void>(
              group.Do(i, [&group, i] { return *group.Do(i + 1, [] { return 2; }); }));
        });
        AwaitCallers(group, i + 1, 2);
      }
      begin = true;
      Await([&] { return rounds > 100; });
      for (int i = 0; i < 100; ++i) {
        MUST(InChild([] { WaitInsideOfCall(false); }));
      }
      end = true;
      MUST(traffic.Join().value == 1);
    });

}  // namespace

#endif

// SPDX-License-Identifier: MIT

// fork while threads wait for calls inside of calls: the child finds nothing of their waits.
//
// Not under a sanitizer, as fork.cpp.

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

// A thread leads a call, and another follows it inside of a call of its own. The one gets the stack
// of a thread of the parent's, the other that of another; `swapped`: the other way round.
void WaitInsideOfCall(bool swapped) {
  IntGroup group;
  std::latch end_of_first(1);
  std::optional<std::jthread> first;
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
    "forked while a thread waits for a call inside of a call: so does a thread of the child", [] {
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
    "forked while a thread begins and ends waits inside of calls: so does a thread of the child",
    [] {
      constexpr int kChain = 100;  // calls of which each waits for the next: long to walk
      IntGroup group;
      std::atomic<bool> begin = false;
      std::atomic<int> rounds = 0;
      std::atomic<bool> end = false;
      // Leads the last, and so may not wait for the first: to find that out, it holds the lock.
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
      std::vector<std::jthread> chain;
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

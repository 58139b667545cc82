// SPDX-License-Identifier: MIT

// These scenarios exit while calls are in flight. std::exit destroys the groups with static
// storage, so no thread may be inside one of them (promise 14). Any number of threads may be inside
// a group that is never destroyed, or inside any group at an exit that destroys nothing.

#include <atomic>
#include <cstdlib>
#include <latch>

#include "process.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Group;

namespace {

using IntGroup = Group<int, int>;

// Starts a leader that never returns, and followers of every kind, on detached threads.
void StartCalls(IntGroup& group) {
  std::thread([&group] {
    static_cast<void>(group.Do(1, [] {
      for (std::latch never(1);;) never.wait();
      return 1;
    }));
  }).detach();
  AwaitCallers(group, 1, 1);
  static const StopSource stop;
  auto start = [&group, callers = std::size_t{1}](auto ask) mutable {
    std::thread([&group, ask] { ask(group); }).detach();
    AwaitCallers(group, 1, ++callers);
  };
  start([](IntGroup& g) { static_cast<void>(g.Do(1, [] { return 2; })); });
  start([](IntGroup& g) { static_cast<void>(g.Do(1, [] { return 2; }, {.timeout = 1h})); });
  start([](IntGroup& g) {
    static_cast<void>(g.Do(1, [] { return 2; }, {.stop = stop.get_token()}));
  });
  start([](IntGroup& g) { DoAsync(g, 1, [] { return 2; }).Wait(); });
  start([](IntGroup& g) {
    static_cast<void>(DoMany(g, {1}, [](std::span<const int>) { return std::vector{2}; }));
  });
}

// Runs `end`, which exits, on another thread. Never returns.
template <class End>
void EndOnAnotherThread(End end) {
  std::thread(end).join();
}

const process::Add leaked(
    "std::exit on another thread stops the process while a leaked group has calls in flight",
    [] {
      static IntGroup& group = *new IntGroup;
      StartCalls(group);
      EndOnAnotherThread([] { std::exit(7); });
    },
    {.exit_code = 7});

const process::Add quick(
    "std::quick_exit on another thread stops the process while a static group has calls in flight",
    [] {
      static IntGroup group;
      StartCalls(group);
      EndOnAnotherThread([] { std::quick_exit(8); });
    },
    {.exit_code = 8});

const process::Add at_once(
    "_exit on another thread stops the process while a static group has calls in flight",
    [] {
      static IntGroup group;
      StartCalls(group);
      EndOnAnotherThread([] { _exit(9); });
    },
    {.exit_code = 9});

const process::Add asynchronous(
    "std::exit on another thread asks a static group's asynchronous calls to stop, and waits for "
    "them",
    [] {
      static std::atomic<int> stopped = 0;
      // This runs last, since it is registered first.
      std::atexit([] { MUST(stopped == 2); });
      static IntGroup group;
      const auto fn = [](StopToken stop) {
        Await([&] { return stop.stop_requested(); });
        ++stopped;
        return 1;
      };
      // A thread may wait for the Future of one call: a Future is not a member of the group.
      std::thread([fn] { static_cast<void>(DoAsync(group, 1, fn).Get()); }).detach();
      AwaitCallers(group, 1, 1);
      static auto unwatched = DoAsync(group, 2, fn);
      EndOnAnotherThread([] { std::exit(10); });
    },
    {.exit_code = 10});

}  // namespace

// SPDX-License-Identifier: MIT

// Tests of NewThread, the default executor: its threads have exited when their group is destroyed.

#include <atomic>
#include <functional>
#include <latch>
#include <memory>
#include <optional>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoThen;
using singleflight::Future;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::NewThread;

namespace {

using IntGroup = Group<std::string, int>;

#if TEST_DESTROYS_THREAD_LOCALS

// Runs a function as one of the last things that a thread does.
class AtThreadExit {
 public:
  explicit AtThreadExit(std::function<void()> run) : run_(std::move(run)) {}
  ~AtThreadExit() {
    LetOthersRun(1000);  // without this one, if they do not wait for it
    run_();
  }
  AtThreadExit(const AtThreadExit&) = delete;
  AtThreadExit& operator=(const AtThreadExit&) = delete;

  static void Set(std::function<void()> run) {
    thread_local std::optional<AtThreadExit> at_exit;
    at_exit.emplace(std::move(run));
  }

 private:
  std::function<void()> run_;
};

// An fn that counts the exit of the thread that it runs on.
auto Counting(std::atomic<int>& exits) {
  return [&exits] {
    AtThreadExit::Set([&exits] { ++exits; });
    return 7;
  };
}

#endif

}  // namespace

#if TEST_DESTROYS_THREAD_LOCALS

TEST_CASE("Promise 14: when a group is destroyed, the threads that NewThread started have exited") {
  std::atomic<int> exits = 0;
  const auto counting = Counting(exits);
  {
    IntGroup group;
    CHECK(*DoAsync(group, "key", counting).Get() == 7);
  }
  CHECK(exits == 1);
  {  // whether or not anybody waits for them
    IntGroup group;
    for (const char* key : {"a", "b", "c"}) {
      const auto dropped = DoAsync(group, key, counting, NewThread());
    }
    DoThen(group, "d", counting, [](const KeyResult<int>&) {}).Detach();
  }
  CHECK(exits == 5);
  {  // also if an executor passes its task on, here or on another thread
    IntGroup group;
    const auto here = [](auto task) { NewThread()(std::move(task)); };
    const auto elsewhere = [](auto task) { JoiningThread([task] { NewThread()(task); }).join(); };
    const auto one = DoAsync(group, "key", counting, here);
    const auto two = DoAsync(group, "other", counting, elsewhere);
  }
  CHECK(exits == 7);
  struct NoCache {
    std::optional<int> Get(const std::string&) { return std::nullopt; }
    void Put(const std::string&, int) {}
  };
  {
    singleflight::ReadThrough<std::string, int, NoCache> numbers{NoCache()};
    const auto dropped = DoAsync(numbers, "key", counting);
    numbers.Refresh("other", counting, NewThread());
  }
  CHECK(exits == 9);
}

TEST_CASE("Promise 14: a group waits for the threads of calls that its own calls have begun") {
  std::atomic<int> exits = 0;
  const auto counting = Counting(exits);
  {
    IntGroup group;
    std::latch inside(1);
    const auto dropped = DoAsync(group, "first", [&](const StopToken& stop) {
      inside.count_down();
      Await([&] { return stop.stop_requested(); });
      // By a callback of the call "second", after that has landed:
      DoThen(group, "second", counting, [&](const KeyResult<int>&) {
        DoThen(group, "third", counting, [](const KeyResult<int>&) {}).Detach();
      }).Detach();
      return counting();
    });
    inside.wait();
  }
  CHECK(exits == 3);
}

TEST_CASE("Promise 14: a callback on a thread of its group may destroy the group") {
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> exits = 0;
    const auto counting = Counting(exits);
    auto group = std::make_unique<IntGroup>();
    std::latch ready(1);
    std::atomic<int> exits_of_others = -1;
    for (const char* key : {"a", "b"}) const auto dropped = DoAsync(*group, key, counting);
    DoThen(
        *group, "c",
        [&] {
          ready.wait();
          return counting();
        },
        [&](const KeyResult<int>&) {
          group.reset();
          exits_of_others = exits.load();
        })
        .Detach();
    ready.count_down();
    Await([&] { return exits == 3; });
    CHECK(exits_of_others == 2);
    CHECK(group == nullptr);
  }
}

TEST_CASE("Promise 14: a group may be destroyed by the last destructor on a thread of its own") {
  for (int round = 0; round < 100; ++round) {
    auto group = std::make_unique<IntGroup>();
    std::latch ready(1);
    std::atomic<bool> destroyed = false;
    auto first = DoAsync(*group, "key", [&] {
      ready.wait();
      AtThreadExit::Set([&] {
        group.reset();
        destroyed = true;
      });
      return 7;
    });
    // This thread lands its call at about the same time, and then joins the first, or is joined.
    auto second = DoAsync(*group, "other", [&] {
      ready.wait();
      return 8;
    });
    ready.count_down();
    CHECK(*first.Get() == 7);
    CHECK(*second.Get() == 8);
    Await([&] { return destroyed.load(); });
  }
}

#endif

TEST_CASE("NewThread: a group keeps nothing of its finished threads but the last") {
  IntGroup group;
  const auto run = [&group] { CHECK(*DoAsync(group, "key", [] { return 7; }).Get() == 7); };
  // What the last thread frees late is freed when the next has joined it. So this settles.
  run();
  run();
  std::ptrdiff_t live = live_allocations;
  for (int settled = 0; settled < 100; ++settled) {
    std::this_thread::yield();
    if (std::exchange(live, live_allocations) != live) settled = 0;
  }
  for (int i = 0; i < 50; ++i) run();
  Await([&] { return live_allocations <= live; });
}

TEST_CASE("NewThread: a task of a call that has landed needs no thread, nor its group") {
  std::function<void()> start_late;
  std::optional<Future<int>> future;
  {
    IntGroup group;
    future = DoAsync(
        group, "key", [] { return 7; },
        [&](auto task) {
          start_late = [task] { NewThread()(task); };
          task();
        });
    start_late();
  }
  start_late();
  CHECK(*future->Get() == 7);
}

TEST_CASE("NewThread: it runs anything that is callable, on a thread of its own") {
  std::latch ran(1);
  std::thread::id ran_on;
  NewThread()([&] {
    ran_on = std::this_thread::get_id();
    ran.count_down();
  });
  ran.wait();
  CHECK(ran_on != std::this_thread::get_id());
}

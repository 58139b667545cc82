// SPDX-License-Identifier: MIT

// Close: no newcomer is served, and what is in flight lands. And what begins while a group is being
// destroyed.

#include <atomic>
#include <functional>
#include <latch>
#include <optional>
#include <stdexcept>
#include <thread>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Stats;

namespace {

using IntGroup = singleflight::Group<int, int>;
constexpr auto kRefused = std::errc::resource_unavailable_try_again;

struct TestWaiter final : IntGroup::Waiter {
  void OnLanded() noexcept override { ++landed; }
  std::atomic<int> landed = 0;
};

}  // namespace

TEST_CASE("Close: a group without calls closes at once, as often as asked") {
  IntGroup group;
  group.Close();
  group.Close();
  CHECK(ErrorOf([&] { return group.Do(1, [] { return 1; }); }) == kRefused);
  CHECK(group.GetStats() == Stats{.refused = 1});
}

TEST_CASE("Close: callers of calls in flight are served, and no call is asked to stop") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(2, waiter, [&](IntGroup::Lead made) { lead = std::move(made); });
  const StopToken stop = lead->GetStopToken();
  HeldCall held(group, 1);
  Caller follower([&] { return group.Do(1, [] { return -1; }); });
  AwaitCallers(group, 1, 2);
  std::atomic<bool> closed = false;
  JoiningThread closing([&] {
    group.Close();
    closed = true;
  });
  const auto refused = [&](int key) {
    return ErrorOf([&] { return group.Do(key, [] { return -1; }); }) == kRefused;
  };
  Await([&] { return refused(3); });
  CHECK(refused(1));  // also of those who would only follow
  CHECK(refused(2));
  CHECK_FALSE(closed);
  CHECK(held.Finish().value == 1);
  CHECK(follower.Join().value == 1);
  CHECK_FALSE(stop.stop_requested());
  CHECK_FALSE(closed);
  lead->Succeed(5);
  closing.join();
  CHECK(closed);
  CHECK(*waiter.TakeResult() == 5);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Close: waits for forgotten calls and for those that all callers have left, too") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](IntGroup::Lead made) { lead = std::move(made); });
  CHECK(group.Leave(waiter));
  HeldCall held(group, 2);
  group.Forget(2);
  std::atomic<bool> closed = false;
  JoiningThread closing([&] {
    group.Close();
    closed = true;
  });
  Await([&] { return ErrorOf([&] { return group.Do(3, [] { return 1; }); }) == kRefused; });
  lead->Succeed(1);
  CHECK_FALSE(closed);
  held.Finish();
  closing.join();
}

TEST_CASE("Close: two threads may close a group at the same time") {
  IntGroup group;
  HeldCall held(group, 1);
  std::vector<JoiningThread> closing;
  for (int i = 0; i < 2; ++i) closing.emplace_back([&] { group.Close(); });
  Await([&] { return ErrorOf([&] { return group.Do(2, [] { return 1; }); }) == kRefused; });
  held.Finish();
}

TEST_CASE("Close: inside a call's function it is an error instead of a wait without end") {
  IntGroup group;
  IntGroup other;
  std::optional<std::errc> error;
  CHECK(*group.Do(1, [&] {
    error = ErrorOf([&] {
      group.Close();
      return 0;
    });
    return 1;
  }) == 1);
  CHECK(error == std::errc::resource_deadlock_would_occur);
  CHECK(*group.Do(1, [] { return 2; }) == 2);  // it did not close
}

TEST_CASE("Close: futures, waiters and followers that would ask again are refused as well") {
  IntGroup group;
  TestWaiter waiter;
  Caller leader([&] {
    return group.Do(1, [&]() -> int {
      AwaitCallers(group, 1, 2);
      Await([&] { return ErrorOf([&] { return group.Do(2, [] { return 1; }); }) == kRefused; });
      throw std::runtime_error("down");
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] {
    return group.Do(1, [] { return -1; }, {.on_failure = singleflight::OnFailure::kRetry});
  });
  AwaitCallers(group, 1, 2);
  group.Close();
  CHECK(leader.Join().message == "down");
  CHECK(follower.Join().error == kRefused);
  const auto launch = [](IntGroup::Lead) {};
  CHECK_THROWS_AS(group.Join(1, waiter, launch), std::system_error);
  CHECK_THROWS_AS(DoAsync(group, 1, [] { return 1; }), std::system_error);
}

TEST_CASE("Promise 14: the destructor waits for calls that its calls begin meanwhile") {
  // Each call's work begins the next call, in another shard, when the group is being destroyed.
  constexpr int kCalls = 300;
  std::atomic<int> landed = 0;
  std::function<int(int)> work;
  {
    std::latch go(1);
    IntGroup group;  // destroyed first: its calls use `go`
    work = [&](int key) {
      go.wait();
      if (key < kCalls) {
        static_cast<void>(DoAsync(group, key + 1, [&work, key] { return work(key + 1); }));
      }
      ++landed;
      return key;
    };
    for (int chain = 0; chain < 3; ++chain) {
      static_cast<void>(DoAsync(group, -chain, [&] { return work(1); }));
    }
    go.count_down();
  }
  CHECK(landed >= kCalls);
  const int all = landed;
  std::this_thread::yield();
  CHECK(landed == all);
}

TEST_CASE("Promise 14: a call that begins while the group is destroyed is asked to stop as well") {
  std::optional<bool> asked;
  TestWaiter waiter;
  JoiningThread worker;
  {
    IntGroup group;
    group.Join(1, waiter, [&](IntGroup::Lead made) {
      worker = JoiningThread([&, lead = std::move(made)]() mutable {
        lead.Run([&](StopToken stop) {
          Await([&] { return stop.stop_requested(); });  // by ~Group
          return *DoAsync(group, 2, [&](StopToken second) {
                    asked = second.stop_requested();
                    return 2;
                  }).Get();
        });
      });
    });
  }
  worker.join();  // the waiter is notified after the call has landed, which is all ~Group waits for
  CHECK(asked == true);
  CHECK(waiter.landed == 1);
}

// SPDX-License-Identifier: MIT

// Promise 6 (thread cancellation): a forced unwind lands the call and continues unwinding.

#include "support/platform.hpp"
#if TEST_UNWINDS_CANCELLED_THREADS

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <latch>

#include "sanitizers/sanitizers.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

namespace {

// Never returns, because the thread is cancelled in here. ThreadSanitizer's own pause() does not
// see the unwinding, and from then on it misses what the thread locks.
[[noreturn]] void SitInCancellationPoint() {
  for (;;) {
#if defined(UNDER_THREAD_SANITIZER)
    pthread_testcancel();
#else
    pause();
#endif
  }
}

struct SetOnUnwind {
  ~SetOnUnwind() { flag = true; }
  std::atomic<bool>& flag;
};

}  // namespace

TEST_CASE("Promise 6: a leader cancelled inside its function lands its call with owner_dead") {
  Group<std::string, int> group;
  std::atomic<bool> unwound = false;
  CancellableThread leader([&] {
    const SetOnUnwind above{unwound};
    static_cast<void>(group.Do("key", []() -> int { SitInCancellationPoint(); }));
  });
  AwaitCallers(group, "key", 1);
  Caller follower([&] { return group.Do("key", [] { return 1; }); });
  Caller patient([&] { return group.Do("key", [] { return 1; }, {.timeout = 1h}); });
  AwaitCallers(group, "key", 3);
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(unwound);
  CHECK(follower.Join().error == std::errc::owner_dead);
  CHECK(patient.Join().error == std::errc::owner_dead);
  CHECK(group.Callers("key") == 0);
  CHECK(*group.Do("key", [] { return 2; }) == 2);
  CHECK(group.GetStats() == singleflight::Stats{.executions = 2, .followers = 2, .failures = 1});
}

TEST_CASE("Promise 6: pthread_exit inside the function is a forced unwind too") {
  Group<std::string, int> group;
  CancellableThread leader([&] {
    static_cast<void>(group.Do("key", [&]() -> int {
      AwaitCallers(group, "key", 2);
      pthread_exit(&group);
    }));
  });
  AwaitCallers(group, "key", 1);
  Caller follower([&] { return group.Do("key", [] { return 1; }); });
  CHECK(leader.JoinWasUnwound());
  CHECK(follower.Join().error == std::errc::owner_dead);
}

TEST_CASE("Promise 6: a leader with a stop token and no followers is unwound as well") {
  Group<std::string, int> group;
  StopSource stop;
  CancellableThread leader([&] {
    static_cast<void>(group.Do("key", [](StopToken) -> int { SitInCancellationPoint(); },
                               {.stop = stop.get_token()}));
  });
  AwaitCallers(group, "key", 1);
  leader.Cancel();
  CHECK(leader.JoinWasUnwound());
  CHECK(group.GetStats().in_flight == 0);
  stop.request_stop();  // no stop callback of the call is left to run
}

TEST_CASE(
    "Promise 6: a follower that may leave is unwound and leaves when its thread is cancelled") {
  Group<std::string, int> group;
  HeldCall leader(group, std::string("key"));
  CancellableThread follower(
      [&] { static_cast<void>(group.Do("key", [] { return 2; }, {.timeout = 1h})); });
  AwaitCallers(group, "key", 2);
  follower.Cancel();
  CHECK(follower.JoinWasUnwound());
  CHECK(group.Callers("key") == 1);
  CHECK(leader.Finish().value == 1);
  CHECK_FALSE(leader.Finish().shared);
}

TEST_CASE(
    "Promise 6: a follower that is cancelled while its call lands either returns or is unwound") {
  for (int round = 0; round < 300; ++round) {
    Group<std::string, int> group;
    std::latch finish(1);
    Caller leader([&] {
      return group.Do("key", [&] {
        finish.wait();
        return 1;
      });
    });
    AwaitCallers(group, "key", 1);
    CancellableThread follower(
        [&] { static_cast<void>(group.Do("key", [] { return 2; }, {.timeout = 1h})); });
    AwaitCallers(group, "key", 2);
    finish.count_down();
    follower.Cancel();
    follower.JoinWasUnwound();
    CHECK(leader.Join().value == 1);
    CHECK(group.GetStats().in_flight == 0);
  }
}

#endif

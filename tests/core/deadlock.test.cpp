// SPDX-License-Identifier: MIT

// Promise 9 (no hang on re-entry): a wait that would last for ever is refused, and no other is.

#include <atomic>
#include <latch>
#include <random>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

namespace {

constexpr auto kDeadlock = std::errc::resource_deadlock_would_occur;

using IntGroup = Group<int, int>;

// In a ring, each caller follows the next one's call. Counts the callers that were refused, and
// those that were served the 0 that the next one's function returns.
struct RingOutcome {
  int refused = 0;
  int served = 0;
};

// Thread i leads call i in groups[i % size]. Once all threads lead, it asks for the next call.
RingOutcome RunRing(const std::vector<IntGroup*>& groups, int length,
                    singleflight::CallOptions options = {}) {
  std::latch all_lead(length);
  std::atomic<int> refused = 0;
  std::atomic<int> served = 0;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < length; ++i) {
    threads.emplace_back([&, i] {
      const auto group_of = [&](int key) -> IntGroup& {
        return *groups[static_cast<std::size_t>(key) % groups.size()];
      };
      static_cast<void>(group_of(i).Do(i, [&] {
        all_lead.arrive_and_wait();
        const int next = (i + 1) % length;
        const auto error = ErrorOf([&] {
          return group_of(next).Do(
              next, [] { return -1; }, options);
        });
        ++(error == kDeadlock ? refused : served);
        return 0;
      }));
    });
  }
  threads.clear();
  return {refused, served};
}

}  // namespace

TEST_CASE("Promise 9: a function that asks for its own key is refused") {
  IntGroup group;
  const auto result = group.Do(1, [&] {
    CHECK(ErrorOf([&] { return group.Do(1, [] { return -1; }); }) == kDeadlock);
    return 1;
  });
  CHECK(*result == 1);
  CHECK(*group.Do(1, [] { return 2; }) == 2);
}

TEST_CASE("Promise 9: the refused caller leaves no trace on the call") {
  IntGroup group;
  const auto result = group.Do(1, [&] {
    static_cast<void>(ErrorOf([&] { return group.Do(1, [] { return -1; }); }));
    return static_cast<int>(group.Callers(1));
  });
  CHECK(*result == 1);
  CHECK_FALSE(result.shared());
  CHECK(group.GetStats() == singleflight::Stats{.executions = 1});
}

TEST_CASE("Promise 9: a function that asks for the key of an enclosing call is refused") {
  IntGroup outer;
  IntGroup inner;
  const auto result = outer.Do(1, [&] {
    return *inner.Do(2, [&] {
      CHECK(ErrorOf([&] { return outer.Do(1, [] { return -1; }); }) == kDeadlock);
      return 7;
    });
  });
  CHECK(*result == 7);
}

TEST_CASE("Promise 9: a wait with a timeout or a stop token is refused at once as well") {
  IntGroup group;
  StopSource stop;
  static_cast<void>(group.Do(1, [&] {
    CHECK(ErrorOf([&] { return group.Do(1, [] { return -1; }, {.timeout = 1h}); }) == kDeadlock);
    CHECK(ErrorOf([&] { return group.Do(1, [] { return -1; }, {.stop = stop.get_token()}); }) ==
          kDeadlock);
    return 1;
  }));
  CHECK(group.GetStats().left == 0);
}

TEST_CASE("Promise 9: of two threads that ask for each other's key, one is refused") {
  for (int round = 0; round < 200; ++round) {
    IntGroup group;
    const auto outcome = RunRing({&group}, 2);
    CHECK(outcome.refused == 1);
    CHECK(outcome.served == 1);
  }
}

TEST_CASE("Promise 9: of three threads in a ring over three groups, one is refused") {
  for (int round = 0; round < 200; ++round) {
    IntGroup a;
    IntGroup b;
    IntGroup c;
    const auto outcome = RunRing({&a, &b, &c}, 3);
    CHECK(outcome.refused == 1);
    CHECK(outcome.served == 2);
  }
}

TEST_CASE("Promise 9: a long ring of callers with timeouts is broken in one place") {
  IntGroup a;
  IntGroup b;
  const auto outcome = RunRing({&a, &b}, 12, {.timeout = 1h});
  CHECK(outcome.refused == 1);
  CHECK(outcome.served == 11);
}

TEST_CASE("Promise 9: a diamond of waits is not a cycle") {
  IntGroup group;
  std::latch sides_lead(2);
  std::latch finish(1);
  Caller bottom([&] {
    return group.Do(0, [&] {
      finish.wait();
      return 5;
    });
  });
  AwaitCallers(group, 0, 1);
  const auto side = [&](int key) {
    return group.Do(key, [&] {
      sides_lead.arrive_and_wait();
      return *group.Do(0, [] { return -1; });
    });
  };
  Caller left([&] { return side(1); });
  Caller right([&] { return side(2); });
  AwaitCallers(group, 0, 3);
  Caller top([&] { return group.Do(3, [&] { return *group.Do(1, [] { return -1; }); }); });
  AwaitCallers(group, 1, 2);
  finish.count_down();
  CHECK(bottom.Join().value == 5);
  CHECK(left.Join().value == 5);
  CHECK(right.Join().value == 5);
  CHECK(top.Join().value == 5);
}

TEST_CASE("Promise 9: a follower that leads nothing may wait for a leader that is itself waiting") {
  IntGroup group;
  std::latch finish(1);
  Caller inner([&] {
    return group.Do(2, [&] {
      finish.wait();
      return 3;
    });
  });
  AwaitCallers(group, 2, 1);
  Caller outer([&] { return group.Do(1, [&] { return *group.Do(2, [] { return -1; }); }); });
  AwaitCallers(group, 2, 2);
  Caller follower([&] { return group.Do(1, [] { return -1; }); });
  AwaitCallers(group, 1, 2);
  finish.count_down();
  CHECK(inner.Join().value == 3);
  CHECK(outer.Join().value == 3);
  CHECK(follower.Join().value == 3);
}

TEST_CASE("Promise 9: nested calls in which no cycle can exist raise no false alarm") {
  // A function asks only for greater keys, so a cycle cannot exist. There are few keys, so threads
  // follow each other while they lead, and land calls just as others begin to wait.
  constexpr int kKeys = 6;
  constexpr int kThreads = 8;
  constexpr int kRounds = 3000;
  IntGroup groups[2];
  std::atomic<int> alarms = 0;
  std::atomic<int> wrong = 0;
  std::vector<JoiningThread> threads;
  for (unsigned t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      std::minstd_rand random(t + 1);
      const std::function<int(int)> ask = [&](int key) -> int {
        return *groups[key % 2].Do(key, [&] {
          if (key + 1 < kKeys) {
            const int next =
                key + 1 + static_cast<int>(random() % static_cast<unsigned>(kKeys - key - 1));
            if (ask(next) != next) ++wrong;
          }
          return key;
        });
      };
      for (int i = 0; i < kRounds; ++i) {
        const int key = static_cast<int>(random() % kKeys);
        try {
          if (ask(key) != key) ++wrong;
        } catch (const std::system_error&) {
          ++alarms;
        }
      }
    });
  }
  threads.clear();
  CHECK(alarms == 0);
  CHECK(wrong == 0);
}

TEST_CASE("Promise 9: a call led asynchronously waits for whatever its running thread waits for") {
  IntGroup group;
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override { landed.count_down(); }
    std::latch landed{1};
  } waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](IntGroup::Lead made) { lead = made; });

  // Until `fn` starts, nobody knows which thread will run it, so a wait for its call is allowed.
  Caller follower([&] { return group.Do(2, [&] { return *group.Do(1, [] { return -1; }); }); });
  AwaitCallers(group, 1, 2);

  // Now `fn` runs here. It asks for its own key, and for that of a leader that waits for it.
  const bool landed_here = lead->Run([&] {
    CHECK(ErrorOf([&] { return group.Do(1, [] { return -1; }); }) == kDeadlock);
    CHECK(ErrorOf([&] { return group.Do(2, [] { return -1; }); }) == kDeadlock);
    return 9;
  });
  CHECK(landed_here);
  waiter.landed.wait();
  CHECK(*waiter.TakeResult() == 9);
  CHECK(follower.Join().value == 9);
}

TEST_CASE("Promise 9: a thread may wait for a call whose work it has only started") {
  IntGroup group;
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](IntGroup::Lead made) { lead = made; });
  CHECK(lead->Start([] { return 5; }) == 5);  // lands later, on another thread
  std::atomic<bool> refused = false;
  JoiningThread lander([&] {
    Await([&] { return refused || group.Callers(1) == 2; });
    lead->Succeed(9);
  });
  const auto outcome =
      Keep([&] { return group.Do(2, [&] { return *group.Do(1, [] { return -1; }); }); });
  refused = outcome.error.has_value();
  lander.join();
  CHECK(outcome.value == 9);
  CHECK(*waiter.TakeResult() == 9);
}

TEST_CASE(
    "Promise 9: a call that has landed blocks nobody, even before all its callers are notified") {
  // One thread leads "outer" and, inside it, "inner". When "inner" lands, the waiter is notified
  // before the batch that leads "other", which therefore still has its edge to "inner". A caller
  // that now asks for "other" on the landing thread is not in a cycle through that edge.
  using StringGroup = Group<std::string, int>;
  static StringGroup* the_group;
  static std::optional<std::errc> error;
  struct AsksForOther final : StringGroup::Waiter {
    void OnLanded() noexcept override {
      error = ErrorOf([] { return the_group->Do("other", [] { return -1; }, {.timeout = 1ms}); });
    }
  } waiter;
  StringGroup group;
  the_group = &group;
  std::latch waiter_joined(1);
  Caller lander([&] {
    return group.Do("outer", [&] {
      return *group.Do("inner", [&] {
        group.Join("inner", waiter, [](StringGroup::Lead) {});
        waiter_joined.count_down();
        AwaitCallers(group, "inner", 3);
        return 1;
      });
    });
  });
  waiter_joined.wait();
  Caller other([&] {
    return group.Do("other", [&] {
      const auto unused = [](std::span<const std::string>) { return std::vector<int>(); };
      return *singleflight::DoMany(group, {"inner"}, unused).front();
    });
  });
  CHECK(lander.Join().value == 1);
  CHECK(other.Join().value == 1);
  CHECK(error == std::errc::timed_out);
}

TEST_CASE(
    "Promise 9: a follower that leaves is no longer waiting, even while it asks the call to stop") {
  // The last caller to leave "inner" leads "outer". When asked to stop, the leader of "inner" asks
  // for "outer".
  Group<std::string, int> group;
  StopSource stop_leader;
  StopSource stop_follower;
  Caller leader([&] {
    return group.Do(
        "inner",
        [&](StopToken token) {
          // This runs on the leaving thread, and blocks it until the leader has asked.
          std::atomic<bool> refused = false;
          const StopCallback on_stop(
              token, [&] { Await([&] { return refused || group.Callers("outer") == 2; }); });
          AwaitCallers(group, "inner", 2);
          stop_leader.request_stop();
          stop_follower.request_stop();
          Await([&] { return token.stop_requested(); });
          const auto error = ErrorOf([&] { return group.Do("outer", [] { return -1; }); });
          refused = error.has_value();
          return refused ? -1 : 1;
        },
        {.stop = stop_leader.get_token()});
  });
  AwaitCallers(group, "inner", 1);
  const auto outer = Keep([&] {
    return group.Do("outer", [&] {
      const auto error = ErrorOf([&] {
        return group.Do("inner", [] { return -1; }, {.stop = stop_follower.get_token()});
      });
      return error == std::errc::operation_canceled ? 2 : -1;
    });
  });
  CHECK(outer.value == 2);
  CHECK(leader.Join().value == 1);
}

TEST_CASE("Promise 9: a caller that a limit refuses is never seen to wait") {
  // Two leaders ask for each other's key. One of the calls is full, so only the other can be
  // followed.
  Group<int, int> full({.max_callers_per_call = 1});
  Group<int, int> open;
  std::atomic<int> alarms = 0;
  for (int round = 0; round < 300; ++round) {
    std::latch both_lead(2);
    std::atomic<bool> follows = false;
    JoiningThread refused([&] {
      static_cast<void>(open.Do(2, [&] {
        both_lead.arrive_and_wait();
        do {
          ErrorOf([&] { return full.Do(1, [] { return -1; }); });
        } while (!follows && open.Callers(2) == 1);
        return 2;
      }));
    });
    static_cast<void>(full.Do(1, [&] {
      both_lead.arrive_and_wait();
      alarms += ErrorOf([&] { return open.Do(2, [] { return -1; }); }) == kDeadlock;
      follows = true;
      return 1;
    }));
  }
  CHECK(alarms == 0);
}

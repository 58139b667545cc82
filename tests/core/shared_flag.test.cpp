// SPDX-License-Identifier: MIT

// Promise 4: `shared` is decided once, and every caller sees the same answer.

#include <latch>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

TEST_CASE("Promise 4: a result that only its leader gets is not shared") {
  Group<int, int> group;
  CHECK_FALSE(group.Do(1, [] { return 1; }).shared());
}

TEST_CASE("Promise 4: a result is not shared if all followers left before the call landed") {
  Group<int, int> group;
  HeldCall leader(group, 1);
  const auto left = Keep([&] { return group.Do(1, [] { return 2; }, {.timeout = 1ns}); });
  CHECK(left.error == std::errc::timed_out);
  CHECK(leader.Finish().value == 1);
  CHECK_FALSE(leader.Finish().shared);
}

TEST_CASE("Promise 4: every caller of a call reads the same answer") {
  constexpr int kThreads = 4;
  constexpr int kRounds = 3000;
  Group<int, int> group;
  std::atomic<int> runs = 0;
  // callers[run] counts the callers of a run, and saw_shared[run] those whose result was shared.
  std::vector<std::atomic<int>> callers(kThreads * kRounds + 1);
  std::vector<std::atomic<int>> saw_shared(kThreads * kRounds + 1);
  std::vector<JoiningThread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kRounds; ++i) {
        const auto result = group.Do(1, [&] { return ++runs; });
        const auto run = static_cast<std::size_t>(*result);
        ++callers[run];
        saw_shared[run] += result.shared();
      }
    });
  }
  threads.clear();
  int wrong = 0;
  for (std::size_t run = 1; run <= static_cast<std::size_t>(runs); ++run) {
    wrong += saw_shared[run] != (callers[run] > 1 ? callers[run].load() : 0);
  }
  CHECK(wrong == 0);
}

TEST_CASE("Promise 4: a stopped leader shares the result with a follower that stays") {
  Group<int, int> group;
  StopSource stop;
  std::latch finish(1);
  Caller leader([&] {
    return group.Do(1,
                    [&] {
                      finish.wait();
                      return 5;
                    },
                    {.stop = stop.get_token()});
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] { return group.Do(1, [] { return -1; }); });
  AwaitCallers(group, 1, 2);
  stop.request_stop();
  CHECK(group.Callers(1) == 1);
  CHECK_FALSE(group.ForgetUnshared(1));  // two callers will get the result
  finish.count_down();
  CHECK(leader.Join().value == 5);
  CHECK(leader.Join().shared);
  CHECK(follower.Join().value == 5);
  CHECK(follower.Join().shared);
}

// SPDX-License-Identifier: MIT

// A caller leaves without disturbing the others (promise 10), and the last to leave asks the call
// to stop (promise 11).

#include <atomic>
#include <deque>
#include <latch>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/hooked_mutex.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CallOptions;
using singleflight::Group;
using singleflight::Role;

namespace {

using IntGroup = Group<std::string, int>;

// Leads a call for "key", and stays inside its function until Finish.
class Leader {
 public:
  explicit Leader(IntGroup& group, CallOptions options = {})
      : caller_([this, &group, options] {
          return group.Do(
              "key",
              [this](StopToken token) {
                token_ = token;
                has_token_.count_down();
                finish_.wait();
                return 1;
              },
              options);
        }) {
    has_token_.wait();
  }
  ~Leader() { Finish(); }

  const Outcome<int>& Finish() {
    if (!std::exchange(finished_, true)) finish_.count_down();
    return caller_.Join();
  }
  bool WasAskedToStop() const { return token_.stop_requested(); }
  bool CanBeAskedToStop() const { return token_.stop_possible(); }

 private:
  std::latch has_token_{1};
  std::latch finish_{1};
  bool finished_ = false;
  StopToken token_;
  Caller<int> caller_;
};

}  // namespace

TEST_CASE("Promise 10: a follower whose timeout passes leaves, and the call continues") {
  IntGroup group;
  Leader leader(group);
  CHECK(Keep([&] { return group.Do("key", [] { return 2; }, {.timeout = 1ms}); }).error ==
        std::errc::timed_out);
  CHECK(group.Callers("key") == 1);
  Caller patient([&] { return group.Do("key", [] { return 2; }, {.timeout = 1h}); });
  AwaitCallers(group, "key", 2);
  CHECK(leader.Finish().value == 1);
  CHECK(patient.Join().value == 1);
  CHECK(patient.Join().role == Role::kFollower);
  CHECK(group.GetStats() == singleflight::Stats{.executions = 1, .followers = 2, .left = 1});
}

TEST_CASE(
    "Promise 10: with a timeout of zero or less, a follower does not wait and a leader runs") {
  IntGroup group;
  for (const auto timeout : {0ns, -1ns, std::chrono::nanoseconds::min()}) {
    CHECK(*group.Do("key", [] { return 3; }, {.timeout = timeout}) == 3);
    Leader leader(group);
    CHECK(ErrorOf([&] { return group.Do("key", [] { return 2; }, {.timeout = timeout}); }) ==
          std::errc::timed_out);
    CHECK(group.Callers("key") == 1);
  }
  CHECK(group.GetStats() == singleflight::Stats{.executions = 6, .followers = 3, .left = 3});
}

TEST_CASE("Promise 10: a timeout beyond the clock's range never passes") {
  IntGroup group;
  Leader leader(group);
  Caller follower([&] {
    return group.Do("key", [] { return 2; }, {.timeout = std::chrono::nanoseconds::max()});
  });
  AwaitCallers(group, "key", 2);
  CHECK(leader.Finish().value == 1);
  CHECK(follower.Join().value == 1);
}

TEST_CASE("Promise 10: a follower that is stopped leaves, and the call continues") {
  IntGroup group;
  Leader leader(group);
  StopSource stop;
  Caller stopped([&] { return group.Do("key", [] { return 2; }, {.stop = stop.get_token()}); });
  Caller other([&] { return group.Do("key", [] { return 2; }); });
  AwaitCallers(group, "key", 3);
  stop.request_stop();
  CHECK(stopped.Join().error == std::errc::operation_canceled);
  CHECK(group.Callers("key") == 2);
  CHECK(leader.Finish().value == 1);
  CHECK(other.Join().value == 1);
}

TEST_CASE("Promise 10: a caller that is stopped before it asks runs nothing and joins nothing") {
  IntGroup group;
  StopSource stop;
  stop.request_stop();
  bool ran = false;
  const auto ask = [&] {
    return group.Do("key", [&] { return ran = true; }, {.stop = stop.get_token()});
  };
  CHECK(ErrorOf(ask) == std::errc::operation_canceled);
  Leader leader(group);
  CHECK(ErrorOf(ask) == std::errc::operation_canceled);
  CHECK_FALSE(ran);
  CHECK(group.GetStats() == singleflight::Stats{.executions = 1, .in_flight = 1});
}

TEST_CASE(
    "Promise 10: of many followers that may leave, those leave that are stopped, and no other") {
  constexpr std::size_t kFollowers = 70;  // they wait at three gates
  IntGroup group;
  Leader leader(group);
  std::vector<StopSource> stops(kFollowers);
  std::deque<Caller<int>> followers;
  for (std::size_t i = 0; i < kFollowers; ++i) {
    followers.emplace_back([&group, &stops, i] {
      return group.Do("key", [] { return 2; }, {.timeout = 1h, .stop = stops[i].get_token()});
    });
  }
  AwaitCallers(group, "key", kFollowers + 1);
  for (std::size_t i = 0; i < kFollowers; i += 2) stops[i].request_stop();
  AwaitCallers(group, "key", kFollowers / 2 + 1);
  for (std::size_t i = 0; i < kFollowers; i += 2) {
    CHECK(followers[i].Join().error == std::errc::operation_canceled);
  }
  CHECK(leader.Finish().value == 1);
  for (std::size_t i = 1; i < kFollowers; i += 2) CHECK(followers[i].Join().value == 1);
}

TEST_CASE("Promise 10: followers that come and go on one call leave no memory behind") {
  IntGroup group;
  Leader leader(group);
  const auto come_and_go = [&] {
    CHECK(ErrorOf([&] { return group.Do("key", [] { return 2; }, {.timeout = 1ms}); }) ==
          std::errc::timed_out);
  };
  come_and_go();  // allocates what followers share
  const auto before = live_allocations.load();
  for (int i = 0; i < 100; ++i) come_and_go();
  CHECK(live_allocations == before);
}

TEST_CASE("Promise 10: when a result and a stop race, a follower gets exactly one of them") {
  int results = 0;
  int stops = 0;
  constexpr int kRounds = 1000;
  IntGroup group;
  for (int round = 0; round < kRounds; ++round) {
    StopSource stop;
    std::latch go(2);
    Caller leader([&] {
      return group.Do("key", [&] {
        AwaitCallers(group, "key", 2);
        go.arrive_and_wait();
        return 1;
      });
    });
    AwaitCallers(group, "key", 1);
    Caller follower([&] { return group.Do("key", [] { return 2; }, {.stop = stop.get_token()}); });
    go.arrive_and_wait();
    stop.request_stop();
    const auto& outcome = follower.Join();
    results += outcome.value == 1;
    stops += outcome.error == std::errc::operation_canceled;
    CHECK(leader.Join().value == 1);
    CHECK(leader.Join().shared == outcome.value.has_value());
  }
  CHECK(results + stops == kRounds);
  const auto stats = group.GetStats();
  CHECK(stats == singleflight::Stats{.executions = kRounds,
                                     .followers = kRounds,
                                     .left = static_cast<std::uint64_t>(stops)});
}

TEST_CASE("Promise 10: a stop that comes once the call has landed is too late for a follower") {
  // The follower is stopped when its call has been closed, and has time to notice that.
  constexpr int kRounds = 20;
  int results = 0;
  for (int round = 0; round < kRounds; ++round) {
    Group<std::string, int, std::hash<std::string>, std::equal_to<std::string>, Hooked> group;
    StopSource stop;
    JoiningThread leader([&] {
      static_cast<void>(group.Do("key", [&] {
        AwaitCallers(group, "key", 2);
        HookedMutex::after_unlock = [&] {
          if (group.Callers("key") != 0) return;
          stop.request_stop();
          LetOthersRun(1000);
        };
        return 1;
      }));
    });
    AwaitCallers(group, "key", 1);
    const auto outcome =
        Keep([&] { return group.Do("key", [] { return 2; }, {.stop = stop.get_token()}); });
    results += outcome.value == 1;
  }
  CHECK(results == kRounds);
}

TEST_CASE("Promise 10: when a result and a timeout race, a follower gets exactly one of them") {
  int results = 0;
  int timeouts = 0;
  constexpr int kRounds = 1000;
  IntGroup group;
  for (int round = 0; round < kRounds; ++round) {
    std::atomic<bool> joins = false;
    Caller leader([&] {
      return group.Do("key", [&] {
        Await([&] { return joins.load(); });
        return 1;
      });
    });
    AwaitCallers(group, "key", 1);
    Caller follower([&] {
      joins = true;
      return group.Do("key", [] { return 1; }, {.timeout = std::chrono::microseconds(round % 50)});
    });
    results += follower.Join().value == 1;
    timeouts += follower.Join().error == std::errc::timed_out;
    CHECK(leader.Join().value == 1);
  }
  CHECK(results + timeouts == kRounds);
  CHECK(group.GetStats().left == static_cast<std::uint64_t>(timeouts));
}

TEST_CASE(
    "Promise 11: a leader without a stop token never leaves, so no leaving asks its call to stop") {
  IntGroup group;
  Leader leader(group);
  CHECK(leader.CanBeAskedToStop());  // by Cancel
  CHECK(Keep([&] { return group.Do("key", [] { return 2; }, {.timeout = 1ns}); }).error);
  CHECK(group.Callers("key") == 1);
  CHECK_FALSE(leader.WasAskedToStop());
}

TEST_CASE("Promise 11: when a lone leader is stopped, its call is asked to stop and is forgotten") {
  IntGroup group;
  StopSource stop;
  Leader leader(group, {.stop = stop.get_token()});
  CHECK(leader.CanBeAskedToStop());
  CHECK_FALSE(leader.WasAskedToStop());
  stop.request_stop();
  CHECK(leader.WasAskedToStop());
  CHECK(group.Callers("key") == 0);
  CHECK(*group.Do("key", [] { return 2; }) == 2);  // a newcomer starts a new call
  CHECK(leader.Finish().value == 1);               // a blocking leader returns when `fn` does
  CHECK_FALSE(leader.Finish().shared);
  CHECK(group.GetStats() == singleflight::Stats{.executions = 2, .left = 1});
}

TEST_CASE(
    "Promise 11: a stopped leader's call continues for its followers until the last has left") {
  IntGroup group;
  StopSource stop_leader;
  StopSource stop_follower;
  Leader leader(group, {.stop = stop_leader.get_token()});
  Caller follower(
      [&] { return group.Do("key", [] { return 2; }, {.stop = stop_follower.get_token()}); });
  AwaitCallers(group, "key", 2);
  stop_leader.request_stop();
  CHECK(group.Callers("key") == 1);
  CHECK_FALSE(leader.WasAskedToStop());
  Caller joins_late([&] { return group.Do("key", [] { return 2; }, {.timeout = 1h}); });
  AwaitCallers(group, "key", 2);
  stop_follower.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK_FALSE(leader.WasAskedToStop());
  CHECK(leader.Finish().value == 1);
  CHECK(joins_late.Join().value == 1);
  CHECK_FALSE(leader.WasAskedToStop());
}

TEST_CASE("Promise 11: the last follower to leave a stopped leader asks the call to stop") {
  IntGroup group;
  StopSource stop_leader;
  StopSource stop_follower;
  Leader leader(group, {.stop = stop_leader.get_token()});
  Caller follower(
      [&] { return group.Do("key", [] { return 2; }, {.stop = stop_follower.get_token()}); });
  AwaitCallers(group, "key", 2);
  stop_leader.request_stop();
  stop_follower.request_stop();
  CHECK(follower.Join().error == std::errc::operation_canceled);
  CHECK(leader.WasAskedToStop());
  CHECK(group.Callers("key") == 0);
}

TEST_CASE("Promise 11: a newcomer never joins a call that was asked to stop") {
  // The last caller leaves just as a newcomer asks. The newcomer either joins a call that is then
  // not asked to stop, or leads a call of its own.
  constexpr int kRounds = 1000;
  int stopped_under_newcomer = 0;
  IntGroup group;
  for (int round = 0; round < kRounds; ++round) {
    StopSource stop;
    std::latch go(2);
    const auto followers_before = group.GetStats().followers;
    Caller leader([&] {
      return group.Do("key",
                      [&](StopToken token) {
                        go.wait();
                        // Waits until the call is asked to stop, or the newcomer has joined it.
                        Await([&] {
                          return token.stop_requested() ||
                                 group.GetStats().followers > followers_before;
                        });
                        return token.stop_requested() ? 100 : 1;
                      },
                      {.stop = stop.get_token()});
    });
    AwaitCallers(group, "key", 1);
    JoiningThread stopper([&] {
      go.arrive_and_wait();
      stop.request_stop();
    });
    go.arrive_and_wait();
    const auto newcomer = Keep([&] { return group.Do("key", [] { return 7; }); });
    stopped_under_newcomer += newcomer.value == 100;
    leader.Join();
  }
  CHECK(stopped_under_newcomer == 0);
}

TEST_CASE("Promise 11: a stop requested from inside the leader's own function takes effect there") {
  IntGroup group;
  StopSource stop;
  const auto outcome = Keep([&] {
    return group.Do("key",
                    [&](StopToken token) {
                      stop.request_stop();
                      return token.stop_requested() ? 1 : 0;
                    },
                    {.stop = stop.get_token()});
  });
  CHECK(outcome.value == 1);
}

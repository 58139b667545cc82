// SPDX-License-Identifier: MIT

// Tests of DoMany.

#include <pthread.h>

#include <array>
#include <atomic>
#include <latch>
#include <list>
#include <map>
#include <span>
#include <unordered_map>

#include "support/allocations.hpp"
#include "support/batches.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {}  // namespace

TEST_CASE("DoMany: the function is run once, and the results are in the order of the keys") {
  IntGroup group;
  std::vector<Keys> runs;
  const auto results = DoMany(group, {3, 1, 2}, [&](std::span<const int> keys) {
    runs.emplace_back(keys.begin(), keys.end());
    return TenTimes(keys);
  });
  CHECK(runs == std::vector<Keys>{{3, 1, 2}});
  REQUIRE(results.size() == 3);
  CHECK(*results[0] == 30);
  CHECK(results[1].value() == 10);
  CHECK(results[2].result().value() == 20);
  for (const auto& result : results) {
    CHECK(static_cast<bool>(result));
    CHECK(result.error() == nullptr);
    CHECK_FALSE(result.shared());
    CHECK(result.role() == Role::kLeader);
    const auto& [value, shared] = result;
    CHECK(&value == &*result);
    CHECK_FALSE(shared);
  }
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("DoMany: a key that is given twice is asked for once, and its value is never copied") {
  Group<int, Counted> group;
  Counted::copies = 0;
  std::size_t asked = 0;
  const auto results = DoMany(group, {1, 2, 1, 1}, [&](std::span<const int> keys) {
    asked = keys.size();
    std::vector<Counted> values;
    for (const int key : keys) values.emplace_back(key);
    return values;
  });
  CHECK(asked == 2);
  REQUIRE(results.size() == 4);
  CHECK(&*results[0] == &*results[3]);
  CHECK(results[2]->value == 1);
  CHECK(results[0].shared());  // three places share it
  CHECK_FALSE(results[1].shared());
  CHECK(Counted::copies == 0);
  CHECK(group.GetStats() == Stats{.executions = 2});
}

TEST_CASE("DoMany: keys in flight are joined, and the function gets the rest") {
  IntGroup group;
  HeldCall in_flight(group, 2);  // its fn returns 1
  std::atomic<bool> ran = false;
  JoiningThread release([&] {
    Await([&] { return group.Callers(2) == 2 && ran; });
    in_flight.Finish();
  });
  Keys got;
  const auto results = DoMany(group, {1, 2, 3}, [&](std::span<const int> keys) {
    got.assign(keys.begin(), keys.end());
    ran = true;
    return TenTimes(keys);
  });
  CHECK(got == Keys{1, 3});
  CHECK(*results[0] == 10);
  CHECK(*results[1] == 1);
  CHECK(results[1].shared());
  CHECK(results[1].role() == Role::kFollower);
  CHECK(*results[2] == 30);
  release.join();
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1});
}

TEST_CASE("DoMany: if all keys are in flight, or there are no keys, the function is not run") {
  IntGroup group;
  {
    HeldCall in_flight(group, 1);
    JoiningThread release([&] {
      AwaitCallers(group, 1, 2);
      in_flight.Finish();
    });
    const auto results = DoMany(group, {1, 1}, MustNotRun);
    CHECK(*results[0] == 1);
    CHECK(*results[1] == 1);
  }
  CHECK(DoMany(group, Keys(), MustNotRun).empty());
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

TEST_CASE(
    "Promise 1: callers that ask for a batch's keys while its function runs become followers") {
  IntGroup group;
  std::vector<JoiningThread> threads;
  Outcome<int> one;
  Outcome<int> two;
  const auto results = DoMany(group, {1, 2}, [&](std::span<const int> keys) {
    threads.emplace_back([&] { one = Keep([&] { return group.Do(1, [] { return -1; }); }); });
    threads.emplace_back([&] { two = Keep([&] { return group.Do(2, [] { return -1; }); }); });
    AwaitCallers(group, 1, 2);
    AwaitCallers(group, 2, 2);
    return TenTimes(keys);
  });
  threads.clear();
  CHECK(one.value == 10);
  CHECK(two.value == 20);
  CHECK(results[0].shared());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2});
}

TEST_CASE("DoMany: a function that throws fails its own keys and no others") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  Outcome<int> follower;
  JoiningThread thread;
  JoiningThread release([&] {
    AwaitCallers(group, 2, 2);
    Await([&] { return group.GetStats().failures == 2; });
    in_flight.Finish();
  });
  const auto results = DoMany(group, {1, 2, 3}, [&](std::span<const int>) -> Keys {
    thread =
        JoiningThread([&] { follower = Keep([&] { return group.Do(1, [] { return -1; }); }); });
    AwaitCallers(group, 1, 2);
    throw std::runtime_error("down");
  });
  thread.join();
  CHECK(follower.message == "down");
  CHECK_FALSE(static_cast<bool>(results[0]));
  CHECK(results[0].error() != nullptr);
  CHECK_THROWS_WITH(results[0].value(), "down");
  CHECK_THROWS_WITH(*results[2], "down");
  CHECK_THROWS_WITH(results[2].shared(), "down");
  CHECK(*results[1] == 1);
}

TEST_CASE(
    "DoMany: a wrong number of values is an error for exactly the keys that the function got") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  JoiningThread release([&] {
    AwaitCallers(group, 2, 2);
    in_flight.Finish();
  });
  const auto fewer = DoMany(group, {1, 2, 3}, [](std::span<const int>) { return Keys{1}; });
  CHECK(ErrorOfKey(fewer[0]) == std::errc::invalid_argument);
  CHECK(*fewer[1] == 1);
  CHECK(ErrorOfKey(fewer[2]) == std::errc::invalid_argument);
  const auto more = DoMany(group, {1}, [](std::span<const int>) { return Keys{1, 2}; });
  CHECK(ErrorOfKey(more[0]) == std::errc::invalid_argument);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE(
    "DoMany: a map gives each key its value, and a key that it lacks gets an error of its own") {
  IntGroup group;
  const auto map = DoMany(group, {3, 1, 2}, [](std::span<const int>) {
    return std::map<int, int>{{1, 10}, {3, 30}, {4, 40}};
  });
  CHECK(*map[0] == 30);
  CHECK(*map[1] == 10);
  CHECK(ErrorOfKey(map[2]) == std::errc::no_message);
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 1});

  Group<std::string, std::unique_ptr<int>> pointers;
  const auto moved = DoMany(pointers, {"a"}, [](std::span<const std::string> keys) {
    std::unordered_map<std::string, std::unique_ptr<int>> values;
    values[keys[0]] = std::make_unique<int>(7);
    return values;
  });
  CHECK(**moved[0] == 7);
}

TEST_CASE(
    "DoMany: values are moved out of a returned container, but not out of one that others own") {
  Group<int, std::string> group;
  const std::string text = "too long for the small string optimization";
  std::vector<std::string> kept{text};
  const auto by_reference =
      DoMany(group, {1}, [&](std::span<const int>) -> std::vector<std::string>& { return kept; });
  const auto by_view =
      DoMany(group, {1}, [&](std::span<const int>) { return std::span<std::string>(kept); });
  std::map<int, std::string> map{{1, text}};
  const auto by_map =
      DoMany(group, {1}, [&](std::span<const int>) -> std::map<int, std::string>& { return map; });
  CHECK(*by_map[0] == text);
  CHECK(map[1] == text);
  CHECK(*by_reference[0] == text);
  CHECK(*by_view[0] == text);
  CHECK(kept[0] == text);

  Group<int, Counted> counted;
  Counted::copies = 0;
  const auto moved = DoMany(counted, {1, 2}, [](std::span<const int>) {
    std::list<Counted> values;
    values.emplace_back(1);
    values.emplace_back(2);
    return values;
  });
  CHECK(moved[1]->value == 2);
  CHECK(Counted::copies == 0);
}

TEST_CASE("DoMany: keys may be anything that Do takes, and values may be void or move-only") {
  Group<std::string, int> group;
  const std::array<std::string_view, 2> views{"a", "bb"};
  CHECK(*DoMany(group, {"a", "bb"}, [](std::span<const std::string> keys) {
    return std::array{static_cast<int>(keys[0].size()), static_cast<int>(keys[1].size())};
  })[1] == 2);
  CHECK(*DoMany(group, views, [](std::span<const std::string> keys) {
    return std::vector<bool>{keys[0] == "b", keys[1] == "bb"};  // its elements are proxies
  })[1] == 1);

  Group<unsigned, int> numbers;
  CHECK_THROWS_AS(static_cast<void>(DoMany(numbers, Keys{1, -1},
                                           [](std::span<const unsigned>) { return Keys(); })),
                  std::out_of_range);
  CHECK(numbers.GetStats() == Stats());

  Group<int, void> nothing;
  int ran = 0;
  const auto results = DoMany(nothing, {1, 2}, [&](std::span<const int>) { ++ran; });
  results[0].value();
  *results[1];
  CHECK(ran == 1);

  Group<int, std::unique_ptr<int>> pointers;
  auto owned = DoMany(pointers, {1}, [](std::span<const int>) {
    std::vector<std::unique_ptr<int>> values;
    values.push_back(std::make_unique<int>(7));
    return values;
  });
  CHECK(**std::move(owned[0]).result() == 7);
}

TEST_CASE("DoMany: it lands its own keys before it waits for those of other callers") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  JoiningThread release([&] {
    AwaitCallers(group, 2, 2);
    Await([&] { return group.GetStats().in_flight == 1; });  // key 1 has landed
    in_flight.Finish();
  });
  const auto results = DoMany(group, {2, 1}, TenTimes);
  CHECK(*results[0] == 1);
  CHECK(*results[1] == 10);
}

TEST_CASE("Promise 9: batches that overlap in any order never wait for each other in a cycle") {
  constexpr int kRounds = 500;
  IntGroup group;
  std::atomic<int> right = 0;
  {
    std::vector<JoiningThread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&, t] {
        for (int round = 0; round < kRounds; ++round) {
          Keys keys{0, 1, 2, 3, 4, 5};
          std::rotate(keys.begin(), keys.begin() + (t + round) % 6, keys.end());
          if (t % 2 == 1) std::reverse(keys.begin(), keys.end());
          const auto results = DoMany(group, keys, TenTimes);
          for (std::size_t i = 0; i < keys.size(); ++i)
            right += *results[i] == 10 * keys[i] ? 1 : 0;
        }
      });
    }
  }
  CHECK(right == 4 * 6 * kRounds);
  const Stats stats = group.GetStats();
  CHECK(stats.executions + stats.followers == 4 * 6 * kRounds);
  CHECK(stats.failures + stats.left + stats.in_flight == 0);
}

TEST_CASE("Promise 9: a function that asks for one of its own keys is refused") {
  IntGroup group;
  std::optional<std::errc> alone;
  std::optional<std::errc> in_batch;
  const auto results = DoMany(group, {1, 2}, [&](std::span<const int> keys) {
    alone = ErrorOf([&] { return group.Do(2, [] { return -1; }); });
    const auto inner = DoMany(group, {3, 1}, TenTimes);
    in_batch = ErrorOfKey(inner[1]);
    return Keys{*inner[0], keys[1]};
  });
  CHECK(alone == std::errc::resource_deadlock_would_occur);
  CHECK(in_batch == std::errc::resource_deadlock_would_occur);
  CHECK(*results[0] == 30);
  CHECK(*results[1] == 2);
  CHECK_FALSE(results[0].shared());
}

TEST_CASE(
    "Promise 9: a waiter that is notified of a batch's failure cannot wait for its other keys") {
  struct AsksForTwo final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      refused = ErrorOf([this] { return group->Do(2, [] { return -1; }); });
    }
    IntGroup* group = nullptr;
    std::optional<std::errc> refused;
  } told;
  IntGroup group;
  told.group = &group;
  const auto results = DoMany(group, {1, 2}, [&](std::span<const int>) -> Keys {
    group.Join(1, told, [](IntGroup::Lead) {});
    throw std::runtime_error("no answer");
  });
  CHECK(told.refused == std::errc::resource_deadlock_would_occur);
  CHECK_FALSE(results[0]);
}

TEST_CASE(
    "Promise 9: until all have landed, a batch's thread counts as the leader of each of its keys") {
  IntGroup group;
  // A value that is computed when it is read.
  struct Lazy {
    operator int() const {
      *refused = ErrorOf([this] { return group->Do(2, [] { return -1; }); });
      return 7;
    }
    IntGroup* group;
    std::optional<std::errc>* refused;
  };
  std::optional<std::errc> lazily;
  const auto results = DoMany(group, {1, 2}, [&](std::span<const int> keys) {
    return std::vector<Lazy>(keys.size(), Lazy{&group, &lazily});
  });
  CHECK(lazily == std::errc::resource_deadlock_would_occur);
  CHECK(*results[1] == 7);

  // A waiter that is notified of key 1, and then blocks on key 2.
  struct Blocking final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      refused = ErrorOf([this] { return group->Do(2, [] { return -1; }); });
    }
    IntGroup* group = nullptr;
    std::optional<std::errc> refused;
  } waiter;
  waiter.group = &group;
  const auto others = DoMany(group, {1, 2}, [&](std::span<const int> keys) {
    group.Join(1, waiter, [](auto) { FAIL("no call may be launched"); });
    return TenTimes(keys);
  });
  CHECK(waiter.refused == std::errc::resource_deadlock_would_occur);
  CHECK(*others[1] == 20);
}

TEST_CASE(
    "Promise 9: a batch that leaves is no longer waiting, even while it asks the call to stop") {
  // The batch is the last caller to leave 1, and runs inside 2. When asked to stop, the leader of 1
  // asks for 2.
  IntGroup group;
  StopSource stop_leader;
  StopSource stop_batch;
  Caller leader([&] {
    return group.Do(1,
                    [&](StopToken token) {
                      // This runs on the leaving thread, and blocks it until the leader has asked.
                      std::atomic<bool> refused = false;
                      const StopCallback on_stop(
                          token, [&] { Await([&] { return refused || group.Callers(2) == 2; }); });
                      AwaitCallers(group, 1, 2);
                      stop_leader.request_stop();
                      stop_batch.request_stop();
                      Await([&] { return token.stop_requested(); });
                      const auto error = ErrorOf([&] { return group.Do(2, [] { return -1; }); });
                      refused = error.has_value();
                      return refused ? -1 : 10;
                    },
                    {.stop = stop_leader.get_token()});
  });
  AwaitCallers(group, 1, 1);
  const auto outer = Keep([&] {
    return group.Do(2, [&] {
      const auto results = DoMany(group, {1}, MustNotRun, {.stop = stop_batch.get_token()});
      return ErrorOfKey(results[0]) == std::errc::operation_canceled ? 20 : -1;
    });
  });
  CHECK(outer.value == 20);
  CHECK(leader.Join().value == 10);
}

TEST_CASE(
    "Promise 10: keys that do not land in time are timed out, and the others get their results") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  const auto results = DoMany(group, {1, 2, 3}, TenTimes, {.timeout = 1ms});
  CHECK(*results[0] == 10);
  CHECK(ErrorOfKey(results[1]) == std::errc::timed_out);
  CHECK(*results[2] == 30);
  CHECK(group.Callers(2) == 1);
  CHECK(in_flight.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1, .left = 1});
}

TEST_CASE(
    "Promise 10: a batch that is stopped leaves the calls of others, and keeps its own results") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  StopSource stop;
  JoiningThread stopping([&] {
    AwaitCallers(group, 2, 2);
    Await([&] { return group.GetStats().in_flight == 1; });
    stop.request_stop();
  });
  const auto results = DoMany(group, {1, 2, 2}, TenTimes, {.stop = stop.get_token()});
  CHECK(*results[0] == 10);
  CHECK(ErrorOfKey(results[1]) == std::errc::operation_canceled);
  CHECK(ErrorOfKey(results[2]) == std::errc::operation_canceled);
  const auto late = DoMany(group, {3}, MustNotRun, {.stop = stop.get_token()});
  CHECK(ErrorOfKey(late[0]) == std::errc::operation_canceled);
  CHECK(in_flight.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 1});
}

TEST_CASE(
    "Promise 10: a batch that is stopped while its function runs leaves others' calls at once") {
  IntGroup group;
  HeldCall in_flight(group, 2);
  StopSource stop;
  std::size_t before = 0;
  std::size_t after = 0;
  const auto fn = [&](std::span<const int> keys) {
    before = group.Callers(2);
    stop.request_stop();
    after = group.Callers(2);
    return TenTimes(keys);
  };
  const auto results = DoMany(group, {1, 2, 2}, fn, {.stop = stop.get_token()});
  CHECK(before == 2);
  CHECK(after == 1);
  for (const auto& result : results) CHECK(ErrorOfKey(result) == std::errc::operation_canceled);
  CHECK(in_flight.Finish().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 2});
}

TEST_CASE("Promise 11: work that only a stopped batch wanted need not wait for the batch's own") {
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiter;
  IntGroup group;
  std::optional<IntGroup::Lead> lead;
  StopToken unwanted;
  group.Join(2, waiter, [&](IntGroup::Lead its_lead) {
    unwanted = its_lead.GetStopToken();
    lead = std::move(its_lead);
  });
  StopSource stop;
  bool asked_early = true;
  bool asked = false;
  const auto fn = [&](std::span<const int> keys) {
    group.Leave(waiter);
    asked_early = unwanted.stop_requested();
    stop.request_stop();
    asked = unwanted.stop_requested();
    return TenTimes(keys);
  };
  const auto results =
      DoMany(group, {1, 2}, fn, {.stop = stop.get_token(), .on_failure = OnFailure::kRetry});
  CHECK_FALSE(asked_early);
  CHECK(asked);
  CHECK(ErrorOfKey(results[1]) == std::errc::operation_canceled);
  lead.reset();
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 1, .left = 3});
}

TEST_CASE("Promise 10: a batch can be stopped while the range that its function returned is read") {
  IntGroup group;
  HeldCall in_flight(group, 9);
  StopSource stop;
  struct Stopping {
    operator int() const {
      if (key == 2) stop->request_stop();
      return 10 * key;
    }
    int key;
    StopSource* stop;
  };
  const auto fn = [&](std::span<const int> keys, StopToken unwanted) {
    std::vector<Stopping> values;
    for (const int key : keys) values.push_back({key, &stop});
    CHECK_FALSE(unwanted.stop_requested());
    return values;
  };
  const auto results = DoMany(group, {1, 2, 3, 9}, fn, {.stop = stop.get_token()});
  CHECK(*results[0] == 10);  // had landed
  CHECK(ErrorOfKey(results[1]) == std::errc::operation_canceled);
  CHECK(ErrorOfKey(results[2]) == std::errc::operation_canceled);
  CHECK(ErrorOfKey(results[3]) == std::errc::operation_canceled);
}

TEST_CASE(
    "Promise 10: when landing and a stop race while the function runs, a key gets one outcome") {
  constexpr int kRounds = 500;
  IntGroup group;
  int outcomes = 0;
  std::uint64_t canceled = 0;
  for (int round = 0; round < kRounds; ++round) {
    HeldCall in_flight(group, 1);
    StopSource stop;
    std::latch together(3);
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    JoiningThread finishing([&] {
      together.arrive_and_wait();
      in_flight.Finish();
    });
    const auto fn = [&](std::span<const int> keys) {
      together.arrive_and_wait();
      return TenTimes(keys);
    };
    const auto results = DoMany(group, {1, 2}, fn, {.stop = stop.get_token()});
    for (const auto& result : results) {
      if (ErrorOfKey(result) == std::errc::operation_canceled) ++canceled;
      if (!result || *result == (&result == results.data() ? 1 : 20)) ++outcomes;
    }
  }
  CHECK(outcomes == 2 * kRounds);
  CHECK(group.GetStats() ==
        Stats{.executions = 2 * kRounds, .followers = kRounds, .left = canceled});
}

TEST_CASE("Promise 11: a batch that is stopped while its function runs leaves its keys to others") {
  IntGroup group;
  StopSource stop;
  Outcome<int> follower;
  JoiningThread thread;
  bool asked_too_early = false;
  bool asked = false;
  const auto fn = [&](std::span<const int> keys, StopToken token) {
    StopSource follower_stop;
    thread = JoiningThread([&, its_stop = follower_stop.get_token()] {
      follower = Keep([&] { return group.Do(1, [] { return -1; }, {.stop = its_stop}); });
    });
    AwaitCallers(group, 1, 2);
    stop.request_stop();
    asked_too_early = token.stop_requested();  // key 1 still has a caller
    follower_stop.request_stop();
    Await([&] { return group.GetStats().left == 3; });
    Await([&] { return token.stop_requested(); });
    asked = true;
    return TenTimes(keys);
  };
  const auto results = DoMany(group, {1, 2}, fn, {.stop = stop.get_token()});
  thread.join();
  CHECK_FALSE(asked_too_early);
  CHECK(asked);
  CHECK(ErrorOfKey(results[0]) == std::errc::operation_canceled);
  CHECK(ErrorOfKey(results[1]) == std::errc::operation_canceled);
  CHECK(follower.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .left = 3});
}

TEST_CASE("Promise 11: a caller that still wants a key of a stopped batch gets its value") {
  IntGroup group;
  StopSource stop;
  Outcome<int> follower;
  JoiningThread thread;
  const auto fn = [&](std::span<const int> keys) {
    thread =
        JoiningThread([&] { follower = Keep([&] { return group.Do(1, [] { return -1; }); }); });
    AwaitCallers(group, 1, 2);
    stop.request_stop();
    return TenTimes(keys);
  };
  const auto results = DoMany(group, {1, 2}, fn, {.stop = stop.get_token()});
  thread.join();
  CHECK(follower.value == 10);
  CHECK(ErrorOfKey(results[0]) == std::errc::operation_canceled);
}

TEST_CASE("Promise 10: when results and a stop race, each key gets exactly one of them") {
  constexpr int kRounds = 500;
  IntGroup group;
  int outcomes = 0;
  std::uint64_t canceled = 0;
  for (int round = 0; round < kRounds; ++round) {
    HeldCall in_flight(group, 1);
    StopSource stop;
    std::latch together(2);
    JoiningThread finishing([&] {
      AwaitCallers(group, 1, 2);
      together.arrive_and_wait();
      in_flight.Finish();
    });
    JoiningThread stopping([&] {
      together.arrive_and_wait();
      stop.request_stop();
    });
    const auto results = DoMany(group, {1}, MustNotRun, {.stop = stop.get_token()});
    if (results[0]) {
      outcomes += *results[0];
    } else {
      ++outcomes;
      canceled += ErrorOfKey(results[0]) == std::errc::operation_canceled ? 1 : 0;
    }
  }
  CHECK(outcomes == kRounds);
  CHECK(group.GetStats() == Stats{.executions = kRounds, .followers = kRounds, .left = canceled});
}

TEST_CASE("DoMany: with kRetry it asks again for keys whose leader failed, and for no others") {
  IntGroup group;
  JoiningThread failing([&] {
    static_cast<void>(ErrorOf([&] {
      return group.Do(1, [&]() -> int {
        AwaitCallers(group, 1, 2);
        throw std::system_error(std::make_error_code(std::errc::io_error));
      });
    }));
  });
  AwaitCallers(group, 1, 1);
  std::vector<Keys> runs;
  const auto fn = [&](std::span<const int> keys) -> Keys {
    runs.emplace_back(keys.begin(), keys.end());
    if (keys[0] == 2) throw std::runtime_error("down");
    return TenTimes(keys);
  };
  const auto results = DoMany(group, {1, 2}, fn, {.on_failure = OnFailure::kRetry});
  CHECK(runs == std::vector<Keys>{{2}, {1}});
  CHECK(*results[0] == 10);
  CHECK(results[0].role() == Role::kLeader);
  CHECK_THROWS_WITH(*results[1], "down");
}

TEST_CASE("DoMany: a key that is refused when it is asked for again has that error") {
  struct TakesThePlace final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      place.emplace([this] { return group->Do(5, [this] { return finish.wait(), 1; }); });
      AwaitCallers(*group, 5, 1);
    }
    IntGroup* group = nullptr;
    std::latch finish{1};
    std::optional<Caller<int>> place;
  } waiter;
  IntGroup group({.max_calls_in_flight = 1});
  waiter.group = &group;
  std::optional<IntGroup::Lead> lead;
  group.Join(1, waiter, [&](auto its_lead) { lead = std::move(its_lead); });
  JoiningThread failing([&] {
    AwaitCallers(group, 1, 2);
    lead->Fail(std::make_exception_ptr(std::runtime_error("down")));
  });
  const auto results = DoMany(group, {1}, MustNotRun, {.on_failure = OnFailure::kRetry});
  CHECK(ErrorOfKey(results[0]) == std::errc::resource_unavailable_try_again);
  waiter.finish.count_down();
  CHECK(waiter.place->Join().value == 1);
}

TEST_CASE(
    "Promise 8: when a batch asks again, the earlier failure is destroyed with no lock held") {
  IntGroup group;
  struct Asking {
    ~Asking() { static_cast<void>(group->GetStats()); }  // waits for ever if a lock is held
    IntGroup* group;
  };
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiters[2];
  std::optional<IntGroup::Lead> leads[2];
  for (int i = 0; i < 2; ++i) {
    group.Join(i, waiters[i], [&](auto lead) { leads[i] = std::move(lead); });
  }
  JoiningThread failing([&] {
    AwaitCallers(group, 1, 2);
    for (int i = 0; i < 2; ++i) {
      group.Leave(waiters[i]);
      leads[i]->Fail(std::make_exception_ptr(std::make_shared<Asking>(Asking{&group})));
      leads[i].reset();
    }
  });
  const auto results = DoMany(group, {0, 1}, TenTimes, {.on_failure = OnFailure::kRetry});
  CHECK(*results[0] == 0);
  CHECK(*results[1] == 10);
}

TEST_CASE("Promise 12: a key that a limit refuses has its own error") {
  IntGroup group({.max_calls_in_flight = 2});
  const auto results = DoMany(group, {1, 2, 3}, TenTimes);
  CHECK(*results[0] == 10);
  CHECK(*results[1] == 20);
  CHECK(ErrorOfKey(results[2]) == std::errc::resource_unavailable_try_again);
  CHECK(group.GetStats() == Stats{.executions = 2, .refused = 1});
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE(
    "Promise 6: if a thread is cancelled inside the function, its keys land with owner_dead") {
  IntGroup group;
  std::latch inside(1);
  std::thread batch([&] {
    static_cast<void>(DoMany(group, {1, 2}, [&](std::span<const int> keys) {
      inside.count_down();
      for (;;) pthread_testcancel();
      return TenTimes(keys);
    }));
  });
  inside.wait();
  Caller follower([&] { return group.Do(2, [] { return -1; }); });
  AwaitCallers(group, 2, 2);
  pthread_cancel(batch.native_handle());
  batch.join();
  CHECK(follower.Join().error == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 2, .left = 2});
}
#endif

TEST_CASE("Promise 7: whichever allocation fails, the batch finishes, and the keys work again") {
  Group<std::string, int> group;
  struct Silent final : Group<std::string, int>::Waiter {
    void OnLanded() noexcept override {}
  };
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    Silent waiter;
    std::optional<Group<std::string, int>::Lead> lead;
    group.Join("in flight", waiter, [&](auto its_lead) { lead = std::move(its_lead); });
    const auto fn = [&](std::span<const std::string> keys) {
      lead->Succeed(7);
      return Keys(keys.size(), 7);
    };
    bool complete = false;
    try {
      const FailAllocations fail(allocation);
      const auto results = DoMany(group, {"a", "in flight", "b"}, fn, {.timeout = 0ns});
      complete = results[0] && results[1] && results[2];
    } catch (const std::bad_alloc&) {
    }
    CHECK(group.Callers("a") + group.Callers("b") == 0);
    lead.reset();
    CHECK(group.GetStats().in_flight == 0);
    if (complete) break;
    ++failures;
  }
  CHECK(failures > 10);
}

TEST_CASE("Promise 7: a batch can be stopped when there is no memory") {
  IntGroup group;
  StopSource stop;
  const auto results = DoMany(group, {1, 2},
                              [&](std::span<const int> keys) {
                                {
                                  const FailAllocations fail(0);
                                  stop.request_stop();
                                }
                                return TenTimes(keys);
                              },
                              {.stop = stop.get_token()});
  CHECK(ErrorOfKey(results[1]) == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 2, .left = 2});
}

TEST_CASE("Promise 8: the function runs, and values are moved, with no lock held") {
  struct Asking {
    explicit Asking(Group<int, Asking>& its_group) : group(&its_group) {}
    Asking(Asking&& other) noexcept : group(other.group) {
      ++moves;
      static_cast<void>(group->GetStats());  // waits for ever if a lock is held
    }
    Group<int, Asking>* group;
    int moves = 0;
  };
  Group<int, Asking> group;
  const auto results = DoMany(group, {1, 2}, [&](std::span<const int>) {
    static_cast<void>(group.GetStats());
    std::vector<Asking> values;
    values.reserve(2);
    values.emplace_back(group);
    values.emplace_back(group);
    return values;
  });
  CHECK(results[1]->moves > 0);
}

TEST_CASE("Promise 13: what the leaders did happens before a batch and its followers continue") {
  IntGroup group;
  int wrong = 0;
  for (int round = 1; round <= 200; ++round) {
    int by_batch = 0;
    int by_other = 0;
    int read_by_follower = 0;
    Caller other([&] {
      return group.Do(1, [&] {
        AwaitCallers(group, 1, 2);
        return by_other = round;
      });
    });
    AwaitCallers(group, 1, 1);
    JoiningThread follower;
    const auto results = DoMany(group, {1, 2}, [&](std::span<const int>) {
      follower = JoiningThread([&] {
        group.Do(2, [] { return -1; }).value();
        read_by_follower = by_batch;
      });
      AwaitCallers(group, 2, 2);
      return Keys{by_batch = round};
    });
    if (*results[0] != round || by_other != round) ++wrong;
    follower.join();
    other.Join();
    if (read_by_follower != round) ++wrong;
  }
  CHECK(wrong == 0);
}

TEST_CASE("Promise 14: a batch leaves nothing behind that the group would have to wait for") {
  std::vector<KeyResult<int>> results;
  singleflight::Future<int> follower;
  {
    IntGroup group;
    results = DoMany(group, {1, 2}, [&](std::span<const int> keys) {
      follower = singleflight::DoAsync(group, 2, [] { return -1; });
      return TenTimes(keys);
    });
    CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1});
  }
  CHECK(*results[1] == 20);
  CHECK(results[1].shared());
  CHECK(*follower.Get() == 20);
}

TEST_CASE(
    "Promise 14: if a group is destroyed, a batch that its fn runs asks its own call to stop") {
  // The batch is the work of an asynchronous call, on a thread of its own, so ~Group waits for it.
  int value = 0;
  {
    IntGroup group;
    IntGroup others;
    std::latch inside(1);
    auto unread = singleflight::DoAsync(group, 1, [&](StopToken stop) {
      const auto results = DoMany(others, {1},
                                  [&](std::span<const int> keys, StopToken unwanted) {
                                    inside.count_down();
                                    Await([&] { return unwanted.stop_requested(); });
                                    return TenTimes(keys);
                                  },
                                  {.stop = stop});
      return value = ErrorOfKey(results[0]) == std::errc::operation_canceled ? 1 : 2;
    });
    inside.wait();
  }
  CHECK(value == 1);
}

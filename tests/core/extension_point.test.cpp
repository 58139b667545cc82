// SPDX-License-Identifier: MIT

// These tests cover Join, Leave, Lead and Waiter, the interface of callers that do not block. They
// also cover promise 14 (lifetime).

#include <atomic>
#include <future>
#include <latch>
#include <mutex>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = Group<std::string, int>;
using Lead = IntGroup::Lead;

// A caller that counts how often it is notified.
struct TestWaiter final : IntGroup::Waiter {
  void OnLanded() noexcept override {
    landed_on = std::this_thread::get_id();
    in_catch_block = std::current_exception() != nullptr;
    ++landed;
  }
  Outcome<int> Take() {
    return Keep([this] { return TakeResult(); });
  }
  std::atomic<int> landed = 0;
  std::thread::id landed_on;
  bool in_catch_block = false;
};

// Returns a launch that keeps the lead for the test to use.
auto KeepIn(std::optional<Lead>& kept) {
  return [&kept](Lead lead) { kept = std::move(lead); };
}

void MustNotLaunch(Lead) { FAIL("launch was called for a follower"); }

// Counts how often each thread has locked a mutex of this type.
struct CountedMutex {
  void lock() {
    mutex.lock();
    ++taken;
  }
  void unlock() { mutex.unlock(); }
  std::mutex mutex;
  static inline thread_local int taken = 0;
};
struct CountedLocks : singleflight::GroupTraits {
  using Mutex = CountedMutex;
};
using CountedGroup = Group<std::string, int, singleflight::DefaultHash<std::string>,
                           singleflight::DefaultEqual<std::string>, CountedLocks>;

struct OneShard : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 1;
};
using OneShardGroup =
    Group<int, int, singleflight::DefaultHash<int>, singleflight::DefaultEqual<int>, OneShard>;

template <class Act>
int LocksTakenBy(Act&& act) {
  const int before = CountedMutex::taken;
  act();
  return CountedMutex::taken - before;
}

}  // namespace

TEST_CASE("Join: the first waiter leads, and the value is moved to it if it is the only caller") {
  Group<int, std::unique_ptr<int>> group;
  struct Silent final : Group<int, std::unique_ptr<int>>::Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  } waiter;
  const Role role = group.Join(1, waiter, [](auto lead) {
    CHECK(lead.Succeed(std::make_unique<int>(7)));
    CHECK_FALSE(lead.Succeed(nullptr));  // the call has landed already
  });
  CHECK(role == Role::kLeader);
  CHECK(waiter.landed == 1);
  const auto result = waiter.TakeResult();
  CHECK(**result == 7);
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("Join: later waiters follow, and all are notified in the order in which they joined") {
  static std::vector<int> order;
  order.clear();
  struct Ordered final : IntGroup::Waiter {
    void OnLanded() noexcept override { order.push_back(number); }
    int number = 0;
  };
  IntGroup group;
  Ordered waiters[4];
  std::optional<Lead> lead;
  for (int i = 0; i < 4; ++i) {
    waiters[i].number = i;
    const Role role = i == 0 ? group.Join("key", waiters[i], KeepIn(lead))
                             : group.Join("key", waiters[i], MustNotLaunch);
    CHECK(role == (i == 0 ? Role::kLeader : Role::kFollower));
  }
  CHECK(group.Callers("key") == 4);
  CHECK(lead->Succeed(7));
  CHECK(order == std::vector<int>{0, 1, 2, 3});
  CHECK(group.Callers("key") == 0);
  const int* first = nullptr;
  for (auto& waiter : waiters) {
    const auto result = waiter.TakeResult();
    CHECK(*result == 7);
    CHECK(result.shared());
    if (first == nullptr) first = &*result;
    if (waiter.number == 1) CHECK(first != nullptr);
  }
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3});
}

TEST_CASE("Join: waiters and blocked threads can be callers of the same call") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  Caller blocked([&] { return group.Do("key", [] { return -1; }); });
  Caller patient([&] { return group.Do("key", [] { return -1; }, {.timeout = 1h}); });
  AwaitCallers(group, "key", 3);
  JoiningThread([&] { lead->Succeed(7); }).join();
  CHECK(blocked.Join().value == 7);
  CHECK(patient.Join().value == 7);
  CHECK(blocked.Join().shared);
  CHECK(waiter.landed == 1);
  CHECK(waiter.landed_on != std::this_thread::get_id());
  CHECK(waiter.Take().value == 7);
}

TEST_CASE("Joining, leaving and landing take one critical section each") {
  // A call that is found under the lock is used under the same lock, or it might land in between.
  CountedGroup group;
  TestWaiter leader;
  TestWaiter follower;
  std::optional<CountedGroup::Lead> lead;
  CHECK(LocksTakenBy([&] {
          group.Join("key", leader, [&](CountedGroup::Lead made) { lead = std::move(made); });
        }) == 1);
  CHECK(LocksTakenBy([&] { group.Join("key", follower, [](CountedGroup::Lead) {}); }) == 1);
  int by_blocked = 0;
  Caller blocked([&] {
    auto result = group.Do("key", [] { return -1; });
    by_blocked = CountedMutex::taken;
    return result;
  });
  AwaitCallers(group, "key", 3);
  CHECK(LocksTakenBy([&] { CHECK(follower.Leave()); }) == 1);
  CHECK(LocksTakenBy([&] { lead->Succeed(7); }) == 1);
  CHECK(blocked.Join().value == 7);
  CHECK(by_blocked == 1);
  CHECK(LocksTakenBy([&] { static_cast<void>(group.Do("key", [] { return 1; })); }) == 2);
}

TEST_CASE("Leave: after the call has landed, Leave does not touch the group") {
  CountedGroup group;
  TestWaiter waiter;
  group.Join("key", waiter, [](CountedGroup::Lead lead) { lead.Succeed(7); });
  CHECK(LocksTakenBy([&] { CHECK_FALSE(waiter.Leave()); }) == 0);
}

TEST_CASE("Join: callers that block are woken before OnLanded runs") {
  struct LooksAtFuture final : IntGroup::Waiter {
    void OnLanded() noexcept override { seen = future.WaitFor(0s); }
    singleflight::Future<int> future;
    std::future_status seen = std::future_status::deferred;
  } waiter;
  IntGroup group;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  waiter.future = group.Join("key", MustNotLaunch);
  lead->Succeed(1);
  CHECK(waiter.seen == std::future_status::ready);
  CHECK(*waiter.future.Get() == 1);
}

TEST_CASE("Join: a waiter may follow a leader that blocks") {
  IntGroup group;
  TestWaiter waiters[3];
  const auto result = group.Do("key", [&] {
    for (auto& waiter : waiters) {
      if (group.Join("key", waiter, MustNotLaunch) != Role::kFollower) return -1;
    }
    return 5;
  });
  CHECK(*result == 5);
  CHECK(result.shared());
  for (auto& waiter : waiters) {
    CHECK(waiter.landed == 1);
    const auto outcome = waiter.Take();
    CHECK(outcome.value == 5);
    CHECK(outcome.shared);
    CHECK(outcome.role == Role::kFollower);
  }
}

TEST_CASE("Join: a failure reaches waiters outside any catch block") {
  IntGroup group;
  TestWaiter follower;
  CHECK_THROWS_AS(static_cast<void>(group.Do("key",
                                             [&]() -> int {
                                               group.Join("key", follower, MustNotLaunch);
                                               throw std::runtime_error("down");
                                             })),
                  std::runtime_error);
  CHECK(follower.landed == 1);
  CHECK_FALSE(follower.in_catch_block);
  CHECK(follower.Take().message == "down");

  TestWaiter leader;
  group.Join("key", leader, [](Lead) { throw std::runtime_error("no executor"); });
  CHECK(leader.landed == 1);
  CHECK_FALSE(leader.in_catch_block);
  CHECK(leader.Take().message == "no executor");
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 2});
}

TEST_CASE("Join: a launch that throws after the call has landed changes nothing") {
  IntGroup group;
  TestWaiter waiter;
  group.Join("key", waiter, [](Lead lead) {
    lead.Succeed(1);
    throw std::runtime_error("too late");
  });
  CHECK(waiter.landed == 1);
  CHECK(waiter.Take().value == 1);
}

TEST_CASE("Join: a waiter can be used again after it has taken its result or left") {
  IntGroup group;
  TestWaiter waiter;
  for (int i = 0; i < 3; ++i) {
    group.Join("key", waiter, [i](Lead lead) { lead.Succeed(i); });
    CHECK(waiter.Take().value == i);
    std::optional<Lead> lead;
    group.Join("key", waiter, KeepIn(lead));
    CHECK(group.Leave(waiter));
  }
  CHECK(waiter.landed == 3);
}

TEST_CASE("Join: OnLanded may ask for the same key again, which starts a new call") {
  static IntGroup* group_of_waiter;
  struct Asks final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      const int first = *TakeResult();
      again = *group_of_waiter->Do("key", [&] { return first + 1; });
    }
    int again = 0;
  } waiter;
  IntGroup group;
  group_of_waiter = &group;
  group.Join("key", waiter, [](Lead lead) { lead.Succeed(1); });
  CHECK(waiter.again == 2);
}

TEST_CASE("Join: OnLanded may destroy the waiter and the lead that landed it") {
  struct OwnsLead final : IntGroup::Waiter {
    explicit OwnsLead(int& its_count) : count(its_count) {}
    void OnLanded() noexcept override {
      ++count;
      delete this;
    }
    int& count;
    std::optional<Lead> lead;
  };
  int landed = 0;
  IntGroup group;
  auto* first = new OwnsLead(landed);
  auto* second = new OwnsLead(landed);
  group.Join("key", *first, [&](Lead lead) { first->lead = std::move(lead); });
  group.Join("key", *second, MustNotLaunch);
  CHECK(first->lead->Succeed(1));
  CHECK(landed == 2);
}

TEST_CASE("Lead: when the last copy is dropped, the call lands with owner_dead") {
  IntGroup group;
  TestWaiter waiter;
  {
    std::optional<Lead> lead;
    group.Join("key", waiter, KeepIn(lead));
    const Lead copy = *lead;
    lead.reset();
    CHECK(waiter.landed == 0);
    CHECK(group.Callers("key") == 1);
  }
  CHECK(waiter.landed == 1);
  CHECK(waiter.Take().error == std::errc::owner_dead);
  CHECK(group.Callers("key") == 0);

  TestWaiter ignored;
  group.Join("key", ignored, [](Lead) {});  // an executor that drops its task
  CHECK(ignored.landed == 1);
  CHECK(ignored.Take().error == std::errc::owner_dead);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

TEST_CASE(
    "Lead: a Lead fits into a std::function, and lands its call on whichever thread runs that") {
  IntGroup group;
  TestWaiter waiter;
  std::function<void()> task;
  group.Join("key", waiter,
             [&](Lead lead) { task = [lead]() mutable { lead.Run([] { return 3; }); }; });
  JoiningThread worker(task);
  worker.join();
  task = nullptr;
  CHECK(waiter.landed == 1);
  CHECK(waiter.Take().value == 3);
}

TEST_CASE("Lead: Run calls the function once, and lands the call with what it returns or throws") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  int runs = 0;
  CHECK(lead->Run([&](StopToken token) {
    ++runs;
    return token.stop_possible() ? 1 : 0;
  }));
  CHECK_FALSE(lead->Run([&] { return ++runs; }));
  CHECK(runs == 1);
  CHECK(waiter.Take().value == 1);

  group.Join("key", waiter, KeepIn(lead));
  CHECK(lead->Run([]() -> int { throw std::runtime_error("down"); }));
  CHECK(waiter.Take().message == "down");
}

TEST_CASE("Lead: Run does nothing while another Run is in progress") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  int runs = 0;
  bool landed_inside = false;
  CHECK(lead->Run([&] {
    ++runs;
    landed_inside = Lead(*lead).Run([&] { return ++runs; });
    return 7;
  }));
  CHECK_FALSE(landed_inside);
  CHECK(runs == 1);
  CHECK(waiter.Take().value == 7);
}

TEST_CASE("Lead: of many threads that try to land one call, exactly one succeeds") {
  for (int round = 0; round < 200; ++round) {
    IntGroup group;
    TestWaiter waiter;
    std::optional<Lead> lead;
    group.Join("key", waiter, KeepIn(lead));
    std::atomic<int> won = 0;
    std::atomic<int> winner = 0;
    std::vector<JoiningThread> threads;
    for (int t = 1; t <= 4; ++t) {
      threads.emplace_back([&, t, copy = *lead]() mutable {
        const bool mine = t == 4 ? copy.Fail(nullptr) : copy.Succeed(t);
        if (mine) {
          ++won;
          winner = t;
        }
      });
    }
    threads.clear();
    CHECK(won == 1);
    CHECK(waiter.landed == 1);
    const auto outcome = waiter.Take();
    if (winner == 4) {
      CHECK(outcome.error == std::errc::owner_dead);
    } else {
      CHECK(outcome.value == winner);
    }
  }
}

TEST_CASE("Lead: a call costs one allocation, and its stop token one more once it is taken") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  const auto allocations_of = [](const auto& run) {
    const std::size_t before = allocations;
    run();
    return allocations - before;
  };
  CHECK(allocations_of([&] { group.Join("key", waiter, KeepIn(lead)); }) == 1);
  CHECK(allocations_of([&] { static_cast<void>(lead->GetStopToken()); }) == 1);
  CHECK(allocations_of([&] { static_cast<void>(lead->GetStopToken()); }) == 0);
  CHECK(allocations_of([&] { lead->Run([](StopToken) { return 1; }); }) == 0);
  CHECK(waiter.Take().value == 1);
}

TEST_CASE("Lead: all tokens of a call are of one stop, whichever copy takes them") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  std::vector<StopToken> tokens(8);
  {
    std::vector<JoiningThread> threads;
    for (StopToken& token : tokens) {
      threads.emplace_back([&token, copy = *lead] { token = copy.GetStopToken(); });
    }
  }
  lead->Start([&](StopToken token) { tokens.push_back(token); });
  for (const StopToken& token : tokens) {
    CHECK(token.stop_possible());
    CHECK(token == tokens.front());
  }
  CHECK(group.Leave(waiter));
  CHECK(tokens.front().stop_requested());
}

TEST_CASE("Lead: who refers weakly to a call keeps neither its key nor its value") {
  using PointerGroup = Group<std::string, std::shared_ptr<int>>;
  const auto value = std::make_shared<int>(1);
  std::weak_ptr<PointerGroup::Lead::LedgerType::AsyncCall> call;
  {
    PointerGroup group;
    auto first = group.Join("key", [&](PointerGroup::Lead lead) {
      call = lead.SharedCall();
      lead.Run([&value] { return value; });
    });
    auto second = std::move(first).Share();
    CHECK(**second.Get() == 1);
    CHECK(value.use_count() > 1);
  }
  CHECK(value.use_count() == 1);
  CHECK(call.expired());
}

TEST_CASE("Lead: no stop is requested of a token that is taken after the call has landed") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  lead->Succeed(1);
  CHECK_FALSE(lead->GetStopToken().stop_requested());
}

TEST_CASE("Lead: without memory for a stop token, GetStopToken throws, and the call continues") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  const auto take = [&] {
    const FailAllocations fail(0);
    return lead->GetStopToken();
  };
  CHECK_THROWS_AS(static_cast<void>(take()), std::bad_alloc);
  CHECK(group.Callers("key") == 1);
  CHECK(lead->GetStopToken().stop_possible());
  lead->Succeed(1);
  CHECK(waiter.Take().value == 1);
}

TEST_CASE("Lead: without memory for the stop token that it needs, Run fails the call") {
  IntGroup group;
  TestWaiter waiter;
  std::optional<Lead> lead;
  group.Join("key", waiter, KeepIn(lead));
  bool ran = false;
  {
    const FailAllocations fail(0);
    CHECK(lead->Run([&](StopToken) { return ran = true; }));
  }
  CHECK_FALSE(ran);
  CHECK_THROWS_AS(static_cast<void>(waiter.TakeResult()), std::bad_alloc);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Lead: in a group of void, Succeed takes no value") {
  Group<int, void> group;
  struct Silent final : Group<int, void>::Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  } waiter;
  group.Join(1, waiter, [](auto lead) { CHECK(lead.Succeed()); });
  CHECK(waiter.landed == 1);
  CHECK_FALSE(waiter.TakeResult().shared());
}

TEST_CASE("Leave: OnLanded is never called for a follower that has left, and the call continues") {
  IntGroup group;
  TestWaiter stays;
  TestWaiter leaves[3];
  std::optional<Lead> lead;
  group.Join("key", stays, KeepIn(lead));
  for (auto& waiter : leaves) group.Join("key", waiter, MustNotLaunch);
  for (const int i : {1, 0, 2}) CHECK(group.Leave(leaves[i]));
  for (auto& waiter : leaves) CHECK_FALSE(group.Leave(waiter));  // it has left already
  CHECK(group.Callers("key") == 1);
  CHECK_FALSE(lead->GetStopToken().stop_requested());
  lead->Succeed(1);
  CHECK(stays.Take().value == 1);
  for (auto& waiter : leaves) CHECK(waiter.landed == 0);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 3, .left = 3});
}

TEST_CASE("Leave: the first waiter may leave before others, and the last to leave stops the call") {
  IntGroup group;
  TestWaiter leader;
  TestWaiter follower;
  std::optional<Lead> lead;
  group.Join("key", leader, KeepIn(lead));
  group.Join("key", follower, MustNotLaunch);
  CHECK(group.Leave(leader));
  CHECK_FALSE(lead->GetStopToken().stop_requested());
  CHECK(group.Leave(follower));
  CHECK(lead->GetStopToken().stop_requested());
  CHECK(group.Callers("key") == 0);
  CHECK(*group.Do("key", [] { return 2; }) == 2);
  CHECK(lead->Succeed(1));  // nobody is left to get it
  CHECK(leader.landed + follower.landed == 0);
}

TEST_CASE("Leave: a follower that is left alone gets the value unshared") {
  IntGroup group;
  TestWaiter leader;
  TestWaiter follower;
  std::optional<Lead> lead;
  group.Join("key", leader, KeepIn(lead));
  group.Join("key", follower, MustNotLaunch);
  CHECK(group.Leave(leader));
  lead->Succeed(1);
  const auto outcome = follower.Take();
  CHECK(outcome.value == 1);
  CHECK_FALSE(outcome.shared);
  CHECK(outcome.role == Role::kFollower);
}

TEST_CASE("Leave: a waiter cannot leave a call that has landed") {
  IntGroup group;
  TestWaiter waiter;
  group.Join("key", waiter, [](Lead lead) { lead.Succeed(1); });
  CHECK_FALSE(group.Leave(waiter));
  CHECK(waiter.Take().value == 1);
  CHECK_FALSE(group.Leave(waiter));
}

TEST_CASE(
    "Leave: when it races with landing, either it succeeds or OnLanded is called, never both") {
  constexpr int kRounds = 3000;
  int left = 0;
  int landed = 0;
  IntGroup group;
  for (int round = 0; round < kRounds; ++round) {
    TestWaiter leader;
    TestWaiter follower;
    std::optional<Lead> lead;
    group.Join("key", leader, KeepIn(lead));
    group.Join("key", follower, MustNotLaunch);
    std::atomic<int> ready = 0;
    JoiningThread lands([&] {
      ++ready;
      Await([&] { return ready == 2; });
      lead->Succeed(1);
    });
    ++ready;
    Await([&] { return ready == 2; });
    const bool has_left = group.Leave(follower);
    if (!has_left) Await([&] { return follower.landed == 1; });
    lands.join();
    left += has_left;
    landed += follower.landed;
    CHECK(follower.landed == (has_left ? 0 : 1));
    CHECK(leader.Take().shared == !has_left);
  }
  CHECK(left + landed == kRounds);
}

TEST_CASE("Leave: a newcomer that races with the last caller to leave never joins a stopped call") {
  constexpr int kRounds = 3000;
  IntGroup group;
  int joined_stopped = 0;
  for (int round = 0; round < kRounds; ++round) {
    TestWaiter leader;
    TestWaiter newcomer;
    std::optional<Lead> first;
    std::optional<Lead> second;
    group.Join("key", leader, KeepIn(first));
    std::atomic<int> ready = 0;
    JoiningThread leaves([&] {
      ++ready;
      Await([&] { return ready == 2; });
      group.Leave(leader);
    });
    ++ready;
    Await([&] { return ready == 2; });
    const Role role = group.Join("key", newcomer, KeepIn(second));
    leaves.join();
    joined_stopped += role == Role::kFollower && first->GetStopToken().stop_requested();
    CHECK(second.has_value() == (role == Role::kLeader));
    first->Succeed(1);
    if (second) second->Succeed(2);
    CHECK(newcomer.Take().value == (second ? 2 : 1));
  }
  CHECK(joined_stopped == 0);
}

TEST_CASE("Promise 14: the destructor asks asynchronous calls to stop and waits for them to land") {
  TestWaiter waiters[3];
  std::vector<JoiningThread> workers;
  std::atomic<int> stopped = 0;
  {
    IntGroup group;
    for (int i = 0; i < 3; ++i) {
      group.Join(std::to_string(i), waiters[i], [&](Lead lead) {
        workers.emplace_back([&stopped, lead]() mutable {
          lead.Run([&](StopToken token) {
            Await([&] { return token.stop_requested(); });
            return ++stopped;
          });
        });
      });
    }
    group.Forget("1");  // forgotten calls are waited for as well
  }
  CHECK(stopped == 3);
  workers.clear();
  for (auto& waiter : waiters) {
    CHECK(waiter.landed == 1);
    CHECK(waiter.Take().value.has_value());
  }
}

TEST_CASE("Promise 14: the destructor asks every call in a shard to stop") {
  constexpr int kCalls = 3;
  struct Silent final : OneShardGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiters[kCalls];
  std::vector<OneShardGroup::Lead> leads;
  std::vector<std::unique_ptr<StopCallback<std::function<void()>>>> on_stop;
  int asked = 0;
  {
    OneShardGroup group;
    for (int i = 0; i < kCalls; ++i) {
      group.Join(i, waiters[i],
                 [&](OneShardGroup::Lead lead) { leads.push_back(std::move(lead)); });
    }
    for (const auto& lead : leads) {
      on_stop.push_back(
          std::make_unique<StopCallback<std::function<void()>>>(lead.GetStopToken(), [&] {
            if (++asked < kCalls) return;
            for (auto& each : leads) each.Fail(nullptr);
          }));
    }
  }  // waits for ever if it does not ask all of them
  CHECK(asked == kCalls);
}

TEST_CASE(
    "Promise 14: a token that is taken once the destructor has begun is asked to stop as well") {
  struct Silent final : OneShardGroup::Waiter {
    void OnLanded() noexcept override {}
  } waiters[2];
  std::vector<OneShardGroup::Lead> leads;
  std::optional<bool> asked;
  std::optional<StopCallback<std::function<void()>>> on_stop;
  {
    OneShardGroup group;
    for (int i = 0; i < 2; ++i) {
      group.Join(i, waiters[i],
                 [&](OneShardGroup::Lead lead) { leads.push_back(std::move(lead)); });
    }
    // The older call is asked first. Nobody has its token by then.
    on_stop.emplace(leads[1].GetStopToken(), [&] {
      asked = leads[0].GetStopToken().stop_requested();
      for (auto& each : leads) each.Fail(nullptr);
    });
  }
  CHECK(asked == true);
}

TEST_CASE("Promise 14: a call may be landed by the very request that asks it to stop") {
  TestWaiter waiter;
  std::optional<Lead> lead;
  std::optional<StopCallback<std::function<void()>>> on_stop;
  {
    IntGroup group;
    group.Join("key", waiter, KeepIn(lead));
    on_stop.emplace(lead->GetStopToken(), [&] { lead->Fail(nullptr); });
  }
  CHECK(waiter.landed == 1);
  CHECK(waiter.Take().error == std::errc::owner_dead);
}

TEST_CASE("Promise 14: a lead whose call has landed may outlive the group") {
  TestWaiter waiter;
  std::optional<Lead> lead;
  {
    IntGroup group;
    group.Join("key", waiter, KeepIn(lead));
    lead->Succeed(1);
  }
  CHECK_FALSE(lead->Succeed(2));
  CHECK_FALSE(lead->Fail(nullptr));
  CHECK_FALSE(lead->Run([] { return 3; }));
  lead.reset();
  CHECK(waiter.Take().value == 1);
}

TEST_CASE("Promise 14: OnLanded may destroy the group") {
  struct OwnsGroup final : IntGroup::Waiter {
    void OnLanded() noexcept override { group.reset(); }
    std::unique_ptr<IntGroup> group = std::make_unique<IntGroup>();
  } waiter;
  TestWaiter follower;
  std::optional<Lead> lead;
  waiter.group->Join("key", waiter, KeepIn(lead));
  waiter.group->Join("key", follower, MustNotLaunch);
  CHECK(lead->Succeed(1));
  CHECK(waiter.group == nullptr);
  CHECK(follower.landed == 1);
  CHECK(*waiter.TakeResult() == 1);
}

TEST_CASE("Lead: OnLanded may destroy the lead whose Run is still running") {
  struct OwnsLead final : IntGroup::Waiter {
    void OnLanded() noexcept override { delete this; }
    std::optional<Lead> lead;
  };
  IntGroup group;
  auto* waiter = new OwnsLead;
  std::optional<Lead> copy;
  group.Join("key", *waiter, [&](Lead lead) { waiter->lead = copy = std::move(lead); });
  const bool landed_by_run = waiter->lead->Run([&] {
    copy->Fail(nullptr);
    return 1;
  });
  CHECK_FALSE(landed_by_run);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

TEST_CASE("Leave: a waiter may call Leave without its group, even after the group is destroyed") {
  TestWaiter waiter;
  TestWaiter leader;
  {
    IntGroup group;
    std::optional<Lead> lead;
    group.Join("key", leader, KeepIn(lead));
    group.Join("key", waiter, MustNotLaunch);
    CHECK(waiter.Leave());
    CHECK_FALSE(waiter.Leave());
    CHECK(group.Callers("key") == 1);
    group.Join("key", waiter, MustNotLaunch);
    lead->Succeed(1);
  }
  CHECK_FALSE(waiter.Leave());
  CHECK_FALSE(waiter.Detach());
  CHECK(waiter.Take().value == 1);
  CHECK(waiter.Detach());  // it is on no call any more
}

TEST_CASE("Detach: while a call is in flight, Detach leaves it") {
  IntGroup group;
  TestWaiter leader;
  TestWaiter follower;
  std::optional<Lead> lead;
  CHECK(follower.Detach());
  group.Join("key", leader, KeepIn(lead));
  group.Join("key", follower, MustNotLaunch);
  CHECK(follower.Detach());
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1, .in_flight = 1});
  lead->Succeed(1);
  CHECK(follower.landed == 0);
}

TEST_CASE("Detach: OnLanded may detach any waiter that has not been notified yet") {
  struct Detaching final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      for (TestWaiter* waiter : to_detach) ended += waiter->Detach() ? 1 : 0;
    }
    std::vector<TestWaiter*> to_detach;
    int ended = 0;
  } ending;
  IntGroup group;
  TestWaiter waiters[5];
  std::optional<Lead> lead;
  group.Join("key", waiters[0], KeepIn(lead));
  group.Join("key", ending, MustNotLaunch);
  for (int i = 1; i < 5; ++i) group.Join("key", waiters[i], MustNotLaunch);
  ending.to_detach = {&waiters[0], &waiters[1], &waiters[2], &waiters[4]};
  lead->Succeed(1);
  CHECK(ending.ended == 3);  // the first had already been notified
  CHECK(waiters[0].landed == 1);
  CHECK(waiters[1].landed + waiters[2].landed + waiters[4].landed == 0);
  CHECK(waiters[3].Take().value == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 5});
}

TEST_CASE("Detach: a waiter that is used again counts as notified only when it is notified again") {
  struct Detaching final : IntGroup::Waiter {
    void OnLanded() noexcept override { ended = to_detach != nullptr && to_detach->Detach(); }
    TestWaiter* to_detach = nullptr;
    bool ended = false;
  } ending;
  IntGroup group;
  TestWaiter waiter;
  group.Join("key", waiter, [](Lead lead) { lead.Succeed(1); });
  CHECK(waiter.Take().value == 1);
  std::optional<Lead> lead;
  group.Join("key", ending, KeepIn(lead));
  group.Join("key", waiter, MustNotLaunch);
  ending.to_detach = &waiter;
  lead->Succeed(2);
  CHECK(ending.ended);
  CHECK(waiter.landed == 1);
}

TEST_CASE(
    "Detach: when it races with landing, either it succeeds or OnLanded is called, never both") {
  constexpr int kRounds = 3000;
  IntGroup group;
  int wrong = 0;
  for (int round = 0; round < kRounds; ++round) {
    TestWaiter leader;
    auto follower = std::make_unique<TestWaiter>();
    std::optional<Lead> lead;
    group.Join("key", leader, KeepIn(lead));
    group.Join("key", *follower, MustNotLaunch);
    std::latch together(2);
    JoiningThread lands([&] {
      together.arrive_and_wait();
      lead->Succeed(1);
    });
    together.arrive_and_wait();
    if (follower->Detach()) {
      if (follower->landed != 0) ++wrong;
      follower.reset();  // nobody may touch it any more
    } else {
      Await([&] { return follower->landed == 1; });
    }
    lands.join();
  }
  CHECK(wrong == 0);
}

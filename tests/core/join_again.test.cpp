// SPDX-License-Identifier: MIT

// OnFailure::kRetry for callers that do not block: Waiter::AsksAgain, Group::JoinAgain and GiveUp.

#include <atomic>
#include <cstddef>
#include <deque>
#include <functional>
#include <latch>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {

using IntGroup = singleflight::Group<std::string, int>;
using Lead = IntGroup::Lead;

// Joins again, if it may, from OnLanded.
struct Retrying final : IntGroup::Waiter {
  Retrying(IntGroup& its_group, std::vector<Lead>& its_leads)
      : group(its_group), leads(its_leads) {}

  Role Join() { return group.Join("key", *this, KeepLead(), OnFailure::kRetry); }
  void OnLanded() noexcept override {
    ++landed;
    if (AsksAgain()) {
      role = group.JoinAgain("key", *this, KeepLead());
    } else {
      outcome = Keep([this] { return TakeResult(); });
    }
  }
  std::function<void(Lead)> KeepLead() {
    return [this](Lead lead) { leads.push_back(std::move(lead)); };
  }

  IntGroup& group;
  std::vector<Lead>& leads;
  std::optional<Role> role;  // of the second try
  std::optional<Outcome<int>> outcome;
  int landed = 0;
};

const auto kDown = std::make_exception_ptr(std::runtime_error("down"));

}  // namespace

TEST_CASE("JoinAgain: of many waiters whose call failed, one leads a second try for all") {
  IntGroup group;
  std::vector<Lead> leads;
  std::deque<Retrying> waiters;
  for (int i = 0; i < 5; ++i) waiters.emplace_back(group, leads).Join();
  CHECK(leads.size() == 1);
  leads[0].Fail(kDown);
  CHECK(leads.size() == 2);
  CHECK(waiters[0].outcome->message == "down");  // a leader's own failure is final
  CHECK(waiters[1].role == Role::kLeader);
  for (std::size_t i = 2; i < 5; ++i) CHECK(waiters[i].role == Role::kFollower);
  CHECK(group.Callers("key") == 4);
  leads[1].Succeed(7);
  for (std::size_t i = 1; i < 5; ++i) CHECK(waiters[i].outcome->value == 7);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 7, .failures = 1});
}

TEST_CASE("JoinAgain: a second failure is final, and no waiter asks a third time") {
  IntGroup group;
  std::vector<Lead> leads;
  std::deque<Retrying> waiters;
  for (int i = 0; i < 5; ++i) waiters.emplace_back(group, leads).Join();
  leads[0].Fail(kDown);
  leads[1].Fail(kDown);
  CHECK(leads.size() == 2);
  for (const auto& waiter : waiters) CHECK(waiter.outcome->message == "down");
  CHECK(waiters[0].landed == 1);
  CHECK(waiters[1].landed == 2);
}

TEST_CASE("JoinAgain: a second try that lands at once serves the waiters that come after it") {
  IntGroup group;
  std::vector<Lead> leads;
  struct Inline final : IntGroup::Waiter {
    explicit Inline(IntGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override {
      if (AsksAgain()) {
        group.JoinAgain("key", *this, [this](Lead lead) {
          ran = true;
          lead.Succeed(8);
        });
      } else {
        outcome = Keep([this] { return TakeResult(); });
      }
    }
    IntGroup& group;
    bool ran = false;
    std::optional<Outcome<int>> outcome;
  };
  Retrying leader(group, leads);
  leader.Join();
  std::deque<Inline> waiters;
  for (int i = 0; i < 3; ++i) {
    group.Join(
        "key", waiters.emplace_back(group), [](Lead) {}, OnFailure::kRetry);
  }
  leads[0].Fail(kDown);
  CHECK(waiters[0].ran);
  CHECK_FALSE(waiters[1].ran);
  CHECK_FALSE(waiters[2].ran);
  for (const auto& waiter : waiters) {
    CHECK(waiter.outcome->value == 8);
    CHECK(waiter.outcome->shared);
  }
  CHECK(group.Callers("key") == 0);
}

TEST_CASE("JoinAgain: a Future of a failed call does not keep the value of the second try") {
  using PointerGroup = singleflight::Group<std::string, std::shared_ptr<int>>;
  struct Asking final : PointerGroup::Waiter {
    Asking(PointerGroup& its_group, std::weak_ptr<int>& its_value)
        : group(its_group), value(its_value) {}
    void OnLanded() noexcept override {
      if (!AsksAgain()) return static_cast<void>(seen = **TakeResult());
      group.JoinAgain("key", *this, [this](PointerGroup::Lead lead) {
        auto seven = std::make_shared<int>(7);
        value = seven;
        lead.Succeed(std::move(seven));
      });
    }
    PointerGroup& group;
    std::weak_ptr<int>& value;
    int seen = 0;
  };
  PointerGroup group;
  std::optional<PointerGroup::Lead> lead;
  const auto future = group.Join("key", [&](PointerGroup::Lead its_lead) { lead = its_lead; });
  std::weak_ptr<int> value;
  std::deque<Asking> waiters;
  for (int i = 0; i < 3; ++i) {
    Asking& waiter = waiters.emplace_back(group, value);
    group.Join(
        "key", waiter, [](PointerGroup::Lead) {}, OnFailure::kRetry);
  }
  lead->Fail(kDown);
  for (const Asking& waiter : waiters) CHECK(waiter.seen == 7);
  CHECK(value.expired());
}

TEST_CASE("JoinAgain: threads, waiters and their leader share one second try") {
  IntGroup group;
  std::vector<Lead> leads;
  Retrying leader(group, leads);
  Retrying waiter(group, leads);
  leader.Join();
  waiter.Join();
  std::atomic<int> runs = 0;
  Caller thread(
      [&] { return group.Do("key", [&] { return ++runs; }, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, "key", 3);
  leads[0].Fail(kDown);
  Await([&] { return runs == 1 || leads.size() == 2; });
  if (leads.size() == 2) leads[1].Succeed(1);  // the waiter was first to ask again
  CHECK(thread.Join().value == 1);
  CHECK(waiter.outcome->value == 1);
  CHECK(group.GetStats().executions == 2);
}

TEST_CASE("JoinAgain: a waiter leaves the second try as it leaves any call") {
  IntGroup group;
  std::vector<Lead> leads;
  std::deque<Retrying> waiters;
  for (int i = 0; i < 3; ++i) waiters.emplace_back(group, leads).Join();
  leads[0].Fail(kDown);
  CHECK(group.Leave(waiters[1]));
  CHECK_FALSE(leads[1].GetStopToken().stop_requested());
  CHECK(group.Leave(waiters[2]));
  CHECK(leads[1].GetStopToken().stop_requested());
  leads[1].Succeed(1);
  CHECK_FALSE(waiters[1].outcome);
  CHECK(group.GetStats().left == 2);
}

TEST_CASE("JoinAgain: a waiter that left before the failure is not expected to ask again") {
  IntGroup group;
  std::vector<Lead> leads;
  std::deque<Retrying> waiters;
  for (int i = 0; i < 3; ++i) waiters.emplace_back(group, leads).Join();
  CHECK(group.Leave(waiters[1]));
  leads[0].Fail(kDown);
  CHECK(group.Callers("key") == 1);
  leads[1].Succeed(1);
  CHECK_FALSE(waiters[2].outcome->shared);
}

TEST_CASE("GiveUp: the others do not count on a waiter that will not ask again") {
  IntGroup group;
  std::vector<Lead> leads;
  struct GivesUp final : IntGroup::Waiter {
    explicit GivesUp(IntGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override {
      REQUIRE(AsksAgain());
      group.GiveUp(*this);
      outcome = Keep([this] { return TakeResult(); });
    }
    IntGroup& group;
    std::optional<Outcome<int>> outcome;
  };
  Retrying leader(group, leads);
  GivesUp before(group);
  Retrying waiter(group, leads);
  GivesUp after(group);
  leader.Join();
  group.Join(
      "key", before, [](Lead) {}, OnFailure::kRetry);
  waiter.Join();
  group.Join(
      "key", after, [](Lead) {}, OnFailure::kRetry);
  leads[0].Fail(kDown);
  CHECK(before.outcome->message == "down");
  CHECK(after.outcome->message == "down");
  CHECK(group.Callers("key") == 1);
  leads[1].Succeed(1);
  CHECK_FALSE(waiter.outcome->shared);
}

namespace {

struct CountedMutex {
  void lock() { ++locks; }
  void unlock() {}
  static inline int locks = 0;
};
struct Counted : singleflight::GroupTraits {
  using Mutex = CountedMutex;
};
using CountedGroup = singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Counted>;

}  // namespace

TEST_CASE("Detach: a waiter that would ask again does not touch the group once its call landed") {
  struct Silent final : CountedGroup::Waiter {
    void OnLanded() noexcept override {}
  } retrying;
  struct Destroying final : CountedGroup::Waiter {
    void OnLanded() noexcept override {
      group.reset();
      const int before = CountedMutex::locks;
      detached = other->Detach();
      locks = CountedMutex::locks - before;
    }
    std::unique_ptr<CountedGroup> group = std::make_unique<CountedGroup>();
    Silent* other = nullptr;
    bool detached = false;
    int locks = -1;
  } first;
  first.other = &retrying;
  std::optional<CountedGroup::Lead> lead;
  first.group->Join(1, first, [&](CountedGroup::Lead its_lead) { lead = its_lead; });
  first.group->Join(
      1, retrying, [](CountedGroup::Lead) {}, OnFailure::kRetry);
  lead->Succeed(7);
  CHECK(first.detached);
  CHECK(first.locks == 0);
}

TEST_CASE("GiveUp: a waiter that gave up can be detached, and the others are notified") {
  IntGroup group;
  std::vector<Lead> leads;
  Retrying asking(group, leads);
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  } gives_up;
  struct First final : IntGroup::Waiter {
    First(IntGroup& its_group, Silent& its_other) : group(its_group), other(its_other) {}
    void OnLanded() noexcept override {
      group.GiveUp(other);
      detached = other.Detach();
    }
    IntGroup& group;
    Silent& other;
    bool detached = false;
  } first(group, gives_up);
  group.Join("key", first, [&](Lead lead) { leads.push_back(std::move(lead)); });
  group.Join(
      "key", gives_up, [](Lead) {}, OnFailure::kRetry);
  asking.Join();
  leads[0].Fail(kDown);
  CHECK(first.detached);
  CHECK(gives_up.landed == 0);
  CHECK(group.Callers("key") == 1);
  leads[1].Succeed(7);
  CHECK(asking.outcome->value == 7);
}

TEST_CASE("Promise 17: followers of a failed call keep their places until they ask again") {
  IntGroup group({.max_callers = 3});
  std::vector<Lead> leads;
  std::vector<Lead> other;
  struct First final : IntGroup::Waiter {
    First(IntGroup& its_group, std::vector<Lead>& its_leads) : group(its_group), leads(its_leads) {}
    void OnLanded() noexcept override {
      const auto keep = [this](Lead lead) { leads.push_back(std::move(lead)); };
      taken.emplace(group.Join("other", keep));  // the place that this caller gave back
      refused = ErrorOf([&] { return group.Do("third", [] { return 0; }); });
    }
    IntGroup& group;
    std::vector<Lead>& leads;
    std::optional<singleflight::Future<int>> taken;
    std::optional<std::errc> refused;
  } first(group, other);
  group.Join("key", first, [&](Lead lead) { leads.push_back(std::move(lead)); });
  std::deque<Retrying> waiters;
  for (int i = 0; i < 2; ++i) waiters.emplace_back(group, leads).Join();
  leads[0].Fail(kDown);
  CHECK(first.refused == std::errc::resource_unavailable_try_again);
  REQUIRE(leads.size() == 2);
  CHECK(group.Callers("key") == 2);
  leads[1].Succeed(7);
  for (const auto& waiter : waiters) CHECK(waiter.outcome->value == 7);
  other[0].Succeed(8);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 3, .failures = 1, .refused = 1});
  HeldCall a(group, "a");  // all places were given back
  HeldCall b(group, "b");
  CHECK(*group.Do("c", [] { return 3; }) == 3);
}

TEST_CASE(
    "Promise 17: followers for whom the second try has no place are refused, and run nothing") {
  IntGroup group({.max_callers_per_call = 4});
  std::vector<Lead> leads;
  struct First final : IntGroup::Waiter {
    First(IntGroup& its_group, std::vector<Lead>& its_leads) : group(its_group), leads(its_leads) {}
    void OnLanded() noexcept override {
      const auto keep = [this](Lead lead) { leads.push_back(std::move(lead)); };
      for (int i = 0; i < 2; ++i) newcomers.push_back(group.Join("key", keep));
    }
    IntGroup& group;
    std::vector<Lead>& leads;
    std::vector<singleflight::Future<int>> newcomers;
  } first(group, leads);
  group.Join("key", first, [&](Lead lead) { leads.push_back(std::move(lead)); });
  struct Asking final : IntGroup::Waiter {
    explicit Asking(IntGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override {
      if (!AsksAgain()) value = *TakeResult();
    }
    std::optional<std::errc> AskAgain() {
      return ErrorOf([&] {
        group.JoinAgain("key", *this, [](Lead) {});
        return 0;
      });
    }
    IntGroup& group;
    int value = 0;
  };
  std::deque<Asking> waiters;
  for (int i = 0; i < 3; ++i) {
    group.Join(
        "key", waiters.emplace_back(group), [](Lead) {}, OnFailure::kRetry);
  }
  leads[0].Fail(kDown);
  CHECK_FALSE(waiters[0].AskAgain());
  CHECK(group.Callers("key") == 4);
  CHECK_FALSE(waiters[1].AskAgain());
  leads[1].Succeed(7);
  CHECK(waiters[0].value == 7);
  CHECK(waiters[1].value == 7);
  CHECK(waiters[2].AskAgain() == std::errc::resource_unavailable_try_again);  // however late
  CHECK(leads.size() == 2);
  CHECK(group.GetStats().refused == 1);
}

TEST_CASE("JoinAgain: a leader, and a waiter with kShare, do not ask again") {
  IntGroup group;
  std::vector<Lead> leads;
  Retrying leader(group, leads);
  Retrying shares(group, leads);
  leader.Join();
  group.Join("key", shares, shares.KeepLead());
  leads[0].Fail(kDown);
  CHECK(leads.size() == 1);
  CHECK(leader.outcome->message == "down");
  CHECK(shares.outcome->message == "down");
}

TEST_CASE("JoinAgain: a waiter that is refused gets the refusal, and the others ask on") {
  IntGroup group({.max_calls_in_flight = 1});
  std::vector<Lead> leads;
  struct Refused final : IntGroup::Waiter {
    explicit Refused(IntGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override {
      error =
          ErrorOf([this] { return static_cast<int>(group.JoinAgain("key", *this, [](Lead) {})); });
    }
    IntGroup& group;
    std::optional<std::errc> error;
  } refused(group);
  Retrying leader(group, leads);
  Retrying waiter(group, leads);
  leader.Join();
  // Takes the place of the failed call before the first waiter asks again.
  struct TakesPlace final : IntGroup::Waiter {
    explicit TakesPlace(IntGroup& its_group) : group(its_group) {}
    void OnLanded() noexcept override {
      group.Join("other", other, [this](Lead made) { lead = std::move(made); });
    }
    struct Silent final : IntGroup::Waiter {
      void OnLanded() noexcept override {}
    } other;
    IntGroup& group;
    std::optional<Lead> lead;
  } takes_place(group);
  group.Join("key", takes_place, [](Lead) {});
  group.Join(
      "key", refused, [](Lead) {}, OnFailure::kRetry);
  leads[0].Fail(kDown);
  CHECK(refused.error == std::errc::resource_unavailable_try_again);
  takes_place.lead->Succeed(1);
}

TEST_CASE("Promise 14: the destructor waits for waiters that may still ask again") {
  struct Slow final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      if (!AsksAgain()) {
        value = *TakeResult();
        return;
      }
      landed = true;
      Await([this] { return destroying.load(); });
      group->JoinAgain("key", *this, [](Lead lead) { lead.Succeed(3); });
    }
    IntGroup* group = nullptr;
    std::atomic<bool> landed = false;
    std::atomic<bool> destroying = false;
    int value = 0;
  } slow;
  struct Silent final : IntGroup::Waiter {
    void OnLanded() noexcept override {}
  } silent;
  auto group = std::make_unique<IntGroup>();
  slow.group = group.get();
  std::vector<Lead> leads;
  group->Join("key", silent, [&](Lead lead) { leads.push_back(std::move(lead)); });
  group->Join(
      "key", slow, [](Lead) {}, OnFailure::kRetry);
  JoiningThread lands([&] { leads[0].Fail(kDown); });
  Await([&] { return slow.landed.load(); });
  std::atomic<bool> destroyed = false;
  JoiningThread destroys([&] {
    group.reset();
    destroyed = true;
  });
  for (int i = 0; i < 1000 && !destroyed; ++i)
    std::this_thread::yield();  // it has time to be wrong
  slow.destroying = true;
  destroys.join();
  CHECK(slow.value == 3);
}

namespace {

// A key whose copies fail while `fails`.
struct FailingKey {
  explicit FailingKey(int its_number) : number(its_number) {}
  FailingKey(const FailingKey& other) : number(other.number) {
    if (fails) throw std::bad_alloc();
  }
  bool operator==(const FailingKey&) const = default;
  int number;
  static inline bool fails = false;
};
struct HashOfFailingKey {
  std::size_t operator()(const FailingKey& key) const {
    return static_cast<std::size_t>(key.number);
  }
};
// With it, the first caller of a call that does not block has its key copied.
struct HearsOfLeaving {
  void OnLeave(const FailingKey&, singleflight::LeaveReason) {}
};
struct ListenedTo : singleflight::GroupTraits {
  using Listener = HearsOfLeaving;
};

}  // namespace

TEST_CASE("JoinAgain: a waiter whose key cannot be copied has no place in the second try") {
  using AnyGroup =
      singleflight::Group<FailingKey, int, HashOfFailingKey, std::equal_to<>, ListenedTo>;
  struct Silent final : AnyGroup::Waiter {
    void OnLanded() noexcept override {}
  };
  AnyGroup group;
  const FailingKey key(1);
  Silent leader, late;
  std::optional<AnyGroup::Lead> lead;
  group.Join(key, leader, [&](AnyGroup::Lead its) { lead = std::move(its); });
  // A thread is the first to ask again, so that nobody has copied its key.
  StopSource stop;
  std::latch runs(1);
  Caller retrier([&] {
    return group.Do(key,
                    [&](StopToken its_stop) {
                      runs.count_down();
                      Await([&] { return its_stop.stop_requested(); });
                      return 1;
                    },
                    {.stop = stop.get_token(), .on_failure = OnFailure::kRetry});
  });
  AwaitCallers(group, key, 2);
  group.Join(
      key, late, [](AnyGroup::Lead) {}, OnFailure::kRetry);
  lead->Fail(kDown);
  runs.wait();
  FailingKey::fails = true;
  CHECK_THROWS_AS(group.JoinAgain(key, late, [](AnyGroup::Lead) {}), std::bad_alloc);
  FailingKey::fails = false;
  CHECK(group.Callers(key) == 1);
  CHECK(group.GetStats().left == 0);
  stop.request_stop();  // asks the work to stop, as nobody else is on the call
  CHECK(retrier.Join().value == 1);
}

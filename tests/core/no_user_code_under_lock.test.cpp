// SPDX-License-Identifier: MIT

// Promise 8: no user code runs under a lock, except KeyEqual and the key's copy for an asynchronous
// call.

#include <latch>
#include <new>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/watched_mutex.hpp"

using namespace test;
using singleflight::Group;

namespace {

std::atomic<int> runs = 0;
std::atomic<int> runs_under_lock = 0;

void UserCode() {
  ++runs;
  if (locks_held > 0) ++runs_under_lock;
}

struct WatchedValue {
  explicit WatchedValue(int) { UserCode(); }
  WatchedValue(const WatchedValue&) { UserCode(); }
  WatchedValue(WatchedValue&&) noexcept { UserCode(); }
  WatchedValue& operator=(const WatchedValue&) {
    UserCode();
    return *this;
  }
  ~WatchedValue() { UserCode(); }
};

struct WatchedError {
  WatchedError() = default;
  WatchedError(const WatchedError&) noexcept { UserCode(); }
  ~WatchedError() { UserCode(); }
};

struct WatchedHash {
  std::size_t operator()(int key) const {
    UserCode();
    return static_cast<std::size_t>(key);
  }
};

using WatchedGroup = Group<int, WatchedValue, WatchedHash, std::equal_to<int>, OneWatchedShard>;

struct WatchedKey {
  explicit WatchedKey(int its_id) : id(its_id) {}
  WatchedKey(const WatchedKey& other) : id(other.id) {}
  ~WatchedKey() { UserCode(); }
  bool operator==(const WatchedKey&) const = default;
  int id;
};
struct HashOfKey {
  std::size_t operator()(const WatchedKey& key) const { return static_cast<std::size_t>(key.id); }
};

struct WatchedWaiter final : WatchedGroup::Waiter {
  void OnLanded() noexcept override {
    UserCode();
    landed.count_down();
  }
  std::latch landed{1};
};

// Runs `scenario` and checks that user code did run, and never with a lock held.
template <class Scenario>
void CheckNeverUnderLock(Scenario&& scenario) {
  runs = runs_under_lock = 0;
  scenario();
  CHECK(runs > 0);
  CHECK(runs_under_lock == 0);
}

template <class Fn>
void AskTwice(WatchedGroup& group, Fn fn, singleflight::CallOptions options) {
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 2; ++i) {
    threads.emplace_back([&] {
      try {
        auto result = group.Do(
            1,
            [&] {
              UserCode();
              AwaitCallers(group, 1, 2);
              return fn();
            },
            options);
        const WatchedValue mine = std::move(result).value();
      } catch (const WatchedError&) {
      }
    });
  }
}

}  // namespace

TEST_CASE("Promise 8: a value is made, moved, copied and destroyed with no lock held") {
  CheckNeverUnderLock([] {
    WatchedGroup group;
    static_cast<void>(group.Do(1, [] { return WatchedValue(1); }));
    AskTwice(group, [] { return WatchedValue(1); }, {});
    AskTwice(group, [] { return WatchedValue(1); }, {.timeout = 1h});
  });
}

TEST_CASE("Promise 8: an exception is copied and destroyed with no lock held") {
  CheckNeverUnderLock([] {
    WatchedGroup group;
    AskTwice(group, []() -> WatchedValue { throw WatchedError(); }, {});
    AskTwice(group, []() -> WatchedValue { throw WatchedError(); },
             {.on_failure = singleflight::OnFailure::kShare});
  });
}

TEST_CASE("Promise 8: launch and OnLanded run, and a lead's value is moved, with no lock held") {
  CheckNeverUnderLock([] {
    WatchedGroup group;
    WatchedWaiter leader;
    WatchedWaiter follower;
    std::optional<WatchedGroup::Lead> lead;
    group.Join(1, leader, [&](WatchedGroup::Lead made) {
      UserCode();
      lead = made;
    });
    group.Join(1, follower, [](WatchedGroup::Lead) { FAIL("launch was called for a follower"); });
    lead->Succeed(WatchedValue(1));
    static_cast<void>(leader.TakeResult());
    static_cast<void>(follower.TakeResult());

    WatchedWaiter alone;
    group.Join(2, alone, [](WatchedGroup::Lead) { UserCode(); });
    CHECK_THROWS_AS(static_cast<void>(alone.TakeResult()), std::system_error);
  });
}

TEST_CASE("Promise 8: a call is asked to stop with no lock held") {
  CheckNeverUnderLock([] {
    WatchedGroup group;
    StopSource stop;
    static_cast<void>(group.Do(1,
                               [&](StopToken token) {
                                 const StopCallback on_stop(token, [&] {
                                   UserCode();
                                   // A callback may ask the group, even for the same key.
                                   static_cast<void>(group.Do(1, [] { return WatchedValue(2); }));
                                   static_cast<void>(group.GetStats());
                                 });
                                 stop.request_stop();
                                 return WatchedValue(1);
                               },
                               {.stop = stop.get_token()}));

    WatchedWaiter waiter;
    std::optional<WatchedGroup::Lead> lead;
    group.Join(3, waiter, [&](WatchedGroup::Lead made) { lead = made; });
    const StopCallback on_stop(lead->GetStopToken(), [&] {
      UserCode();
      CHECK(group.Callers(3) == 0);
    });
    CHECK(group.Leave(waiter));
    CHECK(lead->GetStopToken().stop_requested());
  });
}

TEST_CASE("Promise 8: a stop callback may land the call that is asked to stop") {
  Group<int, int> group;
  struct Silent final : Group<int, int>::Waiter {
    void OnLanded() noexcept override { ++landed; }
    int landed = 0;
  } waiter;
  std::optional<Group<int, int>::Lead> lead;
  group.Join(1, waiter, [&](Group<int, int>::Lead made) { lead = made; });
  const StopCallback on_stop(lead->GetStopToken(), [&] { CHECK(lead->Fail(nullptr)); });
  CHECK(group.Leave(waiter));
  CHECK(waiter.landed == 0);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("Promise 8: a key's copy is destroyed with no lock held, wherever memory runs out") {
  using KeyGroup = Group<WatchedKey, int, HashOfKey, std::equal_to<WatchedKey>, OneWatchedShard>;
  CheckNeverUnderLock([] {
    const WatchedKey key(1);
    std::size_t failed = 0;
    for (bool fails = true; fails; ++failed) {
      KeyGroup group;
      try {
        const FailAllocations fail(failed);
        const auto future = group.Join(key, [](KeyGroup::Lead lead) { lead.Succeed(1); });
        fails = false;
      } catch (const std::bad_alloc&) {
      }
    }
    CHECK(failed > 2);
  });
}

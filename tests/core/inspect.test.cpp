// SPDX-License-Identifier: MIT

// These tests cover Inspect: the list of the calls in flight.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/hooked_mutex.hpp"
#include "support/support.hpp"
#include "support/watched_mutex.hpp"

using namespace test;
using singleflight::CallInfo;
using singleflight::Group;
using singleflight::GroupTraits;

namespace {

// Returns what Inspect says, by key.
template <class AnyGroup>
auto Listed(const AnyGroup& group) {
  std::multimap<typename AnyGroup::KeyType, std::pair<std::size_t, bool>> calls;
  for (const auto& call : group.Inspect()) {
    calls.emplace(call.key, std::pair(call.callers, call.forgotten));
  }
  return calls;
}
template <class Key>
using Calls = std::multimap<Key, std::pair<std::size_t, bool>>;

// Calls that stay in flight until they are landed.
template <class AnyGroup>
class OpenCalls {
 public:
  using Key = typename AnyGroup::KeyType;
  struct Ignored final : AnyGroup::Waiter {
    void OnLanded() noexcept override {}
  };

  explicit OpenCalls(AnyGroup& group) : group_(group) {}
  ~OpenCalls() {
    while (!leads_.empty()) LandFirst();
  }
  OpenCalls(const OpenCalls&) = delete;
  OpenCalls& operator=(const OpenCalls&) = delete;

  void Begin(const Key& key) {
    group_.Join(key, waiters_.emplace_back(),
                [this](typename AnyGroup::Lead lead) { leads_.push_back(std::move(lead)); });
  }
  void LandFirst() {
    leads_.front().Succeed(0);
    leads_.pop_front();
  }

 private:
  AnyGroup& group_;
  std::deque<Ignored> waiters_;
  std::deque<typename AnyGroup::Lead> leads_;
};

// Counts what happens on the thread that has locked it.
struct CountingMutex {
  void lock() {
    mutex.lock();
    copies = 0;
    allocations_before = allocations;
  }
  void unlock() {
    most_copies = std::max(most_copies, copies);
    most_allocations = std::max(most_allocations, allocations - allocations_before);
    mutex.unlock();
  }
  std::mutex mutex;
  static inline std::size_t copies, most_copies, most_allocations, allocations_before;
};
struct CountingShard : GroupTraits {
  using Mutex = CountingMutex;
  static constexpr std::size_t kShards = 1;
};

// A key whose copies are counted, and can be made to fail.
struct CopiedKey {
  explicit CopiedKey(int its_number) : number(its_number) {}
  CopiedKey(const CopiedKey& other) : number(other.number) {
    ++CountingMutex::copies;
    if (number == fails_for) throw std::runtime_error("a copy");
  }
  CopiedKey(CopiedKey&& other) noexcept = default;
  bool operator==(const CopiedKey& other) const { return number == other.number; }
  bool operator<(const CopiedKey& other) const { return number < other.number; }
  int number;
  static inline int fails_for = -1;
};
struct HashCopied {
  std::size_t operator()(const CopiedKey& key) const {
    return static_cast<std::size_t>(key.number);
  }
};
using CopiedGroup = Group<CopiedKey, int, HashCopied, std::equal_to<>, CountingShard>;

struct HookedShard : Hooked {
  static constexpr std::size_t kShards = 1;
};

}  // namespace

TEST_CASE("Inspect lists the calls in flight with their keys and callers") {
  Group<std::string, int> group;
  CHECK(group.Inspect().empty());
  {
    HeldCall alone(group, std::string("alone"));
    HeldCall shared(group, std::string("shared"));
    Caller follower([&] { return group.Do("shared", [] { return 0; }); });
    AwaitCallers(group, "shared", 2);
    CHECK(Listed(group) == Calls<std::string>{{"alone", {1, false}}, {"shared", {2, false}}});
    shared.Finish();
    CHECK(Listed(group) == Calls<std::string>{{"alone", {1, false}}});
  }
  CHECK(group.Inspect().empty());
}

TEST_CASE("Inspect lists a leader's own call while its function runs") {
  Group<std::string, std::size_t> group;
  CHECK(*group.Do("key", [&] { return group.Inspect().size(); }) == 1);
  // So it does when the call has been forgotten, or replaced by another.
  CHECK(*group.Do("key", [&] {
    group.Forget("key");
    return group.Inspect().size() + 10 * *group.Do("key", [&] { return group.Inspect().size(); });
  }) == 21);
  CHECK(group.Inspect().empty());
}

TEST_CASE("Inspect lists forgotten calls until they land in whatever order") {
  Group<int, int> group;
  std::vector<int> order{0, 1, 2};
  do {
    std::deque<HeldCall<Group<int, int>, int>> calls;
    for (int i = 0; i < 3; ++i) {
      calls.emplace_back(group, 7);
      CHECK(group.Forget(7));
    }
    HeldCall newest(group, 7);
    const auto listed = [&](std::size_t forgotten) {
      const auto found = group.Inspect();
      return found.size() == forgotten + 1 &&
             std::count_if(found.begin(), found.end(), [](const auto& call) {
               return call.key == 7 && call.callers == 1 && call.forgotten;
             }) == static_cast<std::ptrdiff_t>(forgotten);
    };
    CHECK(listed(3));
    for (std::size_t i = 0; i < 3; ++i) {
      calls[static_cast<std::size_t>(order[i])].Finish();
      CHECK(listed(2 - i));
    }
  } while (std::next_permutation(order.begin(), order.end()));
  CHECK(group.Inspect().empty());
}

TEST_CASE("Inspect says since when a call is in flight if the group is timed or has a max_age") {
  using Clock = std::chrono::steady_clock;
  const auto since = [](singleflight::GroupOptions options) {
    Group<int, std::optional<Clock::time_point>> group(options);
    return *group.Do(1, [&] { return group.Inspect().front().since; });
  };
  CHECK_FALSE(since({}));
  const auto before = Clock::now();
  for (const auto& options :
       {singleflight::GroupOptions{.timed = true}, singleflight::GroupOptions{.max_age = 1h}}) {
    const auto began = since(options);
    REQUIRE(began);
    CHECK(before <= *began);
    CHECK(*began <= Clock::now());
  }
  Group<int, int> timed({.timed = true});
  OpenCalls<Group<int, int>> calls(timed);
  calls.Begin(1);
  REQUIRE(timed.Inspect().front().since);
  CHECK(before <= *timed.Inspect().front().since);
}

TEST_CASE("Promise 8: Inspect copies at most 16 keys under one lock and allocates nothing there") {
  CopiedGroup group;
  OpenCalls<CopiedGroup> calls(group);
  for (int i = 0; i < 1000; ++i) calls.Begin(CopiedKey(i));
  for (int i = 0; i < 300; ++i) group.Forget(CopiedKey(i));
  CountingMutex::most_copies = CountingMutex::most_allocations = 0;
  const auto found = group.Inspect();
  CHECK(CountingMutex::most_copies == 16);
  CHECK(CountingMutex::most_allocations == 0);
  CHECK(found.size() == 1000);
  CHECK(std::count_if(found.begin(), found.end(), [](auto& call) { return call.forgotten; }) ==
        300);
}

TEST_CASE("Promise 7: an Inspect that fails leaves nothing behind for the next one") {
  CopiedGroup group;
  OpenCalls<CopiedGroup> calls(group);
  for (int i = 0; i < 200; ++i) calls.Begin(CopiedKey(i));
  for (int i = 150; i < 200; ++i) group.Forget(CopiedKey(i));
  for (const int fails : {0, 70, 199}) {
    for (int repeated = 1; repeated <= 252; ++repeated) {  // twice until the numbers repeat
      CopiedKey::fails_for = fails;
      CHECK_THROWS_AS(group.Inspect(), std::runtime_error);
      CopiedKey::fails_for = -1;
      if (repeated % 126 == 0) CHECK(Listed(group).size() == 200);
    }
  }
  for (std::size_t failing = 0; failing < 2; ++failing) {
    const FailAllocations fail(failing);
    CHECK_THROWS_AS(group.Inspect(), std::bad_alloc);
  }
  CHECK(Listed(group).size() == 200);
}

TEST_CASE("Inspect lists a call once whatever begins or lands or is forgotten between its locks") {
  using AnyGroup = Group<int, int, std::hash<int>, std::equal_to<int>, HookedShard>;
  for (const int seed : {1, 2, 3, 4}) {
    AnyGroup group;
    OpenCalls<AnyGroup> calls(group);
    OpenCalls<AnyGroup> passing(group);
    std::uint32_t random = static_cast<std::uint32_t>(seed);
    const auto next = [&random] { return (random = random * 1664525u + 1013904223u) >> 16; };
    int begun = 1000;
    for (int i = 0; i < 1000; ++i) calls.Begin(i);
    for (int i = 0; i < 200; ++i) passing.Begin(begun++);
    for (int i = 0; i < 100; ++i) group.Forget(static_cast<int>(next() % 1000));
    int locks = 0;
    HookedMutex::after_unlock = [&] {
      ++locks;
      for (int i = 0; i < 150; ++i) passing.Begin(begun++);  // so that the table grows
      for (int i = 0; i < 100; ++i) passing.LandFirst();
      for (int i = 0; i < 20; ++i) group.Forget(static_cast<int>(next() % 1000));
      group.Forget(static_cast<int>(1000 + next() % static_cast<unsigned>(begun - 1000)));
    };
    const auto found = group.Inspect();
    HookedMutex::after_unlock = nullptr;
    CHECK(locks > 10);
    std::map<int, int> times;
    for (const auto& call : found) ++times[call.key];
    int once = 0;
    for (int key = 0; key < 1000; ++key) once += times[key] == 1;
    CHECK(once == 1000);  // these were in flight all the time
    CHECK(std::all_of(times.begin(), times.end(), [](auto& each) { return each.second == 1; }));
  }
}

TEST_CASE("Inspect lists no call twice if all of them land between its locks and others begin") {
  using AnyGroup = Group<int, int, std::hash<int>, std::equal_to<int>, HookedShard>;
  for (const int calls_in_a_burst : {1, 100, 1000}) {  // the table grows from one bucket
    AnyGroup group;
    OpenCalls<AnyGroup> forgotten(group);
    forgotten.Begin(-1);
    group.Forget(-1);
    std::optional<OpenCalls<AnyGroup>> calls;
    int begun = 0;
    const auto burst = [&](int count) {
      calls.emplace(group);
      while (count-- > 0) calls->Begin(begun++);
    };
    burst(1000);
    HookedMutex::after_unlock = [&] {
      calls.reset();
      burst(calls_in_a_burst);
    };
    const auto found = group.Inspect();
    HookedMutex::after_unlock = nullptr;
    std::map<int, int> times;
    for (const auto& call : found) ++times[call.key];
    CHECK(times[-1] == 1);  // it was in flight all the time
    CHECK(std::all_of(times.begin(), times.end(), [](auto& each) { return each.second == 1; }));
  }
}

TEST_CASE("Inspect may run at the same time on several threads") {
  Group<int, int> group;
  OpenCalls<Group<int, int>> calls(group);
  for (int i = 0; i < 300; ++i) calls.Begin(i);
  std::atomic<int> wrong = 0;
  std::vector<JoiningThread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < 50; ++i) {
        if (group.Inspect().size() < 300) ++wrong;
        group.Forget(100 * thread + i);
        static_cast<void>(group.Do(1000 + thread, [] { return 1; }));
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  CHECK(group.Inspect().size() == 300);
}

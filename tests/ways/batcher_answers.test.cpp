// SPDX-License-Identifier: MIT

// Tests of Batcher: what each key's callers get, and whom a failure fails.

#include <pthread.h>

#include <array>
#include <atomic>
#include <latch>
#include <list>
#include <map>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <unordered_map>

#include "batcher_support.hpp"
#include "support/allocations.hpp"
#include "support/cancellable_thread.hpp"
#include "support/platform.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherStats;
using singleflight::DoAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace {

// Three values. Reading on after the second throws.
struct Rows {
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return 7; }
    Iterator& operator++() {
      if (++at == 2) throw std::runtime_error("lost the connection");
      return *this;
    }
    Iterator operator++(int) {
      const Iterator old = *this;
      ++*this;
      return old;
    }
    bool operator==(const Iterator&) const = default;
    int at = 0;
  };
  Iterator begin() const { return {0}; }
  Iterator end() const { return {3}; }
  std::size_t size() const { return 3; }
};

}  // namespace

// ---- What the function returns

TEST_CASE("Batcher: a map gives each key its value, and a key that it lacks gets its own error") {
  Group<int, int> group;
  Batcher batcher(group, [](std::span<const int>) {
    return std::map<int, int>{{1, 10}, {3, 30}, {4, 40}};
  });
  auto three = DoAsync(batcher, 3);
  auto two = DoAsync(batcher, 2);
  auto one = DoAsync(batcher, 1);
  batcher.Flush();
  CHECK(Get(three).value == 30);
  CHECK(Get(two).error == std::errc::no_message);
  CHECK(Get(one).value == 10);
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 1});
}

TEST_CASE("Batcher: too many or too few values are an error for the keys of that batch alone") {
  Group<int, int> group;
  std::size_t count = 1;
  Batcher batcher(group, [&](std::span<const int>) { return Ints(count, 7); });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  batcher.Flush();
  CHECK(Get(one).error == std::errc::invalid_argument);
  CHECK(Get(two).error == std::errc::invalid_argument);
  CHECK(*batcher.Do(3) == 7);
  count = 2;
  CHECK(ErrorOf([&] { return batcher.Do(4); }) == std::errc::invalid_argument);
  count = 0;
  CHECK(ErrorOf([&] { return batcher.Do(5); }) == std::errc::invalid_argument);
}

TEST_CASE("Batcher: an element that throws when it is read fails its own key alone") {
  Group<int, int> group;
  struct Row {
    operator int() const {
      if (key == 2) throw std::runtime_error("no row");
      return 10 * key;
    }
    int key;
  };
  Batcher batcher(group, [](std::span<const int> keys) {
    std::vector<Row> rows;
    for (const int key : keys) rows.push_back({key});
    return rows;
  });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  auto three = DoAsync(batcher, 3);
  batcher.Flush();
  CHECK(Get(one).value == 10);
  CHECK(Get(two).message == "no row");
  CHECK(Get(three).value == 30);
}

TEST_CASE("Batcher: a range that throws between two elements fails the keys that are left") {
  Group<int, int> group;
  Batcher batcher(group, [](std::span<const int>) { return Rows(); });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  auto three = DoAsync(batcher, 3);
  batcher.Flush();
  CHECK(Get(one).value == 7);
  CHECK(Get(two).value == 7);
  CHECK(Get(three).message == "lost the connection");
}

TEST_CASE("Batcher: values are moved out of a returned container, and none is ever copied") {
  Group<int, Counted> group;
  Counted::copies = 0;
  Batcher of_list(group, [](std::span<const int> keys) {
    std::list<Counted> values;
    for (const int key : keys) values.emplace_back(key);
    return values;
  });
  Batcher of_map(group, [](std::span<const int> keys) {
    std::unordered_map<int, Counted> values;
    for (const int key : keys) values.emplace(key, key);
    return values;
  });
  CHECK(of_list.Do(1)->value == 1);
  auto one = DoAsync(of_map, 2);
  auto other = DoAsync(of_map, 2);
  of_map.Flush();
  CHECK(one.Get()->value == 2);
  CHECK(other.Get()->value == 2);
  CHECK(Counted::copies == 0);
}

TEST_CASE("Batcher: values are not moved out of a container that the function keeps") {
  Group<int, std::string> group;
  const std::string text = "too long for the small string optimization";
  std::vector<std::string> kept{text};
  std::map<int, std::string> map{{2, text}};
  Batcher by_reference(group,
                       [&](std::span<const int>) -> std::vector<std::string>& { return kept; });
  Batcher by_view(group, [&](std::span<const int>) { return std::span<std::string>(kept); });
  Batcher by_map(group, [&](std::span<const int>) -> std::map<int, std::string>& { return map; });
  CHECK(*by_reference.Do(1) == text);
  CHECK(*by_view.Do(1) == text);
  CHECK(*by_map.Do(2) == text);
  CHECK(kept[0] == text);
  CHECK(map[2] == text);
}

TEST_CASE("Batcher: values may be void or move-only, and elements may be proxies") {
  Group<int, void> nothing;
  std::size_t ran = 0;
  Batcher of_nothing(nothing, [&](std::span<const int> keys) { ran += keys.size(); });
  auto first = DoAsync(of_nothing, 1);
  of_nothing.Do(2).value();
  first.Get().value();
  CHECK(ran == 2);

  Group<int, std::unique_ptr<int>> pointers;
  Batcher of_pointers(pointers, [](std::span<const int> keys) {
    std::map<int, std::unique_ptr<int>> values;
    for (const int key : keys) values[key] = std::make_unique<int>(10 * key);
    return values;
  });
  auto before = DoAsync(of_pointers, 1);
  pointers.Forget(1);  // its newer call cannot get the same pointer
  auto after = DoAsync(of_pointers, 1);
  of_pointers.Flush();
  CHECK(**before.Get() == 10);
  CHECK(**after.Get() == 10);

  Group<int, bool> flags;
  Batcher of_flags(flags, [](std::span<const int> keys) {
    std::vector<bool> values;
    for (const int key : keys) values.push_back(key > 1);
    return values;
  });
  auto low = DoAsync(of_flags, 1);
  CHECK(*of_flags.Do(2));
  CHECK_FALSE(*low.Get());
}

TEST_CASE("Batcher: the function's callable may be a member function or may change itself") {
  struct Database {
    Ints Load(std::span<const int> keys) {
      loads += 1;
      return TenTimes(keys);
    }
    int loads = 0;
  } database;
  Group<int, int> group;
  Batcher by_member(group, std::bind_front(&Database::Load, &database));
  CHECK(*by_member.Do(1) == 10);
  CHECK(database.loads == 1);
  int seen = 0;
  Batcher counts(group, [&seen, count = 0](std::span<const int> keys) mutable {
    seen = ++count;
    return TenTimes(keys);
  });
  static_cast<void>(counts.Do(1));
  static_cast<void>(counts.Do(1));
  CHECK(seen == 2);
}

// ---- Failures

TEST_CASE("Batcher: what the function throws reaches all callers of its keys, as one object") {
  Group<int, int> group;
  bool down = true;
  Batcher batcher(group, [&](std::span<const int> keys) {
    if (down) throw std::runtime_error("down");
    return TenTimes(keys);
  });
  auto one = DoAsync(batcher, 1);
  auto also_one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  batcher.Flush();
  std::vector<const std::exception*> thrown;
  for (Future<int>* future : {&one, &also_one, &two}) {
    try {
      static_cast<void>(future->Get());
    } catch (const std::runtime_error& error) {
      CHECK(std::string(error.what()) == "down");
      thrown.push_back(&error);
    }
  }
  REQUIRE(thrown.size() == 3);
  CHECK(thrown[0] == thrown[1]);
  CHECK(thrown[0] == thrown[2]);
  down = false;
  CHECK(*batcher.Do(1) == 10);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1, .failures = 2});
}

TEST_CASE("Promise 5: an exception of any type passes through a Batcher unchanged") {
  Group<int, int> group;
  Batcher batcher(group, [](std::span<const int>) -> Ints { throw 42; });
  int caught = 0;
  try {
    static_cast<void>(batcher.Do(1));
  } catch (int number) {
    caught = number;
  }
  CHECK(caught == 42);
}

TEST_CASE("Promise 17: followers in a Batcher's Do share one second try, and leaders have none") {
  Group<int, int> group;
  int calls = 0;
  Tasks tasks;
  Batcher batcher(
      group,
      [&](std::span<const int> keys) {
        if (++calls == 1) throw std::runtime_error("down");
        return TenTimes(keys);
      },
      {.max_delay = 0ms}, tasks.Keep());
  auto leader = DoAsync(batcher, 1);
  const auto ask = [&] { return batcher.Do(1, {.on_failure = OnFailure::kRetry}); };
  Caller one(ask);
  Caller other(ask);
  AwaitCallers(group, 1, 3);
  tasks.RunOne();
  CHECK(Get(leader).message == "down");
  AwaitCallers(group, 1, 2);
  Await([&] { return tasks.Count() == 1; });
  tasks.RunOne();
  CHECK(one.Join().value == 10);
  CHECK(other.Join().value == 10);
  CHECK(calls == 2);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 1});
}

TEST_CASE("Promise 17: a second failure in a Batcher's Do is final, and a leader's first is") {
  Group<int, int> group;
  int calls = 0;
  Batcher batcher(group, [&](std::span<const int>) -> Ints {
    ++calls;
    throw std::runtime_error("down");
  });
  auto leader = DoAsync(batcher, 1);
  const auto follower = Keep([&] { return batcher.Do(1, {.on_failure = OnFailure::kRetry}); });
  CHECK(follower.message == "down");
  CHECK(calls == 2);
  const auto alone = Keep([&] { return batcher.Do(2, {.on_failure = OnFailure::kRetry}); });
  CHECK(alone.message == "down");
  CHECK(calls == 3);
}

TEST_CASE(
    "Promise 17: a caller that is stopped as its call fails leaves the second try to others") {
  IntGroup group;
  int calls = 0;
  Tasks tasks;
  Batcher batcher(
      group,
      [&](std::span<const int> keys) {
        if (++calls == 1) throw std::runtime_error("down");
        return TenTimes(keys);
      },
      {.max_delay = 0ms}, tasks.Keep());
  struct Stops final : IntGroup::Waiter {
    void OnLanded() noexcept override { stop.request_stop(); }
    StopSource stop;
  } leader;  // is notified first
  batcher.Join(1, leader);
  Caller stopped([&] {
    return batcher.Do(1, {.stop = leader.stop.get_token(), .on_failure = OnFailure::kRetry});
  });
  AwaitCallers(group, 1, 2);
  Caller other([&] { return batcher.Do(1, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, 1, 3);
  tasks.RunOne();
  CHECK(stopped.Join().error == std::errc::operation_canceled);
  Await([&] { return tasks.Count() == 1; });
  tasks.RunOne();
  CHECK(other.Join().value == 10);
  CHECK(calls == 2);
}

TEST_CASE("Batcher: an executor that throws fails the keys of that batch alone") {
  Group<int, int> group;
  Calls calls;
  bool full = true;
  std::function<void()> task;
  Batcher batcher(group, Noting(calls), {.max_keys = 2}, [&](auto its_task) {
    task = its_task;
    if (full) throw std::runtime_error("the pool is full");
  });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  CHECK(Get(one).message == "the pool is full");
  CHECK(Get(two).message == "the pool is full");
  task();  // too late
  CHECK(calls.Get().empty());
  full = false;
  auto three = DoAsync(batcher, 3);
  batcher.Flush();
  task();
  CHECK(Get(three).value == 30);
  CHECK(calls.Get() == std::vector<Ints>{{3}});
}

TEST_CASE("Batcher: an executor that throws when its max_delay has passed fails the batch") {
  Group<int, int> group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 1ms},
                  [](auto) { throw std::runtime_error("the pool is full"); });
  CHECK(Keep([&] { return batcher.Do(1); }).message == "the pool is full");
  CHECK(Keep([&] { return batcher.Do(2); }).message == "the pool is full");
}

TEST_CASE("Batcher: an executor that throws after it has run the task fails nobody") {
  Group<int, int> group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {}, [](auto task) {
    task();
    throw std::runtime_error("afterwards");
  });
  CHECK(*batcher.Do(1) == 10);
}

TEST_CASE("Batcher: a task that is destroyed without being called lands its keys with owner_dead") {
  Group<int, int> group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_delay = 0ms}, tasks.Keep());
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  tasks.DropAll();
  CHECK(Get(one).error == std::errc::owner_dead);
  CHECK(Get(two).error == std::errc::owner_dead);
  auto three = DoAsync(batcher, 3);  // in a new batch
  REQUIRE(tasks.Count() == 1);
  tasks.RunOne();
  CHECK(Get(three).value == 30);
  CHECK(calls.Get() == std::vector<Ints>{{3}});
}

TEST_CASE("Promise 7: without memory for its key, a caller fails alone") {
  std::size_t failures = 0;
  for (std::size_t fails_at = 0;; ++fails_at) {
    Group<std::string, int> group;
    std::vector<std::string> loaded;
    Batcher batcher(group, [&](std::span<const std::string> keys) {
      loaded.assign(keys.begin(), keys.end());
      return Ints(keys.size(), 7);
    });
    auto before = DoAsync(batcher, "a key that does not fit into a string object");
    std::string key = "another key that does not fit into a string object";
    bool failed = false;
    Future<int> future;
    try {
      const FailAllocations fail(fails_at);
      future = DoAsync(batcher, key);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    if (!failed && future.WaitFor(0s) == std::future_status::ready) {
      CHECK_THROWS_AS(future.Get(), std::bad_alloc);  // its call was made, and could not be kept
      failed = true;
    }
    failures += failed ? 1 : 0;
    CHECK(group.Callers(key) == (failed ? 0 : 1));
    CHECK(batcher.Flush() == (failed ? 1 : 2));
    CHECK(Get(before).value == 7);
    CHECK(loaded.size() == (failed ? 1 : 2));
    CHECK(group.GetStats().in_flight == 0);
    if (!failed) break;
  }
  CHECK(failures >= 4);
}

TEST_CASE("Promise 7: without memory for its first batch, a caller fails and the next is served") {
  std::size_t failures = 0;
  for (std::size_t fails_at = 0;; ++fails_at) {
    Group<int, int> group;
    Calls calls;
    Batcher batcher(group, Noting(calls), {.max_delay = 24h});  // the key also needs a thread
    bool failed = false;
    Future<int> future;
    try {
      const FailAllocations fail(fails_at);
      future = DoAsync(batcher, 1);
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    if (!failed && future.WaitFor(0s) == std::future_status::ready) {
      CHECK_THROWS_AS(future.Get(), std::bad_alloc);
      failed = true;
    }
    failures += failed ? 1 : 0;
    auto next = DoAsync(batcher, 2);
    CHECK(batcher.Flush() == (failed ? 1 : 2));
    CHECK(Get(next).value == 20);
    if (!failed) break;
  }
  CHECK(failures >= 5);
}

TEST_CASE("Promise 7: without memory to run a batch, its keys fail and the next batch is served") {
  std::size_t failures = 0;
  for (std::size_t fails_at = 0;; ++fails_at) {
    Group<int, int> group;
    bool allocates = true;
    Batcher batcher(
        group,
        [&](std::span<const int> keys, const StopToken&) {
          allocates = false;
          allocations_until_failure = std::numeric_limits<std::size_t>::max();
          return TenTimes(keys);
        },
        {}, kInline);
    auto one = DoAsync(batcher, 1);
    auto two = DoAsync(batcher, 2);
    {
      const FailAllocations fail(fails_at);
      batcher.Flush();
    }
    const bool failed = allocates;
    failures += failed ? 1 : 0;
    for (Future<int>* future : {&one, &two}) {
      if (failed) {
        CHECK_THROWS_AS(future->Get(), std::bad_alloc);
      } else {
        CHECK(*future->Get() % 10 == 0);
      }
    }
    CHECK(*batcher.Do(3) == 30);
    if (!failed) break;
  }
  CHECK(failures >= 2);
}

TEST_CASE("Promise 7: a key that cannot be hashed or compared in a batch fails alone") {
  struct Key {
    int id;
  };
  static thread_local int hashes_left;
  struct Hash {
    std::size_t operator()(const Key& key) const {
      if (hashes_left-- == 0) throw std::runtime_error("no hash");
      return static_cast<std::size_t>(key.id);
    }
  };
  struct Equal {
    bool operator()(const Key& a, const Key& b) const { return a.id == b.id; }
  };
  Group<Key, int, Hash, Equal> group;
  hashes_left = 100;
  Batcher batcher(group, [](std::span<const Key> keys) {
    Ints values;
    for (const Key& key : keys) values.push_back(10 * key.id);
    return values;
  });
  auto one = DoAsync(batcher, Key{1});
  auto two = DoAsync(batcher, Key{2});
  auto three = DoAsync(batcher, Key{3});
  hashes_left = 1;
  batcher.Flush();
  hashes_left = 100;
  CHECK(Get(one).value == 10);
  CHECK(Get(two).message == "no hash");
  CHECK(Get(three).value == 30);
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("Promise 6: a thread that is cancelled in the function lands its keys with owner_dead") {
  Group<int, int> group;
  std::latch runs(1);
  std::function<void()> task;
  Batcher batcher(
      group,
      [&](std::span<const int>) -> Ints {
        runs.count_down();
        for (;;) pthread_testcancel();
      },
      {}, [&](auto its_task) { task = its_task; });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  batcher.Flush();
  CancellableThread thread([&] { task(); });
  runs.wait();
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(Get(one).error == std::errc::owner_dead);
  CHECK(Get(two).error == std::errc::owner_dead);
}
#endif

// ---- Waits that would never end

TEST_CASE("Promise 9: a function that asks for a key of its own batch is refused") {
  Group<int, int> group;
  std::vector<std::optional<std::errc>> refused;
  std::function<void()> ask;
  Batcher batcher(group, [&](std::span<const int> keys) {
    if (keys.front() == 1) ask();
    return TenTimes(keys);
  });
  ask = [&] {
    refused.push_back(ErrorOf([&] { return group.Do(2, [] { return -1; }); }));
    refused.push_back(ErrorOf([&] { return batcher.Do(1); }));
    refused.push_back(ErrorOf([&] { return DoAsync(batcher, 2).Get(); }));
  };
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  batcher.Flush();
  CHECK(refused ==
        std::vector<std::optional<std::errc>>(3, std::errc::resource_deadlock_would_occur));
  CHECK(Get(one).value == 10);
  CHECK(Get(two).value == 20);
}

TEST_CASE("Batcher: a function may ask the batcher for other keys") {
  Group<int, int> group;
  const auto test = [&](singleflight::BatcherOptions options) {
    std::function<int(int)> ask;
    Batcher batcher(
        group,
        [&](std::span<const int> keys) {
          Ints values;
          for (const int key : keys) values.push_back(key == 0 ? 1 : 1 + ask(key - 1));
          return values;
        },
        options);
    ask = [&](int key) { return *batcher.Do(key); };
    return *batcher.Do(20);
  };
  CHECK(test({}) == 21);
  CHECK(test({.max_delay = 0ms}) == 21);
}

TEST_CASE("Promise 9: a cycle of two batches on two threads is refused in one of them") {
  Group<int, int> group;
  std::latch both(2);
  std::atomic<int> refused = 0;
  std::function<int(int)> ask;
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    both.arrive_and_wait();
                    const int other = 3 - keys.front();
                    const auto error = ErrorOf([&] { return ask(other); });
                    if (error == std::errc::resource_deadlock_would_occur) ++refused;
                    return TenTimes(keys);
                  },
                  {.max_keys = 1, .max_delay = 24h});
  ask = [&](int key) { return *batcher.Do(key); };
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  CHECK(Get(one).value == 10);
  CHECK(Get(two).value == 20);
  CHECK(refused == 1);
}

TEST_CASE("Promise 9: a waiter that a batch notifies cannot block for the batch's other keys") {
  struct AsksForTwo final : IntGroup::Waiter {
    void OnLanded() noexcept override {
      refused = ErrorOf([this] { return group->Do(2, [] { return -1; }); });
    }
    IntGroup* group = nullptr;
    std::optional<std::errc> refused;
  } waiter;
  IntGroup group;
  waiter.group = &group;
  for (const bool throws : {false, true}) {
    Batcher batcher(group, [&](std::span<const int> keys) {
      if (throws) throw std::runtime_error("down");
      return TenTimes(keys);
    });
    waiter.refused = std::nullopt;
    CHECK(batcher.Join(1, waiter) == Role::kLeader);
    auto two = DoAsync(batcher, 2);
    batcher.Flush();
    CHECK(waiter.refused == std::errc::resource_deadlock_would_occur);
    CHECK(Get(two).value.has_value() != throws);
    CHECK(Keep([&] { return waiter.TakeResult(); }).value.has_value() != throws);
  }
}

// SPDX-License-Identifier: MIT

// Tests of Batcher: which keys become one call of the function, when, and on which thread.

#include <atomic>
#include <chrono>
#include <filesystem>
#include <latch>
#include <string>
#include <system_error>
#include <thread>

#include "batcher_support.hpp"
#include "cache/fake_cache.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;
using singleflight::DoAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::ReadThrough;
using singleflight::Role;
using singleflight::Stats;

namespace {

using Futures = std::vector<Future<int>>;

Futures AskFor(IntBatcher& batcher, const Ints& keys) {
  Futures futures;
  for (const int key : keys) futures.push_back(DoAsync(batcher, key));
  return futures;
}

// How many threads this process has, if the system tells.
std::size_t CountThreads() {
  std::size_t count = 0;
  std::error_code not_linux;
  for (const auto& thread : std::filesystem::directory_iterator("/proc/self/task", not_linux)) {
    count += thread.path().empty() ? 0 : 1;
  }
  return count;
}

}  // namespace

TEST_CASE("Batcher: keys that wait for a Flush become one call of the function, in their order") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  Futures futures = AskFor(batcher, {3, 1, 2});
  CHECK(calls.Get().empty());
  CHECK(batcher.GetStats() == BatcherStats{.waiting = 3});
  CHECK(batcher.Flush() == 3);
  CHECK(calls.Get() == std::vector<Ints>{{3, 1, 2}});
  Ints values;
  for (Future<int>& future : futures) {
    const auto result = future.Get();
    values.push_back(*result);
    CHECK_FALSE(result.shared());
    CHECK(result.role() == Role::kLeader);
  }
  CHECK(values == Ints{30, 10, 20});
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 3});
  CHECK(group.GetStats() == Stats{.executions = 3});
}

TEST_CASE("Batcher: a Flush without keys calls nothing") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  CHECK(batcher.Flush() == 0);
  CHECK(calls.Get().empty());
  CHECK(batcher.GetStats() == BatcherStats());
}

TEST_CASE("Batcher: a batch has at most max_keys keys, and runs when it has so many") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 3});
  Futures futures = AskFor(batcher, {1, 2, 3, 4, 5, 6, 7});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}, {4, 5, 6}});
  CHECK(batcher.Flush() == 1);
  CHECK(calls.Get().back() == Ints{7});
  CHECK(ValuesOf(futures) == Ints{10, 20, 30, 40, 50, 60, 70});
}

TEST_CASE("Batcher: with a max_keys of 1, each key is a call of its own") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 1});
  Futures futures = AskFor(batcher, {1, 2});
  CHECK(calls.Get() == std::vector<Ints>{{1}, {2}});
  CHECK(batcher.Flush() == 0);
}

TEST_CASE("Batcher: a key that is asked for several times is loaded once, and counts once") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 3});
  Futures futures = AskFor(batcher, {1, 2, 1, 1, 2});
  CHECK(calls.Get().empty());
  futures.push_back(DoAsync(batcher, 3));
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}});
  const auto first = futures[0].Get();
  const auto again = futures[2].Get();
  CHECK(&*first == &*again);
  CHECK(first.shared());
  CHECK(again.role() == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 3});
}

TEST_CASE("Batcher: a key that is in flight elsewhere is joined, and takes no place in a batch") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  HeldCall in_flight(group, 1);  // its fn returns 1
  Futures futures = AskFor(batcher, {1, 2});
  CHECK(calls.Get().empty());
  futures.push_back(DoAsync(batcher, 3));
  CHECK(calls.Get() == std::vector<Ints>{{2, 3}});
  in_flight.Finish();
  CHECK(*futures[0].Get() == 1);
  CHECK(*futures[1].Get() == 20);
}

TEST_CASE("Batcher: a thread that asks the group for a key in a batch gets the batch's value") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  Future<int> future = DoAsync(batcher, 1);
  Caller direct([&] { return group.Do(1, []() -> int { throw std::logic_error("not this"); }); });
  AwaitCallers(group, 1, 2);
  batcher.Flush();
  CHECK(direct.Join().value == 10);
  CHECK(direct.Join().role == Role::kFollower);
  CHECK(future.Get().shared());
}

TEST_CASE("Batcher: two batchers of one group share its calls") {
  IntGroup group;
  Calls calls;
  Batcher one(group, Noting(calls));
  Batcher other(group, Noting(calls));
  Future<int> first = DoAsync(one, 1);
  Future<int> second = DoAsync(other, 1);
  CHECK(other.Flush() == 0);
  CHECK(one.Flush() == 1);
  CHECK(*first.Get() == 10);
  CHECK(*second.Get() == 10);
  CHECK(calls.Get() == std::vector<Ints>{{1}});
}

TEST_CASE("Batcher: a key that a ReadThrough has in its cache takes no place in a batch") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> read_through(cache);
  cache.Fill("a", 1);
  std::vector<std::string> loaded;
  Batcher batcher(read_through, [&](std::span<const std::string> keys) {
    loaded.assign(keys.begin(), keys.end());
    return Ints(keys.size(), 7);
  });
  Future<int> hit = DoAsync(batcher, "a");
  CHECK(*hit.Get() == 1);
  Future<int> miss = DoAsync(batcher, "b");
  CHECK(batcher.Flush() == 1);
  CHECK(loaded == std::vector<std::string>{"b"});
  CHECK(*miss.Get() == 7);
  CHECK(cache.Peek("b") == 7);
  CHECK(*batcher.Do("b") == 7);
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 1});
}

TEST_CASE("Batcher: a key that was forgotten and asked for again is not twice in one call") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  Future<int> before = DoAsync(batcher, 1);
  Future<int> other = DoAsync(batcher, 2);
  group.Forget(1);
  Future<int> after = DoAsync(batcher, 1);
  CHECK(batcher.Flush() == 3);
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}, {1}});
  CHECK(*before.Get() == 10);
  CHECK(*after.Get() == 10);
  CHECK(*other.Get() == 20);
  CHECK(batcher.GetStats() == BatcherStats{.batches = 2, .keys = 3});
}

TEST_CASE("Batcher: keys may be anything that Do takes") {
  Group<std::string, int> group;
  const auto sizes = [](std::span<const std::string> keys) {
    Ints values;
    for (const std::string& key : keys) values.push_back(static_cast<int>(key.size()));
    return values;
  };
  Batcher batcher(group, sizes, {.max_keys = 3});
  auto one = DoAsync(batcher, "a");
  auto two = DoAsync(batcher, std::string_view("bb"));
  CHECK(*batcher.Do(std::string("ccc")) == 3);
  CHECK(*one.Get() == 1);
  CHECK(*two.Get() == 2);

  Group<unsigned, int> numbers;
  Batcher of_numbers(numbers, [](std::span<const unsigned> keys) { return Ints(keys.size()); });
  CHECK_THROWS_AS(of_numbers.Do(-1), std::out_of_range);
  CHECK(numbers.GetStats() == Stats());
}

// ---- Time

TEST_CASE("Batcher: keys are loaded once max_delay has passed") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 1ms});
  CHECK(*batcher.Do(1) == 10);
  CHECK(*DoAsync(batcher, 2).Get() == 20);
  CHECK(calls.Get() == std::vector<Ints>{{1}, {2}});
}

TEST_CASE("Batcher: threads that block in Do at the same time share a batch") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 8, .max_delay = 24h});
  std::atomic<int> next = 0;
  std::atomic<int> right = 0;
  AskAtOnce(8, [&] {
    const int key = next++;
    auto result = batcher.Do(key);
    if (*result == 10 * key) ++right;
    return result;
  });
  CHECK(right == 8);
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 8});
}

TEST_CASE("Batcher: a Flush does not wait for max_delay") {
  IntGroup group;
  std::thread::id ran_on;
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    ran_on = std::this_thread::get_id();
                    return TenTimes(keys);
                  },
                  {.max_delay = 24h});
  Futures futures = AskFor(batcher, {1, 2});
  CHECK(batcher.Flush() == 2);
  CHECK(*futures[0].Get() == 10);
  CHECK(*futures[1].Get() == 20);
  CHECK(ran_on != std::this_thread::get_id());
}

TEST_CASE("Batcher: batches on its own threads do not wait for each other") {
  IntGroup group;
  std::latch all_run(3);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    all_run.arrive_and_wait();
                    return TenTimes(keys);
                  },
                  {.max_keys = 2, .max_delay = 24h});
  Futures futures = AskFor(batcher, {1, 2, 3, 4, 5});
  batcher.Flush();
  CHECK(ValuesOf(futures) == Ints{10, 20, 30, 40, 50});
}

TEST_CASE("Batcher: a batch's time counts from its first key, while other batches run") {
  IntGroup group;
  std::latch first_runs(1);
  std::latch finish(1);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    if (keys.front() == 1) {
                      first_runs.count_down();
                      finish.wait();
                    }
                    return TenTimes(keys);
                  },
                  {.max_delay = 1ms});
  Future<int> first = DoAsync(batcher, 1);
  first_runs.wait();
  CHECK(*batcher.Do(2) == 20);  // although the thread that kept the time is busy
  finish.count_down();
  CHECK(*first.Get() == 10);
}

TEST_CASE("Batcher: after many batches at once, it keeps two threads, and they serve the rest") {
  IntGroup group;
  std::latch all_run(8);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    if (keys.front() < 8) all_run.arrive_and_wait();
                    return TenTimes(keys);
                  },
                  {.max_keys = 1, .max_delay = 0ms});
  std::thread([] {}).join();  // a sanitizer starts a thread of its own beside the first one
  const std::size_t threads_before = CountThreads();
  Futures futures = AskFor(batcher, {0, 1, 2, 3, 4, 5, 6, 7});
  CHECK(ValuesOf(futures) == Ints{0, 10, 20, 30, 40, 50, 60, 70});
  if (threads_before > 0) Await([&] { return CountThreads() <= threads_before + 2; });
  for (int key = 8; key < 100; ++key) CHECK(*batcher.Do(key) == 10 * key);
}

TEST_CASE(
    "Batcher: at most max_threads batches run at the same time, and the next takes more keys") {
  IntGroup group;
  Calls calls;
  std::latch runs(1);
  std::latch finish(1);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    calls.Add(keys);
                    if (keys.front() == 1) {
                      runs.count_down();
                      finish.wait();
                    }
                    return TenTimes(keys);
                  },
                  {.max_keys = 3, .max_delay = 0ms, .max_threads = 1});
  Futures futures = AskFor(batcher, {1});
  runs.wait();
  for (const int key : {2, 3, 4, 5}) futures.push_back(DoAsync(batcher, key));
  CHECK(batcher.Flush() == 1);
  CHECK(batcher.GetStats().waiting == 4);
  finish.count_down();
  CHECK(ValuesOf(futures) == Ints{10, 20, 30, 40, 50});
  CHECK(calls.Get() == std::vector<Ints>{{1}, {2, 3, 4}, {5}});
}

TEST_CASE("Batcher: a max_delay that is too long to be represented is no limit") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = std::chrono::hours::max()});
  Futures futures = AskFor(batcher, {1});
  CHECK(*batcher.Do(2) == 20);  // it has flushed the batch, because no time would come
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
}

TEST_CASE("Batcher: a max_delay of less than zero counts as zero") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_delay = std::chrono::hours::min()}, tasks.Keep());
  Futures futures = AskFor(batcher, {1});
  CHECK(tasks.Count() == 1);
}

TEST_CASE("Batcher: limits of 0 are refused when it is constructed") {
  IntGroup group;
  Calls calls;
  CHECK_THROWS_AS(IntBatcher(group, Noting(calls), {.max_keys = 0}), std::invalid_argument);
  CHECK_THROWS_AS(IntBatcher(group, Noting(calls), {.max_threads = 0}), std::invalid_argument);
}

// ---- Without a time

TEST_CASE("Batcher: without a max_delay, a thread that blocks in Do flushes the batch first") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  Futures futures = AskFor(batcher, {1, 2});
  CHECK(*batcher.Do(3) == 30);
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}});

  futures.push_back(DoAsync(batcher, 4));
  const auto follower = batcher.Do(4);  // its leader would not have flushed it
  CHECK(*follower == 40);
  CHECK(follower.role() == Role::kFollower);
}

TEST_CASE("Batcher: without a max_delay and an executor, it starts no thread") {
  IntGroup group;
  std::vector<std::thread::id> ran_on;
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    ran_on.push_back(std::this_thread::get_id());
                    return TenTimes(keys);
                  },
                  {.max_keys = 2});
  Futures futures = AskFor(batcher, {1, 2, 3});
  batcher.Flush();
  static_cast<void>(batcher.Do(4));
  CHECK(ran_on == std::vector<std::thread::id>(3, std::this_thread::get_id()));
}

// ---- Executors

TEST_CASE("Batcher: an executor gets a task for each batch, and the function runs in the task") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_keys = 2}, tasks.Keep());
  Futures futures = AskFor(batcher, {1, 2, 3});
  CHECK(tasks.Count() == 1);
  batcher.Flush();
  CHECK(tasks.Count() == 2);
  CHECK(calls.Get().empty());
  tasks.RunOne();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  tasks.RunOne();
  CHECK(*futures[2].Get() == 30);
}

TEST_CASE("Batcher: a batch takes keys until its task is called, but no more than max_keys") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_keys = 3}, tasks.Keep());
  Futures futures = AskFor(batcher, {1});
  CHECK(batcher.Flush() == 1);
  futures.push_back(DoAsync(batcher, 2));
  CHECK(batcher.Flush() == 0);  // the executor has it
  futures.push_back(DoAsync(batcher, 3));
  futures.push_back(DoAsync(batcher, 4));
  CHECK(tasks.Count() == 1);
  CHECK(batcher.GetStats().waiting == 4);
  tasks.RunOne();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}});
  CHECK(batcher.Flush() == 1);
  tasks.RunOne();
  CHECK(calls.Get().back() == Ints{4});
}

TEST_CASE("Batcher: with a max_delay of 0, the executor gets a batch when its first key comes") {
  IntGroup group;
  Calls calls;
  Tasks tasks;
  Batcher batcher(group, Noting(calls), {.max_delay = 0ms}, tasks.Keep());
  Futures futures = AskFor(batcher, {1, 2, 3});
  CHECK(tasks.Count() == 1);
  tasks.RunOne();
  futures.push_back(DoAsync(batcher, 4));
  CHECK(tasks.Count() == 1);
  tasks.RunOne();
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}, {4}});
}

TEST_CASE("Batcher: when max_delay has passed, its own thread gives the batch to the executor") {
  IntGroup group;
  Calls calls;
  std::latch given(1);
  std::function<void()> task;
  std::thread::id given_by;
  Batcher batcher(group, Noting(calls), {.max_delay = 1ms}, [&](auto its_task) {
    given_by = std::this_thread::get_id();
    task = its_task;
    given.count_down();
  });
  Future<int> future = DoAsync(batcher, 1);
  given.wait();
  CHECK(given_by != std::this_thread::get_id());
  CHECK(calls.Get().empty());
  task();
  CHECK(*future.Get() == 10);
}

TEST_CASE("Batcher: a task runs its batch once, however often it is called and copied") {
  IntGroup group;
  Calls calls;
  std::function<void()> task;
  Batcher batcher(group, Noting(calls), {}, [&](auto its_task) { task = its_task; });
  Future<int> future = DoAsync(batcher, 1);
  batcher.Flush();
  const std::function<void()> copy = task;
  task();
  task();
  copy();
  CHECK(calls.Get() == std::vector<Ints>{{1}});
  CHECK(*future.Get() == 10);
}

TEST_CASE("Batcher: an executor that cannot be copied is kept") {
  IntGroup group;
  Calls calls;
  auto ran = std::make_unique<int>(0);
  int& count = *ran;
  Batcher batcher(group, Noting(calls), {}, [ran = std::move(ran)](auto task) {
    ++*ran;
    task();
  });
  CHECK(*batcher.Do(1) == 10);
  CHECK(count == 1);
}

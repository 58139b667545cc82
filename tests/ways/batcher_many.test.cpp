// SPDX-License-Identifier: MIT

// Tests of DoMany on a Batcher.

#include <pthread.h>

#include <atomic>
#include <functional>
#include <latch>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>

#include "batcher_support.hpp"
#include "cache/fake_cache.hpp"
#include "support/allocations.hpp"
#include "support/cancellable_thread.hpp"
#include "support/platform.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;
using singleflight::CallOptions;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::OnFailure;
using singleflight::ReadThrough;
using singleflight::Role;
using singleflight::Stats;

namespace {

// A thread that asks for a batch of keys.
class ManyCaller {
 public:
  ManyCaller(IntBatcher& batcher, Keys keys, CallOptions options = {})
      : thread_([this, &batcher, keys = std::move(keys), options] {
          results_ = DoMany(batcher, keys, options);
        }) {}
  Results& Join() {
    if (thread_.joinable()) thread_.join();
    return results_;
  }

 private:
  Results results_;
  JoiningThread thread_;
};

// The first call for `key`, which fails when it is told to.
class FailingCall {
 public:
  FailingCall(IntGroup& group, int key) {
    group.Join(key, waiter_, [this](IntGroup::Lead lead) { lead_ = std::move(lead); });
  }
  void Fail() { lead_->Fail(std::make_exception_ptr(std::runtime_error("down"))); }

 private:
  Silent waiter_;
  std::optional<IntGroup::Lead> lead_;
};

}  // namespace

TEST_CASE("DoMany: the keys of a Batcher's caller are one call, each once, in their order") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  const auto results = DoMany(batcher, {3, 1, 3, 2, 1});
  CHECK(calls.Get() == std::vector<Ints>{{3, 1, 2}});
  CHECK(ValuesOf(results) == Ints{30, 10, 30, 20, 10});
  CHECK(&*results[0] == &*results[2]);
  CHECK(results[0].shared());
  CHECK_FALSE(results[3].shared());
  CHECK(results[0].role() == Role::kLeader);
  CHECK(group.GetStats() == Stats{.executions = 3});
  CHECK(DoMany(batcher, Keys()).empty());
  CHECK(batcher.GetStats() == BatcherStats{.batches = 1, .keys = 3});
}

TEST_CASE("DoMany: more keys than a Batcher's max_keys are loaded in as many calls as it takes") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 3});
  const auto results = DoMany(batcher, {1, 2, 3, 4, 5, 6, 7, 1});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}, {4, 5, 6}, {7}});
  CHECK(ValuesOf(results) == Ints{10, 20, 30, 40, 50, 60, 70, 10});
  CHECK(group.GetStats() == Stats{.executions = 7});
}

TEST_CASE("DoMany: the keys of its callers and of single asks fill a Batcher's batch together") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 5, .max_delay = 24h});
  auto single = DoAsync(batcher, 0);
  ManyCaller one(batcher, {0, 1, 2});
  ManyCaller other(batcher, {0, 3, 4});
  CHECK(ValuesOf(one.Join()) == Ints{0, 10, 20});
  CHECK(ValuesOf(other.Join()) == Ints{0, 30, 40});
  CHECK(*single.Get() == 0);
  REQUIRE(calls.Get().size() == 1);
  CHECK(calls.Get()[0].size() == 5);
  CHECK(one.Join()[0].role() == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 5, .followers = 2});
}

TEST_CASE("DoMany: a Batcher's keys that are in flight are joined, and the others are loaded") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_keys = 2});
  HeldCall in_flight(group, 2);  // its fn returns 1
  ManyCaller caller(batcher, {1, 2, 3});
  AwaitCallers(group, 2, 2);
  Await([&] { return calls.Get().size() == 1; });
  in_flight.Finish();
  CHECK(ValuesOf(caller.Join()) == Ints{10, 1, 30});
  CHECK(calls.Get() == std::vector<Ints>{{1, 3}});
  CHECK(caller.Join()[1].role() == Role::kFollower);
}

TEST_CASE("DoMany: without a max_delay, it flushes a Batcher's batch that others have begun") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  auto other = DoAsync(batcher, 1);
  CHECK(ValuesOf(DoMany(batcher, {1})) == Ints{10});  // its leader would not have flushed it
  auto another = DoAsync(batcher, 2);
  CHECK(ValuesOf(DoMany(batcher, {3})) == Ints{30});
  CHECK(*other.Get() == 10);
  CHECK(*another.Get() == 20);
  CHECK(calls.Get() == std::vector<Ints>{{1}, {2, 3}});
}

TEST_CASE("DoMany: a Batcher's executor gets the keys of one caller as one batch") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {}, kInline);
  CHECK(ValuesOf(DoMany(batcher, {1, 2, 3})) == Ints{10, 20, 30});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2, 3}});
}

TEST_CASE("DoMany: a Batcher's keys may be anything that Do takes, and values may be void") {
  Group<std::string, void> group;
  std::vector<std::string> loaded;
  Batcher batcher(
      group, [&](std::span<const std::string> keys) { loaded.assign(keys.begin(), keys.end()); });
  const auto results = DoMany(batcher, std::vector{"a", "b", "a"});
  CHECK(loaded == std::vector<std::string>{"a", "b"});
  for (const auto& result : results) CHECK(result.has_value());

  Group<int, std::unique_ptr<int>> pointers;
  Batcher of_pointers(pointers, [](std::span<const int> keys) {
    std::map<int, std::unique_ptr<int>> values;
    for (const int key : keys) values[key] = std::make_unique<int>(10 * key);
    return values;
  });
  const auto owned = DoMany(of_pointers, {2, 1});
  CHECK(**owned[0] == 20);
  CHECK(**owned[1] == 10);
}

TEST_CASE("DoMany: a Batcher of a ReadThrough loads the keys that the cache does not have") {
  FakeCache<int> cache;
  ReadThrough<std::string, int, FakeCache<int>&> read_through(cache);
  cache.Fill("hit", 1);
  std::vector<std::string> loaded;
  Batcher batcher(read_through, [&](std::span<const std::string> keys) {
    loaded.assign(keys.begin(), keys.end());
    return Ints(keys.size(), 7);
  });
  const auto results = DoMany(batcher, std::vector{"miss", "hit", "also miss", "hit"});
  CHECK(ValuesOf(results) == Ints{7, 1, 7, 1});
  CHECK(loaded == std::vector<std::string>{"miss", "also miss"});
  CHECK(cache.Peek("miss") == 7);
}

// ---- Errors

TEST_CASE("DoMany: an error that a Batcher's function has for one key is that key's alone") {
  IntGroup group;
  Batcher batcher(group, [](std::span<const int> keys) {
    std::map<int, KeyResult<int>> values;
    for (const int key : keys) {
      if (key == 2) {
        const auto error = std::make_exception_ptr(std::runtime_error("no row"));
        values.emplace(key, KeyResult<int>::Failure(error));
      } else if (key != 3) {
        values.emplace(key, 10 * key);
      }
    }
    return values;
  });
  const auto results = DoMany(batcher, {1, 2, 3, 4});
  CHECK(Get(results[0]).value == 10);
  CHECK(Get(results[1]).message == "no row");
  CHECK(Get(results[2]).error == std::errc::no_message);
  CHECK(Get(results[3]).value == 40);
  CHECK(group.GetStats() == Stats{.executions = 4, .failures = 2});
}

TEST_CASE("DoMany: what a Batcher's function throws fails the keys of that call alone") {
  IntGroup group;
  Batcher batcher(group,
                  [](std::span<const int> keys) {
                    if (keys.front() == 3) throw std::runtime_error("down");
                    return TenTimes(keys);
                  },
                  {.max_keys = 2});
  const auto results = DoMany(batcher, {1, 2, 3, 4, 5});
  CHECK(Get(results[1]).value == 20);
  CHECK(Get(results[2]).message == "down");
  CHECK(Get(results[3]).message == "down");
  CHECK(Get(results[4]).value == 50);
}

TEST_CASE("DoMany: a Batcher's executor that throws or drops a task fails the keys that it had") {
  IntGroup group;
  Calls calls;
  int given = 0;
  Batcher batcher(group, Noting(calls), {.max_keys = 2}, [&](auto task) {
    ++given;
    if (given == 1) throw std::runtime_error("the pool is full");
    if (given == 3) task();
  });
  const auto results = DoMany(batcher, {1, 2, 3, 4, 5});
  CHECK(Get(results[0]).message == "the pool is full");
  CHECK(Get(results[1]).message == "the pool is full");
  CHECK(Get(results[2]).error == std::errc::owner_dead);
  CHECK(Get(results[3]).error == std::errc::owner_dead);
  CHECK(Get(results[4]).value == 50);
  CHECK(calls.Get() == std::vector<Ints>{{5}});
}

TEST_CASE("DoMany: keys of a Batcher whose other leader failed are asked for again, in a batch") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  FailingCall one(group, 1);
  FailingCall two(group, 2);
  ManyCaller shares(batcher, {1});
  ManyCaller retries(batcher, {1, 2, 3}, {.on_failure = OnFailure::kRetry});
  AwaitCallers(group, 1, 3);
  AwaitCallers(group, 2, 2);
  Await([&] { return calls.Get().size() == 1; });
  one.Fail();
  two.Fail();
  CHECK(ValuesOf(retries.Join()) == Ints{10, 20, 30});
  CHECK(Get(shares.Join()[0]).message == "down");
  CHECK(calls.Get() == std::vector<Ints>{{3}, {1, 2}});
}

TEST_CASE("Promise 17: a key that a caller of a Batcher's DoMany led has no second try") {
  IntGroup group;
  int calls = 0;
  Batcher batcher(group, [&](std::span<const int>) -> Ints {
    ++calls;
    throw std::runtime_error("down");
  });
  const auto results = DoMany(batcher, {1, 2}, {.on_failure = OnFailure::kRetry});
  CHECK(Get(results[0]).message == "down");
  CHECK(Get(results[1]).message == "down");
  CHECK(calls == 1);
}

TEST_CASE("Promise 9: a Batcher's function that asks for many is refused its own keys alone") {
  IntGroup group;
  Results results;
  std::function<void()> ask;
  Batcher batcher(group, [&](std::span<const int> keys) {
    if (keys.front() == 1) ask();
    return TenTimes(keys);
  });
  ask = [&] { results = DoMany(batcher, {1, 3, 2}); };
  CHECK(ValuesOf(DoMany(batcher, {1, 2})) == Ints{10, 20});
  CHECK(ErrorsOf(results) == Errors{std::errc::resource_deadlock_would_occur, std::nullopt,
                                    std::errc::resource_deadlock_would_occur});
}

TEST_CASE("DoMany: a Batcher's function may ask for keys that its caller has yet to ask for") {
  IntGroup group;
  Calls calls;
  std::function<void()> ask;
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    calls.Add(keys);
                    if (keys.front() == 1) ask();
                    return TenTimes(keys);
                  },
                  {.max_keys = 2});
  int nested = 0;
  ask = [&] { nested = *batcher.Do(3); };
  CHECK(ValuesOf(DoMany(batcher, {1, 2, 3, 4})) == Ints{10, 20, 30, 40});
  CHECK(nested == 30);
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}, {3}, {3, 4}});
}

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("Promise 6: a thread that is cancelled in a Batcher's function leaves its other keys") {
  IntGroup group;
  std::latch runs(1);
  Batcher batcher(group,
                  [&](std::span<const int> keys) {
                    if (keys.front() == 4) return TenTimes(keys);
                    runs.count_down();
                    for (;;) pthread_testcancel();
                  },
                  {.max_keys = 3});
  HeldCall in_flight(group, 1);
  auto other = DoAsync(batcher, 2);
  CancellableThread thread([&] { static_cast<void>(DoMany(batcher, {1, 3, 4, 5})); });
  runs.wait();
  CHECK(group.Callers(1) == 2);
  thread.Cancel();
  CHECK(thread.JoinWasUnwound());
  CHECK(Get(other).error == std::errc::owner_dead);
  CHECK(group.Callers(1) == 1);
  in_flight.Finish();
  CHECK(ValuesOf(DoMany(batcher, {4})) == Ints{40});
  CHECK(group.GetStats().in_flight == 0);
}
#endif

TEST_CASE("Promise 7: without memory for a Batcher's batch of keys, other callers are served") {
  std::size_t failures = 0;
  for (std::size_t fails_at = 0;; ++fails_at) {
    IntGroup group;
    Calls calls;
    Batcher batcher(group, Noting(calls), {.max_keys = 3, .max_delay = 24h});
    auto other = DoAsync(batcher, 7);  // starts the thread that will run the batch
    Results results;
    bool failed = false;
    try {
      const FailAllocations fail(fails_at);
      results = DoMany(batcher, {1, 2}, {.timeout = 1ms});
    } catch (const std::bad_alloc&) {
      failed = true;
    }
    for (const auto& result : results) failed = failed || !result;
    failures += failed ? 1 : 0;
    batcher.Flush();
    CHECK(*other.Get() == 70);
    Await([&] { return group.GetStats().in_flight == 0; });
    if (!failed) break;
  }
  CHECK(failures >= 5);
}

// ---- Leaving

TEST_CASE("Promise 10: a caller of a Batcher's DoMany leaves all keys when its timeout passes") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Stoppable(calls), {.max_delay = 24h});
  auto stays = DoAsync(batcher, 2);
  const auto results = DoMany(batcher, {1, 2, 3}, {.timeout = 1ms});
  CHECK(ErrorsOf(results) == Errors(3, std::errc::timed_out));
  CHECK(group.GetStats().left == 3);
  batcher.Flush();
  CHECK(*stays.Get() == 20);
  CHECK(calls.Get() == std::vector<Ints>{{2}});  // nobody wants the others
}

TEST_CASE("Promise 10: a caller of a Batcher's DoMany leaves all keys when it is stopped") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls), {.max_delay = 24h});
  StopSource stop;
  auto stays = DoAsync(batcher, 2);
  ManyCaller leaves(batcher, {1, 2}, {.stop = stop.get_token()});
  AwaitCallers(group, 2, 2);
  stop.request_stop();
  CHECK(ErrorsOf(leaves.Join()) == Errors(2, kCanceled));
  CHECK(group.Callers(2) == 1);
  batcher.Flush();
  CHECK(*stays.Get() == 20);
  CHECK(calls.Get() == std::vector<Ints>{{2, 1}});  // the function cannot be stopped
}

TEST_CASE("Promise 10: a caller that was stopped before it asks a Batcher joins nothing") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  StopSource stop;
  stop.request_stop();
  auto waits = DoAsync(batcher, 1);
  const auto results = DoMany(batcher, {1, 2}, {.stop = stop.get_token()});
  CHECK(ErrorsOf(results) == Errors(2, kCanceled));
  CHECK(batcher.Flush() == 1);  // it has not flushed the batch of others
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("Promise 11: a caller that runs a Batcher's batches itself leaves them when stopped") {
  IntGroup group;
  Calls calls;
  StopSource caller;
  std::vector<bool> asked;
  Batcher batcher(group,
                  Stoppable(calls,
                            [&](const StopToken& stop) {
                              if (calls.Get().size() < 2) return;
                              caller.request_stop();
                              asked.push_back(stop.stop_requested());
                            }),
                  {.max_keys = 2});
  const auto results = DoMany(batcher, {1, 2, 3, 4, 5, 6, 7}, {.stop = caller.get_token()});
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}, {3, 4}});
  CHECK(asked == std::vector<bool>{true});
  CHECK(Get(results[0]).value == 10);
  CHECK(Get(results[1]).value == 20);
  for (std::size_t i = 2; i < 7; ++i) CHECK(ErrorOfKey(results[i]) == kCanceled);
  CHECK(batcher.Flush() == 0);  // the others were not asked for any more
  CHECK(group.GetStats().left == 2);
}

TEST_CASE("Promise 11: a caller in Do that fills a batch and runs it leaves it when stopped") {
  IntGroup group;
  Calls calls;
  StopSource caller;
  bool asked = false;
  Batcher batcher(group,
                  Stoppable(calls,
                            [&](const StopToken& stop) {
                              caller.request_stop();
                              asked = stop.stop_requested();
                            }),
                  {.max_keys = 1});
  CHECK(ErrorOf([&] { return batcher.Do(1, {.stop = caller.get_token()}); }) == kCanceled);
  CHECK(asked);
  CHECK(group.GetStats().left == 1);
}

// ---- The end

TEST_CASE("DoMany: a group that is closed refuses each key of a Batcher's caller") {
  IntGroup group;
  Calls calls;
  Batcher batcher(group, Noting(calls));
  auto waits = DoAsync(batcher, 1);
  JoiningThread closes([&] { group.Close(); });
  const auto refused = std::errc::resource_unavailable_try_again;
  // A single ask would flush the batch.
  Await([&] { return ErrorOf([&] { return group.Do(9, [] { return 1; }); }) == refused; });
  CHECK(ErrorsOf(DoMany(batcher, {1, 2})) == Errors(2, refused));
  CHECK(batcher.Flush() == 1);  // nothing else would have done it
  CHECK(*waits.Get() == 10);
  closes.join();
  CHECK(calls.Get() == std::vector<Ints>{{1}});
}

TEST_CASE("Destroying a Batcher: a waiter may do it while a caller asks for several batches") {
  IntGroup group;
  Calls calls;
  struct Destroys final : IntGroup::Waiter {
    void OnLanded() noexcept override { batcher.reset(); }
    std::unique_ptr<IntBatcher> batcher;
  } waiter;
  int given = 0;
  const bool with_executor = GENERATE(false, true);
  const auto count = [&](auto task) {
    ++given;
    task();
  };
  const BatcherOptions options{.max_keys = 2};
  waiter.batcher = with_executor
                       ? std::make_unique<IntBatcher>(group, Noting(calls), options, count)
                       : std::make_unique<IntBatcher>(group, Noting(calls), options);
  IntBatcher& batcher = *waiter.batcher;
  batcher.Join(1, waiter);
  const auto results = DoMany(batcher, {2, 3, 4, 5});
  CHECK(Get(results[0]).value == 20);
  for (std::size_t i = 1; i < 4; ++i) CHECK(ErrorOfKey(results[i]) == std::errc::owner_dead);
  CHECK(calls.Get() == std::vector<Ints>{{1, 2}});
  CHECK(given == (with_executor ? 1 : 0));  // it is not used after the destruction
}

TEST_CASE("Promise 13: threads that ask a Batcher for overlapping keys get the value of each") {
  IntGroup group;
  std::atomic<std::size_t> loaded = 0;
  std::atomic<std::size_t> wrong = 0;
  const bool timed = GENERATE(false, true);
  const auto load = [&](std::span<const int> keys) {
    loaded += keys.size();
    return TenTimes(keys);
  };
  const BatcherOptions inline_batches{.max_keys = 3};
  const BatcherOptions timed_batches{.max_keys = 3, .max_delay = 0ms};
  Batcher batcher(group, load, timed ? timed_batches : inline_batches);
  std::vector<JoiningThread> threads;
  for (int thread = 0; thread < 3; ++thread) {
    threads.emplace_back([&, thread] {
      for (int round = 0; round < 100; ++round) {
        const int first = (thread + round) % 5;
        const Keys keys{first, first + 1, first + 2, first + 3, first};
        const auto results = DoMany(batcher, keys);
        for (std::size_t i = 0; i < keys.size(); ++i) {
          if (!results[i] || *results[i] != 10 * keys[i]) ++wrong;
        }
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  const Stats stats = group.GetStats();
  CHECK(stats.executions == loaded);
  CHECK(stats.executions + stats.followers == 3 * 100 * 4);
  CHECK(stats.in_flight == 0);
}

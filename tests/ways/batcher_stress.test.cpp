// SPDX-License-Identifier: MIT

// Tests of Batcher: many callers of every kind at the same time, in every way that batches run.

#include <atomic>
#include <set>
#include <string>

#include "batcher_support.hpp"
#include "support/coroutines.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::BatcherOptions;
using singleflight::BatcherStats;
using singleflight::CoDo;
using singleflight::CoDoMany;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::Future;
using singleflight::Stats;

namespace {

constexpr int kThreads = 4;
constexpr int kRounds = 400;
constexpr int kKeys = 7;
constexpr std::size_t kMaxKeys = 3;

// What the callers and the function have counted.
struct Counts {
  std::atomic<int> answers = 0;
  std::atomic<int> left = 0;
  std::atomic<int> wrong = 0;
  std::atomic<std::uint64_t> batches = 0;
  std::atomic<std::uint64_t> keys = 0;
  std::atomic<int> bad_batches = 0;  // empty, too large, or with a key twice
  std::atomic<int> awaiting = 0;     // coroutines that have not finished
};

auto Load(Counts& counts) {
  return [&counts](std::span<const int> keys, const StopToken&) {
    const std::set<int> distinct(keys.begin(), keys.end());
    if (keys.empty() || keys.size() > kMaxKeys || distinct.size() != keys.size()) {
      ++counts.bad_batches;
    }
    ++counts.batches;
    counts.keys += keys.size();
    return TenTimes(keys);
  };
}

void Count(Counts& counts, int key, const Outcome<int>& outcome) {
  if (outcome.value == 10 * key) {
    ++counts.answers;
  } else if (outcome.error == std::errc::operation_canceled ||
             outcome.error == std::errc::timed_out) {
    ++counts.left;
  } else {
    ++counts.wrong;
  }
}

FireAndForget AwaitKey(IntBatcher& batcher, int key, Counts& counts, StopToken stop) {
  ++counts.awaiting;
  try {
    const auto result = co_await CoDo(batcher, key, stop);
    ++(*result == 10 * key ? counts.answers : counts.wrong);
  } catch (const std::system_error& error) {
    ++(error.code() == std::errc::operation_canceled ? counts.left : counts.wrong);
  }
  --counts.awaiting;
}

FireAndForget AwaitKeys(IntBatcher& batcher, Keys keys, Counts& counts, StopToken stop) {
  ++counts.awaiting;
  const auto results = co_await CoDoMany(batcher, keys, stop);
  for (std::size_t i = 0; i < keys.size(); ++i) Count(counts, keys[i], Get(results[i]));
  --counts.awaiting;
}

// Asks in one of the ways. For each key it counts one answer, or one caller that left.
void AskOnce(IntGroup& group, IntBatcher& batcher, int thread, int round, Counts& counts) {
  const int key = (thread * 3 + round) % kKeys;
  const Keys keys{key, (key + 1) % kKeys, (key + 2) % kKeys};
  StopSource stop;
  switch ((thread + round) % 10) {
    case 0:
      return Count(counts, key, Keep([&] { return batcher.Do(key); }));
    case 1:
      return Count(counts, key, Keep([&] { return batcher.Do(key, {.timeout = 20us}); }));
    case 2:
      return Count(counts, key, Keep([&] { return batcher.Do(key, {.stop = stop.get_token()}); }));
    case 3: {
      Future<int> future = DoAsync(batcher, key);
      const Future<int> leaves = DoAsync(batcher, (key + 1) % kKeys);
      ++counts.left;
      batcher.Flush();
      return Count(counts, key, Get(future));
    }
    case 4:
      AwaitKey(batcher, key, counts, stop.get_token());
      stop.request_stop();
      return;
    case 5:
      AwaitKey(batcher, key, counts, {});
      batcher.Flush();
      return;
    case 6:
      group.Forget(key);
      return Count(counts, key, Keep([&] { return batcher.Do(key); }));
    case 7: {
      const auto results = DoMany(batcher, keys, {.timeout = 20us});
      for (std::size_t i = 0; i < keys.size(); ++i) Count(counts, keys[i], Get(results[i]));
      return;
    }
    case 8: {
      AwaitKeys(batcher, keys, counts, stop.get_token());
      auto futures = DoManyAsync(batcher, keys);
      batcher.Flush();
      stop.request_stop();
      for (std::size_t i = 0; i < keys.size(); ++i) Count(counts, keys[i], Get(futures[i]));
      return;
    }
    default:
      return Count(counts, key, Keep([&] { return group.Do(key, [key] { return 10 * key; }); }));
  }
}

void Stress(IntGroup& group, IntBatcher& batcher, Counts& counts) {
  {
    std::vector<JoiningThread> threads;
    for (int thread = 0; thread < kThreads; ++thread) {
      threads.emplace_back([&, thread] {
        for (int round = 0; round < kRounds; ++round) {
          AskOnce(group, batcher, thread, round, counts);
        }
      });
    }
  }
  Await([&] {
    batcher.Flush();
    return counts.awaiting == 0 && group.GetStats().in_flight == 0;
  });
  CHECK(counts.wrong == 0);
  CHECK(counts.bad_batches == 0);
  // Each tenth of the rounds is one caller, except cases 3, 7 and 8, which are 2, 3 and 6.
  CHECK(counts.answers + counts.left == kThreads * kRounds * (7 + 2 + 3 + 6) / 10);
  const BatcherStats stats = batcher.GetStats();
  CHECK(stats.batches == counts.batches);
  CHECK(stats.keys == counts.keys);
  CHECK(stats.waiting == 0);
}

}  // namespace

TEST_CASE("Batcher: every caller of a crowd is answered, on the threads that flush") {
  IntGroup group;
  Counts counts;
  Batcher batcher(group, Load(counts), {.max_keys = kMaxKeys});
  Stress(group, batcher, counts);
}

TEST_CASE("Batcher: every caller of a crowd is answered, on threads of the batcher's own") {
  for (const auto delay : {0us, 20us, 1000us}) {
    IntGroup group;
    Counts counts;
    Batcher batcher(group, Load(counts), {.max_keys = kMaxKeys, .max_delay = delay});
    Stress(group, batcher, counts);
  }
}

TEST_CASE("Batcher: every caller of a crowd is answered, on an executor") {
  for (const auto delay : {0us, 20us, 1000us}) {
    Pool pool(2);
    IntGroup group;
    Counts counts;
    Batcher batcher(group, Load(counts), {.max_keys = kMaxKeys, .max_delay = delay}, pool.Post());
    Stress(group, batcher, counts);
  }
}

TEST_CASE(
    "Destroying a Batcher: it may come at any moment, and every caller is answered or gets "
    "owner_dead") {
  for (const bool on_executor : {false, true}) {
    Pool pool(2);
    for (int round = 0; round < kRounds; ++round) {
      IntGroup group;
      Counts counts;
      std::vector<Future<int>> futures;
      {
        const BatcherOptions options{.max_keys = kMaxKeys, .max_delay = 0us};
        std::optional<IntBatcher> batcher;
        if (on_executor) {
          batcher.emplace(group, Load(counts), options, pool.Post());
        } else {
          batcher.emplace(group, Load(counts), options);
        }
        for (int key = 0; key < round % 10; ++key) futures.push_back(DoAsync(*batcher, key));
      }
      std::uint64_t answered = 0;
      for (Future<int>& future : futures) {
        const auto outcome = Get(future);
        answered += outcome.value ? 1 : 0;
        if (!outcome.value) CHECK(outcome.error == std::errc::owner_dead);
      }
      CHECK(answered == counts.keys);
    }
  }
}

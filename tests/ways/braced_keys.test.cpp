// SPDX-License-Identifier: MIT

// These tests give a key in braces, by every way of asking.

#include <functional>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::CallOptions;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::DoThen;
using singleflight::KeyResult;
using singleflight::OnFailure;
using singleflight::ResumeInline;
using singleflight::Role;
using singleflight::Stats;

namespace {

constexpr long long kFar = (1LL << 32) + 1;

using Pair = std::pair<unsigned, std::string>;
struct PairHash {
  std::size_t operator()(const Pair& key) const { return key.first; }
};
using Group = singleflight::Group<Pair, int, PairHash>;

struct NoCache {
  std::optional<int> Get(const Pair&) { return std::nullopt; }
  void Put(const Pair&, int) {}
  void Erase(const Pair&) {}
};
using ReadThrough = singleflight::ReadThrough<Pair, int, NoCache, PairHash>;

struct Silent final : Group::Waiter {
  void OnLanded() noexcept override {}
};

// A group that is not the library's.
struct Wrapped {
  using KeyType = Pair;
  using ValueType = int;
  using HashType = PairHash;
  using KeyEqualType = std::equal_to<Pair>;
  using Waiter = Group::Waiter;
  using Lead = Group::Lead;
  template <class Launch>
  auto Join(const Pair& key, Launch&& launch) {
    return group.Join(key, std::forward<Launch>(launch));
  }
  Group group;
};

constexpr auto kNow = [](auto task) { task(); };
constexpr auto kUnusable = [](auto) { FAIL("a key that is refused starts no work"); };
constexpr auto kMustNotRun = []() -> int { throw std::logic_error("this fn must not run"); };

// Returns, for each key of a batch, how often it is in flight: 1 in a batch that leads it.
auto CallersOfEach(Group& group) {
  return [&group](std::span<const Pair> keys) {
    std::vector<int> callers;
    for (const Pair& key : keys) callers.push_back(static_cast<int>(group.Callers(key)));
    return callers;
  };
}

// An `fn` that returns 1 if it runs for the key (1, "a").
template <class G>
auto IsOneA(G& group) {
  return [&group] { return static_cast<int>(group.Callers(Pair(1, "a"))); };
}

}  // namespace

TEST_CASE("DoAsync takes a key in braces, and refuses one that it cannot represent") {
  Group group;
  CHECK(*DoAsync(group, {1LL, "a"}, IsOneA(group)).Get() == 1);
  CHECK(*DoAsync(group, {1LL, "a"}, IsOneA(group), kNow).Get() == 1);
  CHECK(*DoAsync(group, {1LL, "a"}, IsOneA(group), kNow, OnFailure::kRetry).Get() == 1);
  const Stats before = group.GetStats();
  CHECK_THROWS_AS(DoAsync(group, {kFar, "a"}, kMustNotRun), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(group, {kFar, "a"}, kMustNotRun, kUnusable), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(group, {kFar, "a"}, kMustNotRun, kUnusable, OnFailure::kRetry),
                  std::out_of_range);
  CHECK(group.GetStats() == before);
}

TEST_CASE("DoThen takes a key in braces, and refuses one that it cannot represent") {
  Group group;
  int sum = 0;
  const auto add = [&sum](const KeyResult<int>& result) { sum += *result; };
  const auto kept = DoThen(group, {1LL, "a"}, IsOneA(group), kNow, add);
  const auto retrying = DoThen(group, {1LL, "a"}, IsOneA(group), kNow, add, OnFailure::kRetry);
  singleflight::Caller caller;
  DoThen(caller, group, {1LL, "a"}, IsOneA(group), kNow, add);
  singleflight::Caller other;
  DoThen(other, group, {1LL, "a"}, IsOneA(group), kNow, add, OnFailure::kRetry);
  CHECK(sum == 4);
  const Stats before = group.GetStats();
  CHECK_THROWS_AS(DoThen(group, {kFar, "a"}, kMustNotRun, add), std::out_of_range);
  CHECK_THROWS_AS(DoThen(group, {kFar, "a"}, kMustNotRun, kUnusable, add), std::out_of_range);
  CHECK_THROWS_AS(DoThen(group, {kFar, "a"}, kMustNotRun, kUnusable, add, OnFailure::kRetry),
                  std::out_of_range);
  singleflight::Caller refused;
  CHECK_THROWS_AS(DoThen(refused, group, {kFar, "a"}, kMustNotRun, add), std::out_of_range);
  CHECK(group.GetStats() == before);
  CHECK(sum == 4);
}

TEST_CASE("CoDo takes a key in braces, and refuses one that it cannot represent") {
  Group group;
  int sum = 0;
  const auto is_one_a = IsOneA(group);
  const auto ask = [&]() -> Routine {
    sum += *co_await CoDo(group, {1LL, "a"}, is_one_a);
    sum += *co_await CoDo(group, {1LL, "a"}, is_one_a, kNow);
    sum += *co_await CoDo(group, {1LL, "a"}, is_one_a, {}, ResumeInline(), OnFailure::kRetry);
    sum += *co_await CoDo(group, {1LL, "a"}, is_one_a, kNow, {}, ResumeInline(), OnFailure::kRetry);
  };
  const Routine routine = ask();
  CHECK(routine.Done());
  CHECK(sum == 4);
  const Stats before = group.GetStats();
  CHECK_THROWS_AS(CoDo(group, {kFar, "a"}, kMustNotRun), std::out_of_range);
  CHECK_THROWS_AS(CoDo(group, {kFar, "a"}, kMustNotRun, kUnusable), std::out_of_range);
  CHECK(group.GetStats() == before);
}

TEST_CASE("CoDo keeps a key in braces until it is awaited") {
  Group group;
  const std::string name(100, 'a');
  auto call = CoDo(group, {1, name}, [&] { return static_cast<int>(group.Callers({1, name})); });
  int result = 0;
  const auto await = [&]() -> Routine { result = *co_await std::move(call); };
  const Routine routine = await();
  CHECK(routine.Done());
  CHECK(result == 1);
}

TEST_CASE("A batch takes keys in braces, and refuses one that it cannot represent") {
  Group group;
  const auto fn = CallersOfEach(group);
  for (const auto& result : DoMany(group, {{1LL, "a"}, {2, std::string("b")}, {}}, fn)) {
    CHECK(*result == 1);
  }
  CHECK(*DoMany(group, {{1LL, "a"}}, fn, CallOptions()).at(0) == 1);
  CHECK(*DoManyAsync(group, {{1LL, "a"}, {2, "b"}}, fn, kNow).at(1).Get() == 1);
  auto call = singleflight::CoDoMany(group, {{1LL, "a"}, {2, "b"}}, fn);
  int sum = 0;
  const auto await = [&]() -> Routine {
    for (const auto& result : co_await std::move(call)) sum += *result;
  };
  const Routine routine = await();
  CHECK(sum == 2);
  const Stats before = group.GetStats();
  CHECK_THROWS_AS(DoMany(group, {{1, "a"}, {kFar, "b"}}, fn), std::out_of_range);
  CHECK_THROWS_AS(DoManyAsync(group, {{1, "a"}, {kFar, "b"}}, fn, kUnusable), std::out_of_range);
  CHECK_THROWS_AS(singleflight::CoDoMany(group, {{1, "a"}, {kFar, "b"}}, fn), std::out_of_range);
  singleflight::Group<std::uint8_t, int> bytes;
  const auto values = [](std::span<const std::uint8_t> keys) {
    return std::vector<int>(keys.begin(), keys.end());
  };
  CHECK(*DoMany(bytes, {1L, 2L}, values).at(1) == 2);
  CHECK_THROWS_AS(DoMany(bytes, {1, 257}, values), std::out_of_range);
  CHECK(group.GetStats() == before);
}

TEST_CASE("Join takes a key in braces, and refuses one that it cannot represent") {
  Group group;
  Silent waiter;
  std::optional<Group::Lead> lead;
  const auto keep = [&](Group::Lead its_lead) { lead = std::move(its_lead); };
  CHECK(group.Join({1LL, "a"}, waiter, keep) == Role::kLeader);
  CHECK(group.Callers({1LL, "a"}) == 1);
  auto future = group.Join({1LL, "a"}, kUnusable);
  CHECK(group.Callers({1LL, "a"}) == 2);
  CHECK(group.ForgetUnshared({1LL, "a"}) == false);
  CHECK(group.Forget({1LL, "a"}));
  CHECK(group.Callers({1LL, "a"}) == 0);
  lead->Succeed(7);
  CHECK(*future.Get() == 7);
  CHECK_THROWS_AS(group.Join({kFar, "a"}, waiter, kUnusable), std::out_of_range);
  CHECK_THROWS_AS(group.Join({kFar, "a"}, kUnusable), std::out_of_range);
}

TEST_CASE("ReadThrough takes a key in braces, and refuses one that it cannot represent") {
  ReadThrough cached(NoCache{});
  CHECK(*cached.Get({1LL, "a"}, IsOneA(cached)) == 1);
  CHECK(*cached.Get({1LL, "a"}, IsOneA(cached), {}) == 1);
  CHECK(*cached.Refresh({1LL, "a"}, IsOneA(cached)) == 1);
  CHECK(*cached.Refresh({1LL, "a"}, IsOneA(cached), CallOptions()) == 1);
  CHECK(cached.Refresh(
            {1LL, "a"}, [] { return 1; }, kNow) == Role::kLeader);
  CHECK(*DoAsync(cached, {1LL, "a"}, IsOneA(cached), kNow).Get() == 1);
  cached.Invalidate({1LL, "a"});
  const auto before = cached.GetStats();
  CHECK_THROWS_AS(static_cast<void>(cached.Get({kFar, "a"}, kMustNotRun)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(cached.Get({kFar, "a"}, kMustNotRun, {})), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(cached.Refresh({kFar, "a"}, kMustNotRun)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(cached.Refresh({kFar, "a"}, kMustNotRun, CallOptions())),
                  std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(cached.Refresh({kFar, "a"}, kMustNotRun, kUnusable)),
                  std::out_of_range);
  CHECK_THROWS_AS(cached.Invalidate({kFar, "a"}), std::out_of_range);
  CHECK_THROWS_AS(cached.Callers({kFar, "a"}), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(cached, {kFar, "a"}, kMustNotRun, kUnusable), std::out_of_range);
  CHECK(cached.GetStats() == before);
}

TEST_CASE("Batcher takes a key in braces, and refuses one that it cannot represent") {
  Group group;
  singleflight::Batcher batcher(group, CallersOfEach(group));
  CHECK(*batcher.Do({1LL, "a"}) == 1);
  CHECK(*batcher.Do({1LL, "a"}, CallOptions()) == 1);
  auto future = DoAsync(batcher, {1LL, "a"});
  int sum = 0;
  const auto caller =
      DoThen(batcher, {2LL, "b"}, [&sum](const KeyResult<int>& result) { sum += *result; });
  const auto await = [&]() -> Routine { sum += *co_await CoDo(batcher, {3LL, "c"}); };
  const Routine routine = await();
  CHECK(batcher.Flush() == 3);
  CHECK(*future.Get() == 1);
  CHECK(sum == 2);
  CHECK_THROWS_AS(static_cast<void>(batcher.Do({kFar, "a"})), std::out_of_range);
  CHECK_THROWS_AS(DoAsync(batcher, {kFar, "a"}), std::out_of_range);
  CHECK_THROWS_AS(CoDo(batcher, {kFar, "a"}), std::out_of_range);
  CHECK_THROWS_AS(DoThen(batcher, {kFar, "a"}, [](const auto&) {}), std::out_of_range);
  CHECK_THROWS_AS(DoMany(batcher, {{1, "a"}, {kFar, "b"}}), std::out_of_range);
  CHECK_THROWS_AS(DoMany(batcher, {{kFar, "b"}}, CallOptions()), std::out_of_range);
  CHECK_THROWS_AS(DoManyAsync(batcher, {{kFar, "b"}}), std::out_of_range);
  CHECK_THROWS_AS(singleflight::CoDoMany(batcher, {{kFar, "b"}}), std::out_of_range);
  CHECK(batcher.GetStats().keys == 5);
}

TEST_CASE("A group that is not the library's gets a key in braces as its own type of key") {
  Wrapped wrapped;
  CHECK(*DoAsync(wrapped, {1LL, "a"}, IsOneA(wrapped.group), kNow).Get() == 1);
  CHECK_THROWS_AS(DoAsync(wrapped, {kFar, "a"}, kMustNotRun, kUnusable), std::out_of_range);
}

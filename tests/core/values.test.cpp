// SPDX-License-Identifier: MIT

// These tests cover promises 13 (memory ordering) and 15 (values), and Result.

#include <array>
#include <atomic>
#include <latch>
#include <memory>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;
using singleflight::Result;
using singleflight::Role;

namespace {

// Counts its copies. It is so large that nobody would want one.
struct Counted {
  Counted() = default;
  Counted(const Counted&) { ++copies; }
  Counted(Counted&&) = default;
  Counted& operator=(const Counted&) = delete;
  static inline std::atomic<int> copies = 0;
  std::vector<char> bytes = std::vector<char>(1 << 20, 'x');
};

// Returns the results of `count` callers that share one call.
template <class Value, class Fn>
std::vector<Result<Value>> Share(Group<int, Value>& group, std::size_t count, Fn fn) {
  std::vector<std::optional<Result<Value>>> kept(count);
  std::vector<JoiningThread> threads;
  for (auto& result : kept) {
    threads.emplace_back([&] {
      result.emplace(group.Do(1, [&] {
        AwaitCallers(group, 1, count);
        return fn();
      }));
    });
  }
  threads.clear();
  std::vector<Result<Value>> results;
  for (auto& result : kept) results.push_back(std::move(*result));
  return results;
}

}  // namespace

TEST_CASE("Promise 13: what the leader wrote before it returned is seen by every caller") {
  // The writes and reads are plain, so ThreadSanitizer reports a race unless the call orders them.
  Group<int, int> group;
  for (int round = 0; round < 200; ++round) {
    int plain = 0;
    std::vector<int> seen(4);
    std::vector<JoiningThread> threads;
    for (std::size_t i = 0; i < seen.size(); ++i) {
      threads.emplace_back([&, i] {
        singleflight::CallOptions options;
        if (i % 2 == 1) options.timeout = 1h;  // so that both ways of waiting are used
        static_cast<void>(group.Do(
            1,
            [&] {
              AwaitCallers(group, 1, 4);
              plain = 42;
              return 0;
            },
            options));
        seen[i] = plain;
      });
    }
    threads.clear();
    CHECK(seen == std::vector<int>(4, 42));
  }
}

TEST_CASE("Promise 15: the value may be void") {
  Group<int, void> group;
  int runs = 0;
  const auto result = group.Do(1, [&] { ++runs; });
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  result.value();
  group.Do(1, [&] { return ++runs; });  // the int and the Result may both be ignored
  CHECK(runs == 2);
  CHECK_THROWS_AS(group.Do(1, [] { throw std::logic_error("no"); }), std::logic_error);

  std::atomic<int> shared = 0;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back(
        [&] { shared += group.Do(1, [&] { AwaitCallers(group, 1, 3); }).shared(); });
  }
  threads.clear();
  CHECK(shared == 3);
}

TEST_CASE("Promise 15: the value may be move-only, whether or not it is shared") {
  Group<int, std::unique_ptr<int>> group;
  const auto alone = group.Do(1, [] { return std::make_unique<int>(7); });
  CHECK(**alone == 7);
  const auto results = Share(group, 3, [] { return std::make_unique<int>(8); });
  for (const auto& result : results) {
    CHECK(result.shared());
    CHECK(result->get() == results[0]->get());
    CHECK(**result == 8);
  }
}

TEST_CASE("Promise 15: the value need not be default-constructible or assignable") {
  struct Picky {
    explicit Picky(int n) : number(n) {}
    Picky(const Picky&) = default;
    Picky& operator=(const Picky&) = delete;
    const int number;
  };
  Group<int, Picky> group;
  CHECK(group.Do(1, [] { return Picky(7); })->number == 7);
  CHECK(Share(group, 2, [] { return Picky(8); })[1]->number == 8);
}

TEST_CASE("Promise 15: a large value is never copied unless the user asks for a copy") {
  Group<int, Counted> group;
  Counted::copies = 0;
  auto alone = group.Do(1, [] { return Counted(); });
  CHECK(alone->bytes.size() == 1 << 20);
  const Counted moved = std::move(alone).value();  // moves, since this caller is alone
  CHECK(moved.bytes.size() == 1 << 20);

  auto results = Share(group, 20, [] { return Counted(); });
  for (const auto& result : results) CHECK(result->bytes.data() == results[0]->bytes.data());
  CHECK(Counted::copies == 0);
  const Counted copy = std::move(results[0]).value();
  CHECK(Counted::copies == 1);
  CHECK(copy.bytes.data() != results[1]->bytes.data());
}

TEST_CASE("Promise 15: a shared value lives as long as any result of its call") {
  Group<int, std::shared_ptr<int>> group;
  auto results = Share(group, 3, [] { return std::make_shared<int>(7); });
  const std::weak_ptr<int> watch = *results[0];
  const std::shared_ptr<int>& reference = *results[0];
  Result<std::shared_ptr<int>> last = std::move(results[2]);
  results.clear();
  CHECK_FALSE(watch.expired());
  CHECK(*reference == 7);
  {
    const auto moved = std::move(last);
    CHECK(**moved == 7);
  }
  CHECK(watch.expired());
}

TEST_CASE("Promise 15: the function may return whatever converts to the value") {
  Group<int, std::string> group;
  CHECK(*group.Do(1, [] { return "a literal"; }) == "a literal");
  const std::string kept = "a reference";
  CHECK(*group.Do(1, [&]() -> const std::string& { return kept; }) == "a reference");
  CHECK(kept == "a reference");
  Group<int, std::optional<int>> optional_group;
  CHECK_FALSE(optional_group.Do(1, [] { return std::nullopt; })->has_value());
}

TEST_CASE("Promise 15: the value may itself be an exception_ptr or a shared_ptr to const") {
  Group<int, std::exception_ptr> errors;
  CHECK(*errors.Do(1, [] { return std::exception_ptr(); }) == nullptr);
  Group<int, std::shared_ptr<const int>> pointers;
  const auto result = pointers.Do(1, [] { return std::make_shared<const int>(3); });
  CHECK(**result == 3);
  CHECK_FALSE(result.shared());
}

TEST_CASE("Result: structured bindings give a reference to the value and whether it is shared") {
  Group<int, std::string> group;
  const auto result = group.Do(1, [] { return "value"; });
  const auto& [value, shared] = result;
  static_assert(std::is_same_v<decltype(value), const std::string&>);
  static_assert(std::is_same_v<decltype(shared), const bool>);
  CHECK(&value == &*result);
  CHECK_FALSE(shared);
  auto [moved_value, moved_shared] = group.Do(1, [] { return "other"; });
  CHECK(moved_value == "other");
  CHECK_FALSE(moved_shared);
}

TEST_CASE(
    "Result: a copy of a shared result shares its value, and a copy of an unshared one copies it") {
  Group<int, std::string> group;
  const auto alone = group.Do(1, [] { return "value"; });
  const auto copy = alone;
  CHECK(*copy == "value");
  CHECK(&*copy != &*alone);
  const auto results = Share(group, 2, [] { return std::string("value"); });
  const auto shared_copy = results[0];
  CHECK(&*shared_copy == &*results[1]);
  CHECK(shared_copy.shared());
}

TEST_CASE("Result: reading never throws, and moving throws only if the value's move does") {
  static_assert(noexcept(std::declval<const Result<std::string>&>().value()));
  static_assert(std::is_nothrow_move_constructible_v<Result<std::string>>);
  static_assert(std::is_copy_constructible_v<Result<std::string>>);
  static_assert(!std::is_copy_constructible_v<Result<std::unique_ptr<int>>>);
  static_assert(std::is_move_constructible_v<Result<std::unique_ptr<int>>>);
  SUCCEED();
}

TEST_CASE(
    "Promise 15: a value that is large is moved once on its way to a caller or to all of them") {
  struct Counted {
    explicit Counted(int& its_moves) : moves(&its_moves) {}
    Counted(Counted&& other) noexcept : moves(other.moves) { ++*moves; }
    int* moves;
  };
  Group<int, Counted> group;
  int moves = 0;
  const auto alone = group.Do(1, [&] { return Counted(moves); });
  CHECK(moves == 1);
  int shared_moves = 0;
  bool leader_shared = false;
  JoiningThread leader([&] {
    const auto result = group.Do(1, [&] {
      AwaitCallers(group, 1, 2);
      return Counted(shared_moves);
    });
    leader_shared = result.shared();
  });
  AwaitCallers(group, 1, 1);
  const auto follower = group.Do(1, [&] { return Counted(moves); });
  leader.join();
  CHECK(leader_shared);
  CHECK(follower.shared());
  CHECK(shared_moves == 1);
}

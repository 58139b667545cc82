// SPDX-License-Identifier: MIT

// Tests of what a Batcher's function may return: the same as that of DoMany, read alike.

#include <forward_list>
#include <list>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <unordered_map>
#include <utility>
#include <variant>

#include "batcher_support.hpp"

using namespace test;
using singleflight::Batcher;
using singleflight::CoDoMany;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::DoManyAsync;
using singleflight::Future;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::Stats;

namespace {

// As std::expected, which C++20 does not have.
template <class Error>
struct Maybe {
  bool has_value() const { return held.index() == 0; }
  int operator*() const { return std::get<0>(held); }
  const Error& error() const { return std::get<1>(held); }
  std::variant<int, Error> held;
};

// What a caller sees: a value, the code of a std::system_error, or the text of another exception.
using Seen = std::variant<int, std::errc, std::string>;
using AllSeen = std::vector<Seen>;

template <class Ask>
Seen See(Ask&& ask) {
  const auto outcome = Keep(ask);
  if (outcome.value) return *outcome.value;
  if (outcome.error) return *outcome.error;
  return outcome.message;
}

// Asks for the keys 1, 2 and 3. `load` is the function of a Batcher, and then that of a DoMany.
template <class Load>
AllSeen AskBatcher(const Load& load) {
  IntGroup group;
  Batcher batcher(group, load);
  AllSeen seen;
  auto futures = DoManyAsync(batcher, {1, 2, 3});
  batcher.Flush();
  for (auto& future : futures) seen.push_back(See([&] { return future.Get(); }));
  return seen;
}
template <class Load>
AllSeen AskDoMany(const Load& load) {
  IntGroup group;
  AllSeen seen;
  for (const auto& result : DoMany(group, {1, 2, 3}, load)) {
    seen.push_back(See([&] { return result.result(); }));
  }
  return seen;
}

template <class Load>
void CheckSeen(const Load& load, const AllSeen& expected) {
  CHECK(AskBatcher(load) == expected);
  CHECK(AskDoMany(load) == expected);
}

constexpr auto kNoValue = std::errc::no_message;
constexpr auto kWrong = std::errc::invalid_argument;

std::exception_ptr NoRow() { return std::make_exception_ptr(std::runtime_error("no row")); }

// A lazy range of ten times each key, by position. Reading `bad_element` throws, and so does going
// on from `bad_step`. It counts how often an element is read.
struct Lazy {
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const {
      ++*range->reads;
      if (at == range->bad_element) throw std::runtime_error("unreadable");
      return 10 * (at + 1);
    }
    Iterator& operator++() {
      if (at == range->bad_step) throw std::runtime_error("broken off");
      ++at;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return at == range->size; }
    const Lazy* range;
    int at;
  };
  Iterator begin() const { return {this, 0}; }
  std::default_sentinel_t end() const { return {}; }

  int* reads;
  int size = 3;
  int bad_element = -1;
  int bad_step = -1;
};

// A value whose move throws if it is negative.
struct Unmovable {
  explicit Unmovable(int its_value) : value(its_value) {}
  Unmovable(Unmovable&& other) : value(other.value) {
    if (value < 0 && armed) throw std::runtime_error("cannot be moved");
  }
  Unmovable(const Unmovable&) = default;
  Unmovable& operator=(const Unmovable&) = delete;
  int value;
  static inline bool armed = false;
};

}  // namespace

TEST_CASE("Batcher: an object that holds a value or an error says how its key's call lands") {
  using ByCode = Maybe<std::error_code>;
  const ByCode one{10};
  const ByCode two{make_error_code(std::errc::io_error)};
  const ByCode three{30};
  const AllSeen expected{10, std::errc::io_error, 30};
  CheckSeen([&](std::span<const int>) { return std::vector{one, two, three}; }, expected);
  CheckSeen([&](std::span<const int>) { return std::forward_list{one, two, three}; }, expected);
  CheckSeen(
      [&](std::span<const int>) {
        return std::map<int, ByCode>{{3, three}, {2, two}, {1, one}};
      },
      expected);
  CheckSeen(
      [&](std::span<const int>) {
        return std::list<std::pair<int, ByCode>>{{3, three}, {1, one}, {2, two}};
      },
      expected);

  using ByException = Maybe<std::exception_ptr>;
  CheckSeen(
      [&](std::span<const int>) {
        return std::vector<ByException>{{10}, {NoRow()}, {std::exception_ptr()}};
      },
      {10, "no row", kNoValue});
}

TEST_CASE("Batcher: its function may return KeyResults") {
  CheckSeen(
      [](std::span<const int>) {
        return std::vector<KeyResult<int>>{10, KeyResult<int>::Failure(NoRow()), 30};
      },
      {10, "no row", 30});
  IntGroup inner;
  CheckSeen(
      [&](std::span<const int> keys) {
        return DoMany(inner, keys, [](std::span<const int>) {
          return std::map<int, int>{{1, 10}, {3, 30}};
        });
      },
      {10, kNoValue, 30});
}

TEST_CASE("Batcher: a key that a map or a range of pairs lacks has an error of its own") {
  const auto expected = AllSeen{10, kNoValue, 30};
  CheckSeen([](std::span<const int>) { return std::map<int, int>{{1, 10}, {3, 30}}; }, expected);
  CheckSeen(
      [](std::span<const int>) {
        return std::unordered_map<long, int>{{1, 10}, {3, 30}};
      },
      expected);
  CheckSeen(
      [](std::span<const int>) {
        return std::vector{std::pair(3, 30), std::pair(1, 10)};
      },
      expected);
  CheckSeen(
      [](std::span<const int>) {
        return std::vector{std::pair(1, 10), std::pair(2, 20), std::pair(2, 21), std::pair(3, 30)};
      },
      {10, kWrong, 30});
}

TEST_CASE("Batcher: each element of a lazy range is read once, and may throw for its key alone") {
  int reads = 0;
  CheckSeen([&](std::span<const int>) { return Lazy{.reads = &reads, .bad_element = 1}; },
            {10, "unreadable", 30});
  CHECK(reads == 2 * 3);
}

TEST_CASE("Batcher: if a lazy range breaks off or has no end, no key gets a value from it") {
  int reads = 0;
  CheckSeen([&](std::span<const int>) { return Lazy{.reads = &reads, .bad_step = 1}; },
            AllSeen(3, "broken off"));
  CheckSeen([&](std::span<const int>) { return Lazy{.reads = &reads, .size = -1}; },
            AllSeen(3, kWrong));
  CheckSeen([&](std::span<const int>) { return Lazy{.reads = &reads, .size = 2}; },
            AllSeen(3, kWrong));
}

TEST_CASE("Batcher: a key's error reaches all callers of its call, and is not cached or retried") {
  IntGroup group;
  int calls = 0;
  Batcher batcher(group, [&](std::span<const int> keys) {
    ++calls;
    std::vector<KeyResult<int>> values;
    for (std::size_t i = 0; i < keys.size(); ++i)
      values.push_back(KeyResult<int>::Failure(NoRow()));
    return values;
  });
  auto leader = DoAsync(batcher, 1);
  auto follower = DoAsync(batcher, 1);
  batcher.Flush();
  CHECK(Get(leader).message == "no row");
  CHECK(Get(follower).message == "no row");
  CHECK(Keep([&] { return batcher.Do(1); }).message == "no row");
  CHECK(calls == 2);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 1, .failures = 2});
}

TEST_CASE("Batcher: in a group of void, single keys may fail") {
  Group<int, void> group;
  Batcher by_errors(group, [](std::span<const int>) {
    return std::vector<std::exception_ptr>{nullptr, NoRow()};
  });
  Batcher by_results(group, [](std::span<const int>) {
    std::map<int, KeyResult<void>> results;
    results.try_emplace(1);
    results.emplace(2, KeyResult<void>::Failure(NoRow()));
    return results;
  });
  const auto check = [](auto& batcher) {
    auto one = DoAsync(batcher, 1);
    auto two = DoAsync(batcher, 2);
    batcher.Flush();
    CHECK_NOTHROW(one.Get());
    CHECK_THROWS_AS(two.Get(), std::runtime_error);
  };
  check(by_errors);
  check(by_results);
}

TEST_CASE("Batcher: a Value that may hold an error is a value with it") {
  using Either = Maybe<std::string>;
  Group<int, Either> group;
  Batcher batcher(group, [](std::span<const int>) {
    return std::vector<Either>{{10}, {std::string("no row")}};
  });
  auto one = DoAsync(batcher, 1);
  auto two = DoAsync(batcher, 2);
  batcher.Flush();
  CHECK(**one.Get() == 10);
  CHECK(two.Get()->error() == "no row");
}

TEST_CASE("Batcher: a value whose move throws fails its own key alone") {
  Group<int, Unmovable> group;
  std::list<Unmovable> values;
  for (const int value : {10, -1, 30}) values.emplace_back(value);
  const auto load = [&](std::span<const int>) -> const std::list<Unmovable>& {
    Unmovable::armed = true;
    return values;  // the elements are copied, and the copies are moved
  };
  const auto check = [](auto& futures) {
    Unmovable::armed = false;  // what a Future gives is moved
    CHECK(futures[0].Get()->value == 10);
    CHECK_THROWS_AS(futures[1].Get(), std::runtime_error);
    CHECK(futures[2].Get()->value == 30);
  };
  Batcher batcher(group, load, {.max_keys = 3});
  auto of_batcher = DoManyAsync(batcher, {1, 2, 3});
  check(of_batcher);
  auto of_many = DoManyAsync(group, {1, 2, 3}, load, kInline);
  check(of_many);
}

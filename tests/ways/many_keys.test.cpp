// SPDX-License-Identifier: MIT

// These tests give keys of other types to a batch, and let its `fn` return them. They become the
// keys that were meant, or they are keys of somebody else.

#include <array>
#include <chrono>
#include <cstdint>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;

namespace {

constexpr long long kTwoTo32 = 1LL << 32;
constexpr auto kNoValue = std::errc::no_message;

enum Wide : long long { kOne = 1, kFar = kTwoTo32 + 1, kBelow = 1 - kTwoTo32 };

struct UserId {
  UserId(std::uint32_t its_number) : number(its_number) {}  // NOLINT: meant to convert
  bool operator==(const UserId&) const = default;
  std::uint32_t number;
};
using Pair = std::pair<std::uint32_t, std::string>;
struct OneHash {
  template <class Key>
  std::size_t operator()(const Key&) const {
    return 0;
  }
};
template <class Key>
using GroupOf = Group<Key, int, OneHash, std::equal_to<Key>>;

// What a batch that asks for `key` alone gets, or 0 if there is no value for it.
template <class G, class Returned>
int Answer(const typename G::KeyType& key, Returned returned) {
  G group;
  using Key = typename G::KeyType;
  const auto fn = [&](std::span<const Key>) { return returned; };
  const KeyResult<int> result = DoMany(group, std::array{key}, fn).at(0);
  if (result) return *result;
  REQUIRE(ErrorOf([&] { return result.result(); }) == kNoValue);
  return 0;
}

}  // namespace

TEST_CASE("DoMany: a number that is no key of the group does not answer for another") {
  using Unsigned = Group<unsigned, int>;
  CHECK(Answer<Unsigned>(1, std::map<std::int64_t, int>{{kTwoTo32 + 1, 9}}) == 0);
  CHECK(Answer<Unsigned>(1, std::map<std::int64_t, int>{{kTwoTo32 + 1, 9}, {1, 7}}) == 7);
  CHECK(Answer<Unsigned>(~0U, std::unordered_map<int, int>{{-1, 9}}) == 0);
  CHECK(Answer<Unsigned>(1, std::map<Wide, int>{{kBelow, 9}, {kOne, 7}, {kFar, 9}}) == 7);
  using Pairs = std::vector<std::pair<double, int>>;
  CHECK(Answer<Unsigned>(1, Pairs{{1.5, 9}, {1, 7}, {kTwoTo32 + 1.0, 9}}) == 7);
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  CHECK(Answer<Unsigned>(0, Pairs{{kNan, 9}, {kInfinity, 9}, {-0.5, 9}}) == 0);
  CHECK(Answer<Group<float, int>>(0x1p24F, std::map<int, int>{{(1 << 24) + 1, 9}}) == 0);
}

TEST_CASE("DoMany: a number inside a key that fn returned is compared without a loss") {
  using namespace std::chrono;
  const Pair key(1, "a");
  using Entries = std::vector<std::pair<std::pair<std::int64_t, const char*>, int>>;
  CHECK(Answer<GroupOf<Pair>>(key, Entries{{{kTwoTo32 + 1, "a"}, 9}}) == 0);
  CHECK(Answer<GroupOf<Pair>>(key, Entries{{{kTwoTo32 + 1, "a"}, 9}, {{1, "a"}, 7}}) == 7);
  using Tuple = std::tuple<std::uint32_t, std::string>;
  using Wide = std::map<std::pair<std::int64_t, std::string>, int>;
  CHECK(Answer<GroupOf<Tuple>>(Tuple(1, "a"), Wide{{{kTwoTo32 + 1, "a"}, 9}}) == 0);
  using Optionals = std::map<std::optional<int>, int>;
  CHECK(Answer<GroupOf<std::optional<std::uint8_t>>>(std::uint8_t{1}, Optionals{{257, 9}}) == 0);
  using Narrow = std::map<std::pair<std::uint8_t, std::string>, int>;
  CHECK(Answer<GroupOf<Pair>>(Pair(257, "a"), Narrow{{{1, "a"}, 9}}) == 0);
  CHECK(Answer<GroupOf<nanoseconds>>(nanoseconds(-1ns), std::map<hours, int>{{hours::max(), 9}}) ==
        0);
  CHECK(Answer<GroupOf<UserId>>(UserId(1), std::map<std::int64_t, int>{{kTwoTo32 + 1, 9}}) == 0);
  CHECK(Answer<GroupOf<UserId>>(UserId(1), std::map<std::int64_t, int>{{1, 7}}) == 7);
}

TEST_CASE("DoMany: an entry whose key is a null pointer is for nobody") {
  using Entries = std::vector<std::pair<const char*, int>>;
  const Entries entries = {{nullptr, 9}, {"a", 7}};
  CHECK(Answer<Group<std::string, int>>("a", entries) == 7);
  CHECK(Answer<GroupOf<std::string>>("a", entries) == 7);
  CHECK(Answer<Group<std::string_view, int>>("a", entries) == 7);
  CHECK(Answer<Group<std::string, int>>("", entries) == 0);
}

TEST_CASE("DoMany: an array of characters is a key as it is in Do") {
  struct Row {
    char first[3];
    int second;
  };
  Group<std::string, int> group;
  const auto fn = [](std::span<const std::string>) {
    return std::vector<Row>{{{'a', 'b', 'c'}, 7}, {{'a', 'b', '\0'}, 8}};
  };
  const auto results = DoMany(group, std::array<std::string_view, 2>{"abc", "ab"}, fn);
  CHECK(*results.at(0) == 7);
  CHECK(*results.at(1) == 8);
}

TEST_CASE("DoMany: the keys of a range are the keys that were meant, or none is asked for") {
  GroupOf<Pair> group;
  const auto fn = [&](std::span<const Pair> keys) {
    std::vector<int> is_one;
    for (const Pair& key : keys) is_one.push_back(key == Pair(1, "a"));
    return is_one;
  };
  using Key = std::pair<std::int64_t, const char*>;
  CHECK(*DoMany(group, std::array{Key(2, "a"), Key(1, "a")}, fn).at(1) == 1);
  const auto before = group.GetStats();
  CHECK_THROWS_AS(DoMany(group, std::array{Key(1, "a"), Key(kTwoTo32 + 1, "a")}, fn),
                  std::out_of_range);
  CHECK_THROWS_AS(DoMany(group, std::array{Key(1, nullptr)}, fn), std::invalid_argument);
  CHECK_THROWS_AS(DoMany(group, std::array{std::pair(1.0, "a"), std::pair(1.5, "a")}, fn),
                  std::out_of_range);
  CHECK(group.GetStats() == before);
}

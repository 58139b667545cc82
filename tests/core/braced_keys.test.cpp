// SPDX-License-Identifier: MIT

// These tests give a key in braces. It is the key that was meant, or it is refused.

#include <bitset>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::Group;

namespace {

constexpr long long kFar = (1LL << 32) + 1;

struct OneHash {
  template <class Key>
  std::size_t operator()(const Key&) const {
    return 0;
  }
};
template <class Key>
using GroupOf = Group<Key, int, OneHash, std::equal_to<Key>>;

using Pair = std::pair<std::uint32_t, std::string>;

// Returns an `fn` that returns 1 if it runs for the call of `key`.
template <class Key>
auto Is(GroupOf<Key>& group, Key key) {
  return [&group, key = std::move(key)] { return static_cast<int>(group.Callers(key)); };
}

constexpr auto kFn = [] { return 1; };

struct Tag {
  char letter;
  int number;
  bool operator==(const Tag&) const = default;
};
struct UserId {
  UserId(std::uint32_t its_number) : number(its_number) {}  // NOLINT: meant to convert
  bool operator==(const UserId&) const = default;
  std::uint32_t number;
};

}  // namespace

TEST_CASE("A pair in braces is the key of these elements, or is refused") {
  GroupOf<Pair> group;
  const std::string name = "a";
  CHECK(*group.Do({1, "a"}, Is(group, Pair(1, "a"))) == 1);
  CHECK(*group.Do({1LL, name}, Is(group, Pair(1, "a")), {}) == 1);
  CHECK(*group.Do({1.0, {"abc", 1}}, Is(group, Pair(1, "a"))) == 1);
  CHECK(*group.Do({{}, "a"}, Is(group, Pair(0, "a"))) == 1);
  CHECK(*group.Do({{1}, {}}, Is(group, Pair(1, ""))) == 1);
  CHECK(*group.Do({}, Is(group, Pair())) == 1);
  CHECK(*group.Do({std::pair(1LL, "a")}, Is(group, Pair(1, "a"))) == 1);
  CHECK_THROWS_AS(static_cast<void>(group.Do({kFar, "a"}, kFn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do({kFar, "a"}, kFn, {})), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do({kFar, {"abc", 1}}, kFn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do({{kFar}, "a"}, kFn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do({1.5, "a"}, kFn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do({std::pair(kFar, "a")}, kFn)), std::out_of_range);
  CHECK_THROWS_AS(group.Forget({-1, "a"}), std::out_of_range);
  CHECK_THROWS_AS(group.ForgetUnshared({kFar, "a"}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({kFar, "a"}), std::out_of_range);
}

TEST_CASE("A null pointer in braces is refused as the string of a pair") {
  GroupOf<Pair> group;
  const char* const null = nullptr;
  CHECK_THROWS_AS(group.Callers({1, null}), std::invalid_argument);
  CHECK_THROWS_AS(GroupOf<std::optional<std::string>>().Callers({null}), std::invalid_argument);
}

TEST_CASE(
    "A string in the braces of a pair is moved into the key, and an element may be move-only") {
  GroupOf<Pair> group;
  std::string name(100, 'a');
  const char* const text = name.data();
  const auto fn = [&] { return static_cast<int>(group.Callers({1, std::string(100, 'a')})); };
  CHECK(*group.Do({1, std::move(name)}, fn) == 1);
  CHECK(name.data() != text);  // NOLINT(bugprone-use-after-move)
  GroupOf<std::pair<std::unique_ptr<int>, int>> owners;
  CHECK(*owners.Do({nullptr, 7}, [&] { return static_cast<int>(owners.Callers({{}, 7})); }) == 1);
  CHECK(*owners.Do({std::make_unique<int>(1), 7}, kFn) == 1);
}

TEST_CASE("A const element of a pair in braces is checked as well") {
  using Key = std::pair<const std::uint8_t, const std::pair<std::uint8_t, std::string>>;
  GroupOf<Key> group;
  CHECK(*group.Do({7L, {8L, "a"}}, Is(group, Key(7, {8, "a"}))) == 1);
  CHECK_THROWS_AS(group.Callers({263, {8, "a"}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({7, {264, "a"}}), std::out_of_range);
}

TEST_CASE("Braces inside of braces are checked as well") {
  using Key = std::tuple<std::pair<std::uint8_t, bool>, std::optional<std::int8_t>, Tag>;
  GroupOf<Key> group;
  const Key key({7, true}, -1, {'a', 3});
  CHECK(*group.Do({{7, 1}, -1L, {'a', 3}}, Is(group, key)) == 1);
  CHECK(*group.Do({std::pair(7L, 1), {-1L}, Tag{'a', 3}}, Is(group, key)) == 1);
  CHECK_THROWS_AS(group.Callers({{263, 1}, -1, {'a', 3}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({{7, 2}, -1, {'a', 3}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({{7, 1}, 128, {'a', 3}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({{7, 1}, {128}, {'a', 3}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({std::pair(263, 1), -1, {'a', 3}}), std::out_of_range);
  CHECK(group.Callers({{7, 1}, {}, {}}) == 0);
}

TEST_CASE("A tuple in braces may have any number of elements, and all of them are checked") {
  using Two = std::tuple<UserId, std::uint8_t>;
  using Four = std::tuple<UserId, Two, bool, std::string>;
  using Six = std::tuple<UserId, Two, bool, std::string, char, std::optional<std::uint8_t>>;
  GroupOf<Two> twos;
  CHECK(*twos.Do({1LL, 7}, Is(twos, Two(1U, std::uint8_t{7}))) == 1);
  CHECK_THROWS_AS(twos.Callers({kFar, 7}), std::out_of_range);
  CHECK_THROWS_AS(twos.Callers({1, 257}), std::out_of_range);
  GroupOf<Four> fours;
  const Four four(1U, Two(2U, std::uint8_t{7}), true, "a");
  CHECK(*fours.Do({1, {2, 7}, 1, "a"}, Is(fours, four)) == 1);
  CHECK_THROWS_AS(fours.Callers({kFar, {2, 7}, 1, "a"}), std::out_of_range);
  CHECK_THROWS_AS(fours.Callers({1, {kFar, 7}, 1, "a"}), std::out_of_range);
  CHECK_THROWS_AS(fours.Callers({1, {2, 257}, 1, "a"}), std::out_of_range);
  CHECK_THROWS_AS(fours.Callers({1, std::pair(2, 257), 1, "a"}), std::out_of_range);
  GroupOf<Six> sixes;
  const Six six(1U, Two(2U, std::uint8_t{7}), true, "a", 'b', std::uint8_t{9});
  CHECK(*sixes.Do({1, {2, 7}, 1, {"abc", 1}, 98, 9L}, Is(sixes, six)) == 1);
  CHECK(*sixes.Do({1, std::pair(2, 7), 1, "a", 'b', 9}, Is(sixes, six)) == 1);
  CHECK_THROWS_AS(sixes.Callers({kFar, std::pair(2, 7), 1, "a", 'b', 9}), std::out_of_range);
  CHECK_THROWS_AS(sixes.Callers({1, {2, 257}, 1, "a", 'b', 9}), std::out_of_range);
  CHECK_THROWS_AS(sixes.Callers({1, {2, 7}, 2, "a", 'b', 9}), std::out_of_range);
  CHECK_THROWS_AS(sixes.Callers({1, {2, 7}, 1, "a", 'b', 257}), std::out_of_range);
}

TEST_CASE("A number reaches the constructor of a user's type inside a pair in braces unchanged") {
  using Key = std::pair<UserId, std::pair<int, UserId>>;
  GroupOf<Key> group;
  CHECK(*group.Do({7LL, {1, 8LL}}, Is(group, Key(7U, {1, 8U}))) == 1);
  CHECK_THROWS_AS(group.Callers({kFar, {1, 8}}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({7, {1, kFar}}), std::out_of_range);
  CHECK_THROWS_AS(GroupOf<std::optional<UserId>>().Callers({kFar}), std::out_of_range);
  CHECK_THROWS_AS((GroupOf<std::variant<UserId, Tag>>().Callers({kFar})), std::out_of_range);
}

TEST_CASE("A number in braces is the same number as a key, or is refused") {
  struct {
    long long wide : 40;
    unsigned narrow : 3;
  } const fields = {kFar, 5};
  auto changing = fields;
  GroupOf<unsigned> group;
  CHECK(*group.Do({7L}, Is(group, 7U)) == 1);
  CHECK(*group.Do({}, Is(group, 0U)) == 1);
  CHECK(*group.Do({changing.narrow}, Is(group, 5U)) == 1);
  CHECK_THROWS_AS(group.Callers({kFar}), std::out_of_range);
  CHECK_THROWS_AS(group.Callers({changing.wide}), std::out_of_range);
  CHECK_THROWS_AS(GroupOf<bool>().Callers({2}), std::out_of_range);
}

TEST_CASE("Other keys in braces that convert what they hold are checked, too") {
  using namespace std::chrono;
  using Byte = std::optional<std::uint8_t>;
  GroupOf<Byte> bytes;
  CHECK(*bytes.Do({}, Is(bytes, Byte())) == 1);
  CHECK(*bytes.Do({std::nullopt}, Is(bytes, Byte())) == 1);
  CHECK(*bytes.Do({std::optional<int>()}, Is(bytes, Byte())) == 1);
  CHECK(*bytes.Do({{}}, Is(bytes, Byte(std::uint8_t{0}))) == 1);
  CHECK_THROWS_AS(bytes.Callers({257}), std::out_of_range);
  CHECK_THROWS_AS(bytes.Callers({{257}}), std::out_of_range);
  CHECK_THROWS_AS(GroupOf<std::tuple<std::uint8_t>>().Callers({257}), std::out_of_range);
  CHECK_THROWS_AS(GroupOf<std::tuple<std::uint8_t>>().Callers({std::tuple(257)}),
                  std::out_of_range);
  CHECK_THROWS_AS(GroupOf<nanoseconds>().Callers({hours::max()}), std::out_of_range);
  CHECK_THROWS_AS(GroupOf<sys_time<nanoseconds>>().Callers({sys_time<hours>::max()}),
                  std::out_of_range);
  CHECK_THROWS_AS(GroupOf<std::bitset<8>>().Callers({257}), std::out_of_range);
  using Variant = std::variant<Byte, std::string>;
  GroupOf<Variant> variants;
  CHECK(*variants.Do({"a"}, Is(variants, Variant("a"s))) == 1);
  CHECK(*variants.Do({}, Is(variants, Variant())) == 1);
  CHECK_THROWS_AS(variants.Callers({257}), std::out_of_range);
  using Optional = std::optional<std::pair<std::uint8_t, int>>;
  GroupOf<Optional> optionals;
  CHECK(*optionals.Do({{7, 1}}, Is(optionals, Optional({std::uint8_t{7}, 1}))) == 1);
  CHECK_THROWS_AS(optionals.Callers({{257, 1}}), std::out_of_range);
}

TEST_CASE("A key in braces that converts nothing is made as it would be anywhere") {
  GroupOf<Tag> tags;
  CHECK(*tags.Do({'a', 1}, Is(tags, Tag{'a', 1})) == 1);
  CHECK(*tags.Do({.letter = 'a', .number = 1}, Is(tags, Tag{'a', 1})) == 1);
  CHECK(*tags.Do({}, Is(tags, Tag())) == 1);
  Group<std::string, int> strings;
  const auto is = [&](std::string key) {
    return [&, key = std::move(key)] { return static_cast<int>(strings.Callers(key)); };
  };
  const char text[] = "abc";
  CHECK(*strings.Do({'a', 'b'}, is("ab")) == 1);
  CHECK(*strings.Do({text, 2}, is("ab")) == 1);
  CHECK(*strings.Do({text + 1, text + 3}, is("bc")) == 1);
  CHECK(*strings.Do({std::string(3, 'x')}, is("xxx")) == 1);
  CHECK(*strings.Do({"ab"}, is("ab")) == 1);
  CHECK(*strings.Do({}, is("")) == 1);
  GroupOf<std::vector<int>> lists;
  CHECK(*lists.Do({1, 2}, Is(lists, std::vector{1, 2})) == 1);
}

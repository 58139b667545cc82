// SPDX-License-Identifier: MIT

// Tests of views that a batch's function returns.

#if !defined(__clang__) || __clang_major__ >= 16  // older ones cannot compile libstdc++'s views

#include <array>
#include <map>
#include <memory>
#include <ranges>
#include <span>
#include <string_view>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;

namespace {

using Pairs = std::vector<std::pair<int, std::string>>;

const auto all = [](const auto&) { return true; };

const std::map<int, std::string>& KeptMap() {
  static const std::map<int, std::string> map{{1, "Ada"}, {3, "Bob"}};
  return map;
}

}  // namespace

TEST_CASE("DoMany: whoever asks a view of a map or of pairs for Bob gets Bob") {
  Group<int, std::string> group;
  const auto check = [&](auto fn) {
    const auto results = DoMany(group, {3, 1, 4}, [&](std::span<const int>) { return fn(); });
    CHECK(*results[0] == "Bob");
    CHECK(*results[1] == "Ada");
    CHECK(ErrorOf([&] { return results[2].result(); }) == std::errc::no_message);
  };
  check([] { return std::views::all(KeptMap()); });
  check([] { return KeptMap() | std::views::filter(all); });
  check([] { return std::ranges::subrange(KeptMap().begin(), KeptMap().end()); });
  check([] {
    return KeptMap() | std::views::transform([](const auto& user) {
             return std::pair(user.first, std::string_view(user.second));
           }) |
           std::views::transform(
               [](const auto& user) { return std::pair(user.first, std::string(user.second)); });
  });
  static const Pairs pairs{{1, "Ada"}, {3, "Bob"}};
  check([] { return std::views::all(pairs); });
}

TEST_CASE("DoMany: values by position may come in any kind of view") {
  Group<int, std::string> group;
  const auto check = [&](auto fn) {
    const auto results = DoMany(group, {3, 1}, [&](std::span<const int>) { return fn(); });
    CHECK(*results[0] == "Bob");
    CHECK(*results[1] == "Ada");
  };
  static const std::vector<std::string> kept{"Bob", "Ada"};
  check([] { return std::views::counted(kept.begin(), 2); });
  check([] { return kept | std::views::filter(all); });
  check([] { return kept | std::views::reverse | std::views::reverse; });
  check([] {
    return std::array<std::string_view, 2>{"Bob", "Ada"} |
           std::views::transform([](auto name) { return std::string(name); });
  });
}

TEST_CASE("DoMany: a range without an end is noticed") {
  Group<int, int> group;
  const auto results =
      DoMany(group, {3, 1}, [](std::span<const int>) { return std::views::iota(7); });
  for (const auto& result : results) {
    CHECK(ErrorOf([&] { return result.result(); }) == std::errc::invalid_argument);
  }
}

TEST_CASE("DoMany: each element of a range is read once") {
  Group<int, int> group;
  int reads = 0;
  const auto read = [&](int key) {
    ++reads;
    return 10 * key;
  };
  const auto sized = [&](std::span<const int> keys) { return keys | std::views::transform(read); };
  CHECK(*DoMany(group, {3, 1, 2}, sized)[1] == 10);
  CHECK(reads == 3);

  const auto unsized = [&](std::span<const int> keys) {
    return keys | std::views::filter(all) | std::views::transform(read);
  };
  reads = 0;
  CHECK(*DoMany(group, {3, 1, 2}, unsized)[1] == 10);
  CHECK(reads == 3);

  const auto by_key = [&](std::span<const int>) {
    return std::views::iota(0, 5) |
           std::views::transform([&](int key) { return std::pair(key, read(key)); });
  };
  reads = 0;
  CHECK(*DoMany(group, {3, 1, 2}, by_key)[1] == 10);
  CHECK(reads == 5);
}

TEST_CASE("DoMany: a lazy range may throw for single elements, and only their keys fail") {
  Group<int, int> group;
  const auto read = [](int key) {
    if (key == 1) throw std::runtime_error("no such user");
    return 10 * key;
  };
  const auto sized = [&](std::span<const int> keys) { return keys | std::views::transform(read); };
  const auto unsized = [&](std::span<const int> keys) {
    return keys | std::views::filter(all) | std::views::transform(read);
  };
  const auto check = [&](const std::vector<KeyResult<int>>& results) {
    CHECK(*results[0] == 30);
    CHECK_THROWS_WITH(*results[1], "no such user");
    CHECK(*results[2] == 20);
  };
  check(DoMany(group, {3, 1, 2}, sized));
  check(DoMany(group, {3, 1, 2}, unsized));
  CHECK(group.GetStats().failures == 2);
}

TEST_CASE("DoMany: values of a view are copied, unless it gives them away") {
  using Number = std::shared_ptr<int>;  // is null once it was moved from
  Group<int, Number> group;
  Number kept[] = {std::make_shared<int>(3), std::make_shared<int>(1)};
  std::map<int, Number> map{{1, kept[1]}, {3, kept[0]}};
  CHECK(**DoMany(group, {3, 1}, [&](std::span<const int>) { return std::views::all(kept); })[1] ==
        1);
  CHECK(kept[1] != nullptr);
  CHECK(**DoMany(group, {3, 1}, [&](std::span<const int>) { return std::views::all(map); })[1] ==
        1);
  CHECK(map[1] != nullptr);

  Group<int, std::unique_ptr<int>> owned;
  const auto check = [&](auto fn) {
    const auto results = DoMany(owned, {3, 1}, fn);
    CHECK(**results[0] == 3);
    CHECK(**results[1] == 1);
  };
  check([](std::span<const int> keys) {
    return keys | std::views::transform([](int key) { return std::make_unique<int>(key); });
  });
  check([](std::span<const int>) {
    return std::views::iota(0, 9) | std::views::transform([](int key) {
             return std::pair(key, std::make_unique<int>(key));
           });
  });
  std::unique_ptr<int> given[] = {std::make_unique<int>(3), std::make_unique<int>(1)};
  check([&](std::span<const int>) {
    return std::ranges::subrange(std::move_iterator(given), std::move_iterator(given + 2));
  });
}

#endif

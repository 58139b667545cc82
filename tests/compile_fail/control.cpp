// SPDX-License-Identifier: MIT

// Near misses of the misuses beside this file: all of it is right.

#include <functional>
#include <memory>
#include <singleflight/group.hpp>
#include <stop_token>
#include <string>
#include <string_view>
#include <utility>

struct UserId {
  int number;
  bool operator==(const UserId&) const = default;
};

template <>
struct std::hash<UserId> {
  std::size_t operator()(UserId id) const noexcept { return std::hash<int>()(id.number); }
};

struct Traits : singleflight::GroupTraits {
  static constexpr std::size_t kShards = 8;
};

using Pointers =
    singleflight::Group<UserId, std::unique_ptr<int>, std::hash<UserId>, std::equal_to<>, Traits>;

struct Waiter final : Pointers::Waiter {
  void OnLanded() noexcept override {}
};

int main() {
  int value = 1;
  singleflight::Group<int, std::reference_wrapper<int>> references;
  static_cast<void>(references.Do('a', [&] { return std::ref(value); }));

  singleflight::Group<std::string, const int*> names;
  static_cast<void>(
      names.Do(std::string_view("a"), [&](const std::stop_token&) { return &value; }));
  static_cast<void>(names.Do("a", [&] { return nullptr; }, {.on_failure = {}}));

  Pointers pointers;
  const auto result = pointers.Do(UserId{1}, [] { return std::make_unique<int>(1); });
  value = **result;

  singleflight::Group<int, int> numbers;
  value = numbers.Do(1, [] { return 'a'; }).value();
  numbers.Do(1, [] { return 2; }).value();

  Waiter waiter;
  pointers.Join(UserId{1}, waiter, [](auto lead) { lead.Succeed(nullptr); });
}

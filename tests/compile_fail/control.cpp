// SPDX-License-Identifier: MIT

// All of this is correct, but close to the misuses in the files beside it.

#include <coroutine>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <singleflight/singleflight.hpp>
#include <span>
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

struct Awaitable : std::suspend_never {
  char await_resume() const noexcept { return 'a'; }
};

struct Cache {
  std::optional<char> Get(int) { return 'a'; }
  void Put(int, char) {}
};

struct Coroutine {
  struct promise_type {
    Coroutine get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept {}
  };
};

Coroutine Await(singleflight::Group<int, int>& numbers) {
  static_cast<void>(co_await singleflight::CoDo(numbers, 1, [] { return Awaitable(); }));
  static_cast<void>(co_await singleflight::CoDo(
      numbers, 1, [](const singleflight::StopToken&) { return 1; }, {},
      [](std::coroutine_handle<> handle) { handle(); }));
  const auto now = [](const auto& task) { task(); };
  static_cast<void>(co_await singleflight::CoDo(
      numbers, 1, [] { return Awaitable(); }, now));
  static_cast<void>(co_await singleflight::CoDo(
      numbers, 1, [] { return 1; }, now, {}, [](std::coroutine_handle<> handle) { handle(); }));
}

int main() {
  int value = 1;
  singleflight::Group<int, std::reference_wrapper<int>> references;
  static_cast<void>(references.Do('a', [&] { return std::ref(value); }));

  singleflight::Group<std::string, const int*> names;
  static_cast<void>(
      names.Do(std::string_view("a"), [&](const singleflight::StopToken&) { return &value; }));
  static_cast<void>(names.Do("a", [&] { return nullptr; }, {.on_failure = {}}));

  Pointers pointers;
  const auto result = pointers.Do(UserId{1}, [] { return std::make_unique<int>(1); });
  value = **result;

  singleflight::Group<int, int> numbers;
  value = numbers.Do(1, [] { return 'a'; }).value();
  numbers.Do(1, [] { return 2; }).value();

  Waiter waiter;
  pointers.Join(UserId{1}, waiter, [](auto lead) { lead.Succeed(nullptr); });

  const auto now = [](const auto& task) { task(); };
  auto future = singleflight::DoAsync(
      pointers, UserId{1}, [one = std::make_unique<int>(1)]() mutable { return std::move(one); },
      now);
  singleflight::SharedFuture<std::unique_ptr<int>> shared = std::move(future);
  value = **shared.Get();
  value = singleflight::DoAsync(numbers, 1, [] { return 'a'; }).Get().value();

  singleflight::Caller caller;
  singleflight::DoThen(
      caller, pointers, UserId{1}, [] { return nullptr; }, now,
      [one = std::make_unique<int>(1)](auto outcome) { *one = outcome ? 1 : 2; });
  caller = singleflight::DoThen(
      numbers, 1, [] { return 'a'; },
      [](const singleflight::KeyResult<int>& number) { return number ? *number : 0; });

  Await(numbers);

  auto found = singleflight::DoMany(numbers, {1, 2}, [](std::span<const int> keys) {
    return std::map<int, char>{{keys[0], 'a'}};
  });
  value = found[0] ? std::move(found[0]).value() : 0;

  Cache cache;
  singleflight::ReadThrough<int, char, Cache&> letters(cache);
  static_cast<void>(
      letters.Get('a', [](const singleflight::StopToken&) { return 'b'; }, {.timeout = {}}));
  letters.Refresh(
      1, [] { return 'b'; }, now);
}

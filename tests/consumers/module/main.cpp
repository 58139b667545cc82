// SPDX-License-Identifier: MIT

// A user's program. This file imports the module, ../app/users.cpp includes the headers, and
// both.cpp does both. Here is what needs more than names: argument-dependent lookup,
// specializations, deduction, coroutines.

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <iostream>
#include <optional>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <unordered_map>
#include <vector>

import singleflight;

// ../app/users.cpp and both.cpp define these.
using UserGroup = singleflight::Group<std::string, std::string>;
UserGroup& Users();
std::uint64_t CountUser();
std::size_t CountBatchLetters();
std::string AskBoth(UserGroup& users);

namespace shop {

struct Page {
  int number;
};
// Found by argument-dependent lookup.
bool IsFailure(const Page& page) { return page.number < 0; }

class Pages {
 public:
  std::optional<Page> Get(int number) const {
    const auto page = pages_.find(number);
    return page == pages_.end() ? std::nullopt : std::optional(page->second);
  }
  void Put(int number, Page page) { pages_[number] = page; }
  void Erase(int number) { pages_.erase(number); }

 private:
  std::unordered_map<int, Page> pages_;
};

}  // namespace shop

template <>
struct singleflight::ValueTraits<long> {
  static bool IsNotFound(const long& value) { return value == 0; }
};

namespace {

// A coroutine that runs at once.
struct Detached {
  struct promise_type {
    Detached get_return_object() { return {}; }
    std::suspend_never initial_suspend() { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() {}
    void unhandled_exception() { std::terminate(); }
  };
};

Detached AskByCoroutine(UserGroup& users, std::string& answer) {
  answer = *co_await singleflight::CoDo(users, "user:1", [] { return "Alan"; });
}

int failures = 0;

void Check(bool holds, std::string_view what) {
  if (holds) return;
  std::cout << "it does not hold that " << what << '\n';
  ++failures;
}

}  // namespace

int main() {
  UserGroup& users = Users();  // made by the file that includes the headers
  const auto [name, shared] = users.Do("user:42", [](std::stop_token) { return "Ada"; });
  Check(name == "Ada" && !shared, "Do gives the result");
  Check(CountUser() == 2, "both files use one group");
  Check(CountBatchLetters() == 12, "a file that includes the headers works");
  Check(AskBoth(users) == "Edsger", "a file that imports and includes works");

  auto future = singleflight::DoAsync(users, "user:1", [] { return "Grace"; });
  Check(*future.Get() == "Grace", "DoAsync gives the result");

  std::string by_callback;
  {
    const singleflight::Caller caller = singleflight::DoThen(
        users, "user:1", [] { return "Barbara"; }, [](auto task) { task(); },
        [&](auto outcome) { by_callback = *outcome; });
  }
  Check(by_callback == "Barbara", "DoThen gives the result");

  std::string by_coroutine;
  AskByCoroutine(users, by_coroutine);
  Check(by_coroutine == "Alan", "CoDo gives the result");

  const auto squares = [](std::span<const int> numbers) {
    std::vector<int> results;
    for (const int number : numbers) results.push_back(number * number);
    return results;
  };
  singleflight::Group<int, int> numbers;
  std::size_t sum = 0;
  for (const auto& square : singleflight::DoMany(numbers, {3, 4}, squares)) {
    const auto& [value, of_several] = square;
    sum += static_cast<std::size_t>(value) + of_several;
  }
  Check(sum == 25, "DoMany gives the results");
  singleflight::Batcher batcher(numbers, squares, {.max_keys = 1});
  Check(*singleflight::DoAsync(batcher, 5).Get() == 25, "a Batcher is deduced, and batches");

  singleflight::Group<int, shop::Page> pages;
  static_cast<void>(pages.Do(1, [] { return shop::Page{-1}; }));
  Check(pages.GetStats().failures == 1, "a function of the user's namespace says what fails");
  Check(singleflight::IsNotFound(0L) && !singleflight::IsNotFound(1L), "a specialization is used");

  shop::Pages cache;
  singleflight::ReadThrough<int, shop::Page, shop::Pages&> read_through(cache);
  Check(read_through.Get(7, [] { return shop::Page{7}; })->number == 7, "a ReadThrough loads");
  Check(cache.Get(7).has_value(), "a ReadThrough fills the cache");

  std::error_code error;
  try {
    static_cast<void>(numbers.Do(1, [&] { return *numbers.Do(1, [] { return 1; }); }));
  } catch (const std::system_error& failure) {
    error = failure.code();
  }
  Check(error == std::errc::resource_deadlock_would_occur &&
            error.category() == singleflight::Category(),
        "errors can be told apart");
  return failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

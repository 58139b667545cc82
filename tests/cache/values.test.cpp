// SPDX-License-Identifier: MIT

// Tests ReadThrough with values that cannot be assigned, and with values and weighers that use it.

#include <chrono>
#include <cstddef>
#include <optional>
#include <singleflight/many.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::chrono_literals;
using singleflight::ReadThrough;

namespace {

struct User {
  const int id;
  std::string name;
};
[[maybe_unused]] bool IsFailure(const User& user) { return user.id < 0; }

// A value that can only be copied. It uses a ReadThrough when it is destroyed.
struct CallingBack {
  using Pages = ReadThrough<std::string, CallingBack>;

  explicit CallingBack(int its_number) : number(its_number) {}
  CallingBack(const CallingBack& other) : number(other.number) {}
  CallingBack& operator=(const CallingBack&) = delete;
  ~CallingBack() {
    if (pages == nullptr || (only && number != *only)) return;
    ++destroyed;
    pages->Invalidate("page");
    pages->InvalidateIf([](const std::string& key) { return key == "other"; });
  }

  int number;
  static inline Pages* pages = nullptr;
  static inline std::optional<int> only;  // the value that does this. None: all do
  static inline int destroyed = 0;
};
[[maybe_unused]] bool IsFailure(const CallingBack& value) { return value.number < 0; }

// While it lives, values use these pages.
class UsedByValues {
 public:
  explicit UsedByValues(CallingBack::Pages& pages, std::optional<int> only = std::nullopt) {
    CallingBack::pages = &pages;
    CallingBack::only = only;
    CallingBack::destroyed = 0;
  }
  ~UsedByValues() { CallingBack::pages = nullptr; }
  UsedByValues(const UsedByValues&) = delete;
  UsedByValues& operator=(const UsedByValues&) = delete;
};

}  // namespace

TEST_CASE("ReadThrough: a Value need not be assignable") {
  ReadThrough<int, User> users(
      {.ttl = 1h, .stale_for = 1h, .soft_timeout = 1h, .early_refresh = 1, .retry_after = 1h});
  CHECK(users.Get(1, [] { return User{1, "a"}; })->name == "a");
  CHECK(users.Get(1, [] { return User{1, "b"}; })->name == "a");
  CHECK(users.Refresh(1, [] { return User{1, "c"}; })->name == "c");
  users.Put(1, User{1, "d"});
  CHECK(users.Peek(1)->name == "d");
  CHECK(users.Get(2, [] { return User{-2, "fails"}; })->id == -2);
  CHECK(users.Get(2, [] { return User{2, "too early"}; })->id == -2);
  const auto load = [](std::span<const int> ids) {
    std::vector<User> loaded;
    for (const int id : ids) loaded.push_back({id, "many"});
    return loaded;
  };
  CHECK(singleflight::DoMany(users, std::vector<int>{3}, load)[0]->name == "many");
}

// ---- User code that uses the ReadThrough while a value is put

TEST_CASE("ReadThrough: a value that is put may use the ReadThrough when it is destroyed") {
  CallingBack::Pages pages({.ttl = 1h});
  const UsedByValues used(pages);
  SECTION("by a load") {
    CHECK(pages.Get("page", [] { return CallingBack(1); })->number == 1);
    CHECK(pages.Refresh("page", [] { return CallingBack(2); })->number == 2);
  }
  SECTION("by hand") {
    pages.Put("page", CallingBack(1));
    pages.Put("page", CallingBack(2));
  }
  CHECK(CallingBack::destroyed > 0);
}

TEST_CASE("ReadThrough: a value that another one replaces may use it when it is destroyed") {
  CallingBack::Pages pages({.ttl = 1h});
  pages.Put("page", CallingBack(1));
  const UsedByValues used(pages, 1);
  SECTION("by a load") {
    CHECK(pages.Refresh("page", [] { return CallingBack(2); })->number == 2);
  }
  SECTION("by hand") { pages.Put("page", CallingBack(2)); }
  CHECK(CallingBack::destroyed == 1);
}

TEST_CASE("ReadThrough: a value too heavy for the cache may use it when it is destroyed") {
  CallingBack::Pages pages({.capacity = 4, .weigher = [](const std::string&, const CallingBack&) {
                              return std::size_t{5};
                            }});
  const UsedByValues used(pages);
  CHECK(pages.Get("page", [] { return CallingBack(1); })->number == 1);
  pages.Put("page", CallingBack(2));
  CHECK_FALSE(pages.Peek("page").has_value());
}

TEST_CASE("ReadThrough: a value that retry_after keeps may use it when it is destroyed") {
  CallingBack::Pages pages({.retry_after = 1h});
  const UsedByValues used(pages);
  CHECK(pages.Get("page", [] { return CallingBack(-1); })->number == -1);
  CHECK(pages.Get("page", [] { return CallingBack(-2); })->number <= -1);
  pages.Put("page", CallingBack(2));
}

TEST_CASE("ReadThrough: a value that an exception removes may use it when it is destroyed") {
  bool throws = false;
  CallingBack::Pages pages({.weigher = [&throws](const std::string&, const CallingBack&) {
    if (throws) throw 7;
    return std::size_t{1};
  }});
  pages.Put("page", CallingBack(1));
  throws = true;
  const UsedByValues used(pages);
  CHECK_THROWS_AS(pages.Put("page", CallingBack(2)), int);
  CHECK_FALSE(pages.Peek("page").has_value());
}

TEST_CASE("ReadThrough: a weigher may use the ReadThrough") {
  using Pages = ReadThrough<std::string, int>;
  Pages* its_pages = nullptr;
  Pages pages({.weigher = [&its_pages](const std::string& key, int) {
    its_pages->Invalidate(key);
    its_pages->InvalidateIf([](const std::string& other) { return other == "other"; });
    return std::size_t{1};
  }});
  its_pages = &pages;
  CHECK(*pages.Get("page", [] { return 1; }) == 1);
  pages.Put("page", 2);
  CHECK(pages.Peek("page") == 2);
}

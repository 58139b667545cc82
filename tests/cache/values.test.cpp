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

// SPDX-License-Identifier: MIT

// Tests of batches whose function has errors for single keys.

#include <any>
#include <array>
#include <forward_list>
#include <list>
#include <map>
#include <memory>
#include <span>
#include <unordered_map>
#include <variant>

#include "cache/fake_cache.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;
using singleflight::Role;
using singleflight::Stats;

namespace {

struct NotFound {
  int id;
};

// As std::expected, which C++20 does not have.
template <class Value, class Error>
class Expected {
 public:
  Expected(Value value) : held_(std::in_place_index<0>, std::move(value)) {}
  static Expected Unexpected(Error error) {
    Expected expected;
    expected.held_.template emplace<1>(std::move(error));
    return expected;
  }
  bool has_value() const { return held_.index() == 0; }
  Value& operator*() & { return std::get<0>(held_); }
  const Value& operator*() const& { return std::get<0>(held_); }
  Value&& operator*() && { return std::get<0>(std::move(held_)); }
  const Error& error() const& { return std::get<1>(held_); }
  Error&& error() && { return std::get<1>(std::move(held_)); }

 private:
  Expected() = default;
  std::variant<Value, Error> held_;
};

// As std::expected<void, Error>.
template <class Error>
struct ExpectedVoid {
  bool has_value() const { return !failure; }
  void operator*() const {}
  const Error& error() const { return *failure; }
  std::optional<Error> failure = {};
};

// As Boost.Outcome's results, which have no operator*.
struct NumberOrCode {
  bool has_value() const { return number != 0; }
  int value() const { return number; }
  std::error_code error() const { return std::make_error_code(std::errc::io_error); }
  int number;
};

template <class Result>
int CaughtId(const Result& result) {
  try {
    static_cast<void>(result.result());
  } catch (const NotFound& error) {
    return error.id;
  }
  return 0;
}

std::exception_ptr Error(int id) { return std::make_exception_ptr(NotFound{id}); }

}  // namespace

TEST_CASE("DoMany: an object that holds a value or an error says how its key's call lands") {
  using User = Expected<std::string, NotFound>;
  const User ada("Ada");
  const User nobody = User::Unexpected({7});
  Group<int, std::string> group;
  const auto check = [&](auto users) {
    const auto results = DoMany(group, {1, 7, 2}, [&](std::span<const int>) { return users; });
    CHECK(*results[0] == "Ada");
    CHECK_FALSE(results[1].has_value());
    CHECK(CaughtId(results[1]) == 7);
    CHECK(*results[2] == "Ada");
  };
  check(std::vector{ada, nobody, ada});
  check(std::array{ada, nobody, ada});
  check(std::forward_list{ada, nobody, ada});
  check(std::map<int, User>{{1, ada}, {2, ada}, {7, nobody}});
  check(std::unordered_map<long, User>{{1, ada}, {2, ada}, {7, nobody}});
  check(std::list<std::pair<int, User>>{{1, ada}, {2, ada}, {7, nobody}});
  CHECK(group.GetStats() == Stats{.executions = 18, .failures = 6});
}

TEST_CASE("DoMany: a key's error reaches all callers of its call, and no others") {
  using User = Expected<int, NotFound>;
  Group<int, int> group;
  singleflight::Future<int> followers[2];
  const auto results = DoMany(group, {1, 7}, [&](std::span<const int>) {
    followers[0] = singleflight::DoAsync(group, 1, [] { return -1; });
    followers[1] = singleflight::DoAsync(group, 7, [] { return -1; });
    return std::vector{User(10), User::Unexpected({7})};
  });
  CHECK(*followers[0].Get() == 10);
  CHECK_THROWS_AS(followers[1].Get(), NotFound);
  CHECK(CaughtId(results[1]) == 7);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2, .failures = 1});
}

TEST_CASE("DoMany: an error is thrown as it is, an exception and an error code as what they mean") {
  Group<int, int> group;
  const auto error_of = [&](auto expected) {
    return DoMany(group, {1},
                  [&](std::span<const int>) {
                    std::vector<decltype(expected)> range;
                    range.push_back(std::move(expected));
                    return range;
                  })[0]
        .error();
  };
  const std::exception_ptr kept = Error(7);
  CHECK(error_of(Expected<int, std::exception_ptr>::Unexpected(kept)) == kept);
  const auto code = std::make_error_code(std::errc::io_error);
  CHECK(ErrorOf([&]() -> int {
          std::rethrow_exception(error_of(Expected<int, std::error_code>::Unexpected(code)));
        }) == std::errc::io_error);
  CHECK(ErrorOf([&]() -> int { std::rethrow_exception(error_of(NumberOrCode{0})); }) ==
        std::errc::io_error);
  CHECK_THROWS_AS(std::rethrow_exception(error_of(Expected<int, std::string>::Unexpected("down"))),
                  std::string);
  using Owned = std::unique_ptr<NotFound>;
  try {
    std::rethrow_exception(
        error_of(Expected<int, Owned>::Unexpected(std::make_unique<NotFound>(NotFound{7}))));
  } catch (const Owned& error) {
    CHECK(error->id == 7);
  }
  CHECK(*DoMany(group, {1}, [](std::span<const int>) { return std::vector{NumberOrCode{7}}; })[0] ==
        7);
}

TEST_CASE(
    "DoMany: an object that holds an exception fails its key with that and not with its error") {
  // As Boost.Outcome's outcome: error() is not to be asked if there is only an exception.
  struct NumberOrException {
    bool has_value() const { return !has_exception(); }
    bool has_exception() const { return failure != nullptr; }
    int value() const { return 7; }
    int error() const { throw std::logic_error("there is no error"); }
    const std::exception_ptr& exception() const { return failure; }
    std::exception_ptr failure;
  };
  Group<int, int> group;
  const auto results = DoMany(group, {1, 7}, [](std::span<const int>) {
    return std::vector{NumberOrException{}, NumberOrException{Error(7)}};
  });
  CHECK(*results[0] == 7);
  CHECK(CaughtId(results[1]) == 7);
}

TEST_CASE("DoMany: an object whose has_value() converts to bool only explicitly holds an error") {
  struct Yes {
    bool yes;
    explicit operator bool() const { return yes; }
  };
  struct Number {
    Yes has_value() const { return {number > 0}; }
    NotFound error() const { return {7}; }
    int value() const { return number; }
    operator int() const { return -1; }  // not what is asked
    int number;
  };
  Group<int, int> group;
  const auto results = DoMany(group, {1, 7}, [](std::span<const int>) {
    return std::vector{Number{5}, Number{0}};
  });
  CHECK(*results[0] == 5);
  CHECK(CaughtId(results[1]) == 7);
}

TEST_CASE("DoMany: its function may make KeyResults of values that can only be moved") {
  using Pointer = std::unique_ptr<int>;
  Group<int, Pointer> group;
  const auto results = DoMany(group, {1, 7}, [](std::span<const int>) {
    std::vector<KeyResult<Pointer>> pointers;
    pointers.push_back(std::make_unique<int>(10));
    pointers.push_back(KeyResult<Pointer>::Failure(Error(7)));
    return pointers;
  });
  CHECK(**results[0] == 10);
  CHECK(CaughtId(results[1]) == 7);

  // One that is shared cannot be moved away from the others that have it.
  Group<int, Pointer> origin;
  const auto forwarded = DoMany(group, {1, 2, 3}, [&](std::span<const int>) {
    return DoMany(origin, {1, 1, 2}, [](std::span<const int> keys) {
      std::vector<Pointer> made;
      for (const int key : keys) made.push_back(std::make_unique<int>(key));
      return made;
    });
  });
  CHECK(ErrorOf([&] { return *forwarded[0].value(); }) == std::errc::invalid_argument);
  CHECK(ErrorOf([&] { return *forwarded[1].value(); }) == std::errc::invalid_argument);
  CHECK(**forwarded[2] == 2);
}

TEST_CASE("DoMany: an object that holds neither a value nor an error is no value") {
  Group<int, int> group;
  const auto results = DoMany(group, {1}, [](std::span<const int>) {
    return std::vector{Expected<int, std::exception_ptr>::Unexpected(nullptr)};
  });
  CHECK(ErrorOf([&] { return results[0].result(); }) == std::errc::no_message);
}

TEST_CASE("DoMany: the results of one batch may be what another's function returns") {
  struct Counted {
    explicit Counted(int its_number) : number(its_number) {}
    Counted(const Counted& other) : number(other.number) { ++copies(); }
    Counted(Counted&&) = default;
    static int& copies() {
      static int copies = 0;
      return copies;
    }
    int number;
  };
  Group<int, Counted> origin;
  Group<int, Counted> front;
  const auto load = [](std::span<const int> keys) {
    std::map<int, Counted> map;
    for (const int key : keys) {
      if (key != 7) map.emplace(key, Counted(10 * key));
    }
    return map;
  };
  const auto results = DoMany(
      front, {7, 1, 2}, [&](std::span<const int> keys) { return DoMany(origin, keys, load); });
  CHECK(ErrorOf([&] { return results[0].result(); }) == std::errc::no_message);
  CHECK(results[1]->number == 10);
  CHECK(results[2]->number == 20);
  CHECK(Counted::copies() == 0);

  // A result that others have, too, is copied.
  const auto shared = DoMany(front, {1, 2}, [&](std::span<const int>) {
    return DoMany(origin, {1, 1}, load);
  });
  CHECK(shared[1]->number == 10);
  CHECK(Counted::copies() == 2);
}

TEST_CASE("DoMany: its function may make KeyResults of its own") {
  Group<int, std::unique_ptr<int>> group;
  Group<int, std::string> names;
  const auto results = DoMany(names, {1, 7, 8}, [](std::span<const int>) {
    std::vector<KeyResult<std::string>> users;
    users.push_back(std::string("Ada"));
    users.push_back(KeyResult<std::string>::Failure(Error(7)));
    users.push_back(KeyResult<std::string>::Failure(nullptr));
    CHECK(users[0].has_value());
    CHECK_FALSE(users[0].shared());
    CHECK(users[0].role() == Role::kLeader);
    CHECK_FALSE(users[1].has_value());
    return users;
  });
  CHECK(*results[0] == "Ada");
  CHECK(CaughtId(results[1]) == 7);
  CHECK(ErrorOf([&] { return results[2].result(); }) == std::errc::owner_dead);
  const KeyResult<std::string> of_do(names.Do(1, [] { return "Bob"; }));
  CHECK(*of_do == "Bob");

  // A KeyResult holds what an exception_ptr is for: a value, or an error.
  const KeyResult<std::exception_ptr> value(Error(7));
  CHECK(value.has_value());
  CHECK(value.error() == nullptr);
  CHECK_FALSE(KeyResult<std::exception_ptr>::Failure(Error(7)).has_value());
}

TEST_CASE("DoMany: in a group of void, single keys may fail") {
  Group<int, void> group;
  const auto check = [&](auto errors) {
    const auto results = DoMany(group, {1, 7, 2}, [&](std::span<const int>) { return errors; });
    results[0].value();
    CHECK(CaughtId(results[1]) == 7);
    CHECK(results[2].has_value());
  };
  check(std::vector<std::exception_ptr>{nullptr, Error(7), nullptr});
  check(std::map<int, std::exception_ptr>{{1, nullptr}, {2, nullptr}, {7, Error(7)}});
  check(std::vector<ExpectedVoid<NotFound>>{{}, {NotFound{7}}, {}});
  check(std::list<std::pair<int, ExpectedVoid<NotFound>>>{{2, {}}, {1, {}}, {7, {NotFound{7}}}});
  check(std::vector{KeyResult<void>(), KeyResult<void>::Failure(Error(7)), KeyResult<void>()});
  check(std::vector{Expected<int, NotFound>(1), Expected<int, NotFound>::Unexpected({7}),
                    Expected<int, NotFound>(2)});
  CHECK(group.GetStats() == Stats{.executions = 18, .failures = 6});

  const auto forwarded = DoMany(group, {1, 7}, [](std::span<const int> keys) {
    Group<int, void> origin;
    return DoMany(origin, keys, [](std::span<const int>) {
      return std::vector<std::exception_ptr>{nullptr, Error(7)};
    });
  });
  CHECK(forwarded[0].has_value());
  CHECK(CaughtId(forwarded[1]) == 7);

  // A list of the failures is no list of the successes.
  const auto lacking = DoMany(group, {1, 7}, [](std::span<const int>) {
    return std::map<int, std::exception_ptr>{{7, Error(7)}};
  });
  CHECK(ErrorOf([&] { return lacking[0].result(); }) == std::errc::no_message);
  const auto fewer = DoMany(
      group, {1, 7}, [](std::span<const int>) { return std::vector<std::exception_ptr>{nullptr}; });
  CHECK(ErrorOf([&] { return fewer[0].result(); }) == std::errc::invalid_argument);
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("DoMany: a Value that may hold an error is a value with it") {
  using User = Expected<std::string, NotFound>;
  Group<int, User> group;
  const auto results = DoMany(group, {1, 7}, [](std::span<const int>) {
    return std::vector{User("Ada"), User::Unexpected({7})};
  });
  CHECK(**results[0] == "Ada");
  REQUIRE(results[1].has_value());
  CHECK(results[1]->error().id == 7);

  // Also if the function returns another such type, which converts to the Value.
  struct Wider : User {
    Wider(User user) : User(std::move(user)) {}
  };
  Group<int, Wider> wider;
  const auto converted = DoMany(wider, {1, 7}, [](std::span<const int>) {
    return std::vector{User("Ada"), User::Unexpected({7})};
  });
  REQUIRE(converted[1].has_value());
  CHECK(converted[1]->error().id == 7);
}

TEST_CASE("DoMany: a Value that can hold anything does not hide an error") {
  using User = Expected<std::string, NotFound>;
  Group<int, std::any> group;
  const auto results = DoMany(group, {1, 7}, [](std::span<const int>) {
    return std::vector{User("Ada"), User::Unexpected({7})};
  });
  CHECK(std::any_cast<std::string>(*results[0]) == "Ada");
  CHECK(CaughtId(results[1]) == 7);
}

TEST_CASE("DoMany: a key's error is not cached, and the other values are") {
  using User = Expected<int, NotFound>;
  FakeCache<int> cache;
  singleflight::ReadThrough<std::string, int, FakeCache<int>&> users(cache);
  const auto results = DoMany(users, {"ada", "eve"}, [](std::span<const std::string>) {
    return std::map<std::string, User>{{"ada", User(10)}, {"eve", User::Unexpected({7})}};
  });
  CHECK(*results[0] == 10);
  CHECK(CaughtId(results[1]) == 7);
  CHECK(cache.Peek("ada") == 10);
  CHECK(cache.Peek("eve") == std::nullopt);
}

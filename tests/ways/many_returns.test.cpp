// SPDX-License-Identifier: MIT

// Tests of what a batch's function may return: values by position, and values by key.

#include <algorithm>
#include <array>
#include <cctype>
#include <forward_list>
#include <iterator>
#include <limits>
#include <list>
#include <map>
#include <memory>
#include <ranges>
#include <span>
#include <string_view>
#include <tuple>
#include <unordered_map>

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::KeyResult;
using Strings = std::vector<std::string>;

namespace {

using Users = Group<int, std::string>;
using Accounts = Group<std::string, std::string>;
using Pairs = std::vector<std::pair<int, std::string>>;

constexpr auto kNoValue = std::errc::no_message;
constexpr auto kInvalid = std::errc::invalid_argument;

// What a batch got for one key: the value, or the name of the library's error.
template <class Value>
std::string Text(const KeyResult<Value>& result) {
  const std::optional<std::errc> error = ErrorOf([&] { return result.result(); });
  if (error == kNoValue) return "no value";
  if (error == kInvalid) return "invalid";
  if (error) return "another error";
  return *result;
}

template <class G, class Fn>
Strings Ask(G& group, std::initializer_list<typename G::KeyType> keys, Fn&& fn) {
  Strings texts;
  for (const auto& result : DoMany(group, keys, fn)) texts.push_back(Text(result));
  return texts;
}

// Asks for 3, 1 and 4, of whom there are only Bob (3) and Ada (1). `users` begins with Ada.
template <class Returned>
Strings AskForBobAndAda(Returned (*users)()) {
  Users group;
  return Ask(group, {3, 1, 4}, [&](std::span<const int>) -> Returned { return users(); });
}
const Strings kBobAndAda{"Bob", "Ada", "no value"};

// A range that can be read once, from front to back. It counts how often an element is read.
template <class T>
class SinglePass {
 public:
  struct Iterator {
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    T operator*() const {
      ++range->reads;
      return range->elements.at(range->next);
    }
    Iterator& operator++() {
      ++range->next;
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return range->next == range->elements.size(); }
    SinglePass* range;
  };

  explicit SinglePass(std::vector<T> its_elements) : elements(std::move(its_elements)) {}
  SinglePass(SinglePass&&) = default;
  Iterator begin() { return {this}; }
  std::default_sentinel_t end() const { return {}; }

  std::vector<T> elements;
  std::size_t next = 0;
  static inline int reads = 0;
};
static_assert(std::ranges::input_range<SinglePass<int>>);
static_assert(!std::ranges::forward_range<SinglePass<int>>);

// A map as Qt's are: its iterator gives the value, and has key() and value().
template <class Key, class Value>
class QtMap {
 public:
  using key_type = Key;
  using mapped_type = Value;
  class iterator {
   public:
    using value_type = Value;
    using difference_type = std::ptrdiff_t;
    iterator() = default;
    explicit iterator(typename std::map<Key, Value>::iterator at) : at_(at) {}
    const Key& key() const { return at_->first; }
    Value& value() const { return at_->second; }
    Value& operator*() const { return at_->second; }
    iterator& operator++() {
      ++at_;
      return *this;
    }
    iterator operator++(int) { return iterator(at_++); }
    bool operator==(const iterator&) const = default;

   private:
    typename std::map<Key, Value>::iterator at_;
  };
  iterator begin() { return iterator(map.begin()); }
  iterator end() { return iterator(map.end()); }
  iterator find(const Key& key) { return iterator(map.find(key)); }
  Value& operator[](const Key& key) { return map[key]; }

  std::map<Key, Value> map;
};

// A JSON object as nlohmann's are: it names no key type, and only its iterator knows the keys.
struct JsonValue {
  operator std::string() const { return text; }
  std::string text;
};
class JsonObject {
 public:
  using value_type = JsonValue;
  using iterator = QtMap<std::string, JsonValue>::iterator;
  iterator begin() { return members_.begin(); }
  iterator end() { return members_.end(); }
  iterator find(const std::string& key) { return members_.find(key); }
  JsonValue& operator[](const std::string& key) { return members_[key]; }

 private:
  QtMap<std::string, JsonValue> members_;
};

// A map of which only single keys can be looked up.
class Table {
 public:
  using mapped_type = std::string;
  using Rows = std::map<int, std::string>;
  Rows::const_iterator find(int key) const { return rows.find(key); }
  Rows::const_iterator end() const { return rows.end(); }
  Rows rows{{1, "Ada"}, {3, "Bob"}};
};

// An entry that is no pair.
struct Entry {
  int key() const { return number; }
  const std::string& value() const { return name; }
  int number;
  std::string name;
};

// A range that breaks off.
struct Lost {
  struct Iterator {
    using value_type = int;
    using difference_type = std::ptrdiff_t;
    int operator*() const { return 7; }
    Iterator& operator++() { throw std::runtime_error("connection lost"); }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return false; }
  };
  Iterator begin() { return {}; }
  std::default_sentinel_t end() const { return {}; }
};

using Numbers = std::shared_ptr<int>;  // is null once it was moved from
// Refers to elements that somebody else owns, but is no view.
struct Slice {
  Numbers* begin() const { return first; }
  Numbers* end() const { return first + 2; }
  Numbers* first;
};
// Has its elements to itself, but may give each out again.
struct Source {
  struct Iterator {
    using value_type = Numbers;
    using difference_type = std::ptrdiff_t;
    Numbers& operator*() const { return *at; }
    Iterator& operator++() { return ++at, *this; }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return at == end; }
    Numbers* at;
    Numbers* end;
  };
  Iterator begin() { return {first, first + 2}; }
  std::default_sentinel_t end() const { return {}; }
  Numbers* first;
};

const std::map<int, std::string>& KeptMap() {
  static const std::map<int, std::string> map{{1, "Ada"}, {3, "Bob"}};
  return map;
}

std::string Lower(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(c));
  return lower;
}
struct CaseBlindHash {
  std::size_t operator()(const std::string& key) const {
    return std::hash<std::string>()(Lower(key));
  }
};
struct CaseBlindEqual {
  bool operator()(const std::string& a, const std::string& b) const { return Lower(a) == Lower(b); }
};
struct CaseBlindLess {
  bool operator()(const std::string& a, const std::string& b) const { return Lower(a) < Lower(b); }
};
using CaseBlind = Group<std::string, std::string, CaseBlindHash, CaseBlindEqual>;

}  // namespace

TEST_CASE("DoMany: whoever asks a map for Bob gets Bob, whatever the map's own order is") {
  CHECK(AskForBobAndAda(+[] { return KeptMap(); }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[]() -> const std::map<int, std::string>& { return KeptMap(); }) ==
        kBobAndAda);
  CHECK(AskForBobAndAda(+[] {
          return std::map<int, std::string, std::greater<>>{{1, "Ada"}, {3, "Bob"}};
        }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] {
          return std::unordered_map<int, std::string>{{1, "Ada"}, {3, "Bob"}};
        }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] {
          QtMap<int, std::string> map;
          map[1] = "Ada";
          map[3] = "Bob";
          return map;
        }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] { return Table(); }) == kBobAndAda);
}

TEST_CASE("DoMany: whoever asks an object for Bob gets Bob, although it names no type of key") {
  Accounts group;
  const auto fn = [](std::span<const std::string>) {
    JsonObject object;
    object["ada"].text = "Ada";
    object["bob"].text = "Bob";
    return object;
  };
  CHECK(Ask(group, {"bob", "ada", "eve"}, fn) == kBobAndAda);
}

TEST_CASE("DoMany: whoever asks a range of pairs for Bob gets Bob") {
  CHECK(AskForBobAndAda(+[] { return Pairs{{1, "Ada"}, {3, "Bob"}}; }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] {
          return std::list<std::tuple<int, std::string>>{{1, "Ada"}, {3, "Bob"}};
        }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] {
          return std::forward_list<std::pair<long, const char*>>{{1, "Ada"}, {3, "Bob"}};
        }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] { return SinglePass(Pairs{{1, "Ada"}, {3, "Bob"}}); }) == kBobAndAda);
  CHECK(AskForBobAndAda(+[] { return std::vector<Entry>{{1, "Ada"}, {3, "Bob"}}; }) == kBobAndAda);
}

TEST_CASE(
    "DoMany: pairs may have any key that Do takes, and those that nobody asked for count not") {
  Accounts accounts;
  const auto views = [](std::span<const std::string>) {
    return std::vector<std::pair<std::string_view, std::string>>{{"ada", "Ada"}, {"bob", "Bob"}};
  };
  const auto literals = [](std::span<const std::string>) {
    return std::array<std::pair<const char*, const char*>, 3>{
        {{"zoe", "Zoe"}, {"bob", "Bob"}, {"ada", "Ada"}}};
  };
  CHECK(Ask(accounts, {"bob", "ada", "eve"}, views) == kBobAndAda);
  CHECK(Ask(accounts, {"bob", "ada", "eve"}, literals) == kBobAndAda);

  // 2^32 + 3 is no key of this group, and above all it is not 3.
  Users users;
  const auto wide = [](std::span<const int>) {
    return std::vector<std::pair<long long, std::string>>{{(1LL << 32) + 3, "Eve"}, {3, "Bob"}};
  };
  CHECK(Ask(users, {3}, wide) == Strings{"Bob"});
}

TEST_CASE("DoMany: two values for one key are an error of that key alone") {
  Users group;
  const auto fn = [](std::span<const int>) {
    return Pairs{{1, "Ada"}, {3, "Bob"}, {1, "Eve"}, {1, "Eve"}, {7, "Zoe"}, {7, "Zoe"}};
  };
  CHECK(Ask(group, {3, 1}, fn) == Strings{"Bob", "invalid"});
}

TEST_CASE("DoMany: a map is asked in the group's sense of equality, also if its own is stricter") {
  CaseBlind group;
  const auto map = [](std::span<const std::string>) {
    return std::map<std::string, std::string>{{"ada", "Ada"}, {"bob", "Bob"}, {"BO", "Bo"}};
  };
  CHECK(Ask(group, {"BOB", "Ada", "Eve"}, map) == kBobAndAda);
  const auto hashed = [](std::span<const std::string>) {
    return std::unordered_map<std::string, std::string>{{"aDA", "Ada"}, {"boB", "Bob"}};
  };
  CHECK(Ask(group, {"BOB", "Ada", "Eve"}, hashed) == kBobAndAda);
  const auto both = [](std::span<const std::string>) {
    return std::map<std::string, std::string>{{"ada", "Ada"}, {"ADA", "Eve"}, {"bob", "Bob"}};
  };
  CHECK(Ask(group, {"BOB", "ada"}, both) == Strings{"Bob", "invalid"});
  const auto same = [](std::span<const std::string>) {
    return std::unordered_map<std::string, std::string, CaseBlindHash, CaseBlindEqual>{
        {"ada", "Ada"}, {"bob", "Bob"}};
  };
  CHECK(Ask(group, {"BOB", "Ada", "Eve"}, same) == kBobAndAda);
}

TEST_CASE("DoMany: a map is asked in the group's sense of equality, also if its own is laxer") {
  Accounts group;
  const auto map = [](std::span<const std::string>) {
    return std::map<std::string, std::string, CaseBlindLess>{{"ada", "Ada"}, {"bob", "Bob"}};
  };
  CHECK(Ask(group, {"bob", "ada", "ADA"}, map) == kBobAndAda);
}

TEST_CASE("DoMany: a map with narrower keys does not answer for a wider one") {
  Users group;
  const auto narrow = [](std::span<const int>) {
    return std::map<unsigned char, std::string>{{1, "Ada"}, {3, "Bob"}};
  };
  CHECK(Ask(group, {3, 1, 257}, narrow) == kBobAndAda);
}

TEST_CASE("DoMany: a map does not take one key for another because of its order") {
  // Every number and NaN are equivalent in a map's order.
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  Group<double, std::string> numbers;
  const auto fn = [](std::span<const double>) {
    return std::map<double, std::string>{{1, "Ada"}, {3, "Bob"}};
  };
  CHECK(Ask(numbers, {3, 1, kNan}, fn) == kBobAndAda);

  // An order that looks at a part of the key only.
  struct Id {
    bool operator==(const Id&) const = default;
    bool operator<(const Id& other) const { return number < other.number; }
    int tenant;
    int number;
  };
  struct HashId {
    std::size_t operator()(const Id& id) const { return static_cast<std::size_t>(id.number); }
  };
  Group<Id, std::string, HashId> ids;
  const auto by_number = [](std::span<const Id>) {
    return std::map<Id, std::string>{{{7, 1}, "Ada"}, {{7, 3}, "Bob"}};
  };
  CHECK(Ask(ids, {{7, 3}, {7, 1}, {8, 3}}, by_number) == kBobAndAda);
}

TEST_CASE("DoMany: a lookup table that finds another key's row is not believed") {
  struct Nearest : Table {
    Rows::const_iterator find(int key) const { return rows.lower_bound(key); }
  };
  Users group;
  CHECK(Ask(group, {3, 1, 2}, [](std::span<const int>) { return Nearest(); }) == kBobAndAda);
}

TEST_CASE("DoMany: a Value that is a pair itself is read by position") {
  Group<int, std::pair<int, int>> group;
  const auto results = DoMany(group, {3, 1}, [](std::span<const int>) {
    return std::vector<std::pair<int, int>>{{1, 10}, {3, 30}};
  });
  CHECK(*results[0] == std::pair(1, 10));
  CHECK(*results[1] == std::pair(3, 30));
  const auto mapped = DoMany(group, {3, 1}, [](std::span<const int>) {
    return std::map<int, std::pair<int, int>>{{1, {1, 10}}, {3, {3, 30}}};
  });
  CHECK(*mapped[0] == std::pair(3, 30));
}

TEST_CASE("DoMany: values by position may come in any kind of range") {
  Users group;
  const Strings expected{"Bob", "Ada"};
  const auto ask = [&](auto fn) {
    return Ask(group, {3, 1}, [&](std::span<const int>) -> decltype(fn()) { return fn(); });
  };
  static const Strings kept{"Bob", "Ada"};
  static std::string plain[] = {"Bob", "Ada"};
  CHECK(ask([] { return kept; }) == expected);
  CHECK(ask([]() -> const Strings& { return kept; }) == expected);
  CHECK(ask([]() -> decltype(plain)& { return plain; }) == expected);
  CHECK(ask([] { return std::list<const char*>{"Bob", "Ada"}; }) == expected);
  CHECK(ask([] { return std::forward_list<std::string>{"Bob", "Ada"}; }) == expected);
  CHECK(ask([] { return std::span(kept); }) == expected);
  CHECK(ask([] { return SinglePass(Strings{"Bob", "Ada"}); }) == expected);

  Group<int, bool> flags;
  const auto bits = DoMany(flags, {3, 1}, [](std::span<const int>) {
    return std::vector<bool>{true, false};
  });
  CHECK(*bits[0]);
  CHECK_FALSE(*bits[1]);
}

TEST_CASE("DoMany: a wrong number of values lands no key, whatever kind of range they are in") {
  Users group;
  const Strings wrong{"invalid", "invalid"};
  const auto ask = [&](auto fn) {
    return Ask(group, {3, 1}, [&](std::span<const int>) { return fn(); });
  };
  CHECK(ask([] { return std::forward_list<std::string>{"Bob"}; }) == wrong);
  CHECK(ask([] { return std::forward_list<std::string>(3); }) == wrong);
  CHECK(ask([] { return std::forward_list<std::string>(); }) == wrong);
  CHECK(ask([] { return SinglePass(Strings{"Bob"}); }) == wrong);
  SinglePass<std::string>::reads = 0;
  CHECK(ask([] { return SinglePass(Strings(5)); }) == wrong);
  CHECK(SinglePass<std::string>::reads == 2);

  // A size that only seems to be right.
  struct Short {
    std::vector<std::string>::const_iterator begin() const { return values.begin(); }
    std::vector<std::string>::const_iterator end() const { return values.end(); }
    std::size_t size() const { return 2; }
    Strings values;
  };
  CHECK(ask([] { return Short(); }) == wrong);
}

TEST_CASE("DoMany: each element is read once, and one that cannot be read fails its key alone") {
  // Becomes the value when it is read.
  struct Lazy {
    operator int() const {
      ++*reads;
      if (key == 1) throw std::runtime_error("no such user");
      return 10 * key;
    }
    int* reads;
    int key;
  };
  Group<int, int> group;
  int reads = 0;
  const auto check = [&](auto fn) {
    reads = 0;
    const auto results = DoMany(group, {3, 1, 2}, [&](std::span<const int>) { return fn(); });
    CHECK(*results[0] == 30);
    CHECK_THROWS_WITH(*results[1], "no such user");
    CHECK(*results[2] == 20);
    CHECK(reads == 3);
  };
  const Lazy one{&reads, 1}, two{&reads, 2}, three{&reads, 3};
  check([&] { return std::vector{three, one, two}; });
  check([&] { return std::forward_list{three, one, two}; });
  SinglePass<Lazy>::reads = 0;
  check([&] { return SinglePass(std::vector{three, one, two}); });
  CHECK(SinglePass<Lazy>::reads == 3);
  check([&] { return std::map<int, Lazy>{{1, one}, {2, two}, {3, three}, {4, one}}; });
  check([&] {
    return std::vector<std::pair<int, Lazy>>{{2, two}, {4, one}, {1, one}, {3, three}};
  });
}

TEST_CASE("DoMany: if a range breaks off, no key gets a value from it that may be another's") {
  Group<int, int> group;
  const auto results = DoMany(group, {3, 1}, [](std::span<const int>) { return Lost(); });
  CHECK_THROWS_WITH(*results[0], "connection lost");
  CHECK_THROWS_WITH(*results[1], "connection lost");
  CHECK(group.GetStats().in_flight == 0);
}

TEST_CASE("DoMany: values are moved only out of what fn gave away") {
  Group<int, Numbers> group;
  Numbers kept[] = {std::make_shared<int>(3), std::make_shared<int>(1)};
  static std::map<int, Numbers> map{{1, kept[1]}, {3, kept[0]}};
  const auto check = [&](auto fn) {
    const auto results = DoMany(group, {3, 1}, fn);
    CHECK(**results[0] == 3);
    CHECK(**results[1] == 1);
    CHECK(kept[0] != nullptr);
    CHECK(kept[1] != nullptr);
    CHECK(map[1] != nullptr);
  };
  check([&](std::span<const int>) { return Slice{kept}; });
  check([&](std::span<const int>) { return Source{kept}; });
  check([&](std::span<const int>) { return std::span(kept); });
  check([&](std::span<const int>) -> decltype(kept)& { return kept; });
  check([&](std::span<const int>) -> std::map<int, Numbers>& { return map; });
  check([&](std::span<const int>) {
    return std::vector<std::pair<int, Numbers&>>{{1, kept[1]}, {3, kept[0]}};
  });
  check([&](std::span<const int>) {
    return std::vector<std::tuple<int, Numbers&>>{{1, kept[1]}, {3, kept[0]}};
  });

  const std::weak_ptr<int> moved = [&] {
    const auto three = std::make_shared<int>(3);
    auto results = DoMany(group, {3}, [&](std::span<const int>) { return std::vector{three}; });
    CHECK(three.use_count() == 2);  // here and in the result
    return three;
  }();
  CHECK(moved.expired());
}

TEST_CASE("DoMany: values that can only be moved come out of any container that owns them") {
  Group<int, std::unique_ptr<int>> group;
  const auto check = [&](auto fn) {
    const auto results = DoMany(group, {3, 1}, fn);
    CHECK(**results[0] == 3);
    CHECK(**results[1] == 1);
  };
  check([](std::span<const int>) {
    std::vector<std::pair<int, std::unique_ptr<int>>> pairs;
    pairs.emplace_back(1, std::make_unique<int>(1));
    pairs.emplace_back(3, std::make_unique<int>(3));
    return pairs;
  });
  check([](std::span<const int>) {
    std::map<long, std::unique_ptr<int>> map;
    map[1] = std::make_unique<int>(1);
    map[3] = std::make_unique<int>(3);
    return map;
  });
}

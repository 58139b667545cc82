// SPDX-License-Identifier: MIT

// These tests show what a caller may give as a key, and how keys are hashed and compared.

#include <cctype>
#include <latch>
#include <string>
#include <version>
#if defined(__cpp_lib_memory_resource)
#include <memory_resource>
#endif

#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Group;

namespace {

// Returns whether a call led for `led_as` is found by `asked_as`.
template <class GroupLike, class Led, class Asked>
bool FindsSameCall(GroupLike& group, const Led& led_as, const Asked& asked_as) {
  bool met = false;
  static_cast<void>(group.Do(led_as, [&] {
    met = group.Callers(asked_as) == 1;
    return 0;
  }));
  return met;
}

struct TenantView {
  std::string_view name;
};
struct Tenant {
  explicit Tenant(const TenantView& view) : name(view.name) {}
  bool operator==(const Tenant&) const = default;
  std::string name;
};
struct TenantHash {
  using is_transparent = void;
  std::size_t operator()(const Tenant& key) const { return key.name.size(); }
};

}  // namespace

TEST_CASE(
    "A string key may be a string, a view, a pointer or a literal, and all find the same call") {
  Group<std::string, int> group;
  const std::string string = "key";
  const std::string_view view = "key";
  const char* pointer = "key";
  CHECK(FindsSameCall(group, string, view));
  CHECK(FindsSameCall(group, view, pointer));
  CHECK(FindsSameCall(group, pointer, "key"));
  CHECK(FindsSameCall(group, "key", string));
  CHECK(FindsSameCall(group, std::string("key"), "key"));
  CHECK_FALSE(FindsSameCall(group, "key", "kez"));
  CHECK_FALSE(FindsSameCall(group, std::string("key\0tail", 8), "key"));
  CHECK(FindsSameCall(group, std::string("key\0tail", 8), std::string_view("key\0tail", 8)));
  CHECK(FindsSameCall(group, "", std::string_view()));
}

TEST_CASE("Other string types can be keys as well") {
  Group<std::wstring, int> wide;
  CHECK(FindsSameCall(wide, L"key", std::wstring(L"key")));
#if defined(__cpp_lib_memory_resource)  // libc++ has it since version 16
  Group<std::pmr::string, int> pooled;
  CHECK(FindsSameCall(pooled, "key", std::pmr::string("key")));
#endif
}

TEST_CASE("A hash and an equality that take only strings are given strings") {
  struct IgnoreCase {
    std::size_t operator()(const std::string& key) const { return key.size(); }
    bool operator()(const std::string& a, const std::string& b) const {
      return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                        [](char x, char y) { return std::tolower(x) == std::tolower(y); });
    }
  };
  Group<std::string, int, IgnoreCase, IgnoreCase> group;
  CHECK(FindsSameCall(group, std::string("Key"), "kEY"));
  CHECK_FALSE(FindsSameCall(group, "Key", "Kez"));
}

TEST_CASE("A number may be given as a number of another type") {
  Group<std::uint64_t, int> group;
  CHECK(FindsSameCall(group, 42, std::uint64_t{42}));
  CHECK(FindsSameCall(group, 'a', 97u));
}

TEST_CASE("A key may be of any type with a hash and an equality") {
  struct Key {
    std::string tenant;
    int id;
    bool operator==(const Key&) const = default;
  };
  struct KeyHash {
    std::size_t operator()(const Key& key) const {
      return std::hash<std::string>()(key.tenant) + static_cast<std::size_t>(key.id);
    }
  };
  Group<Key, int, KeyHash> group;
  CHECK(*group.Do({"a", 1}, [&] { return static_cast<int>(group.Callers({"a", 1})); }) == 1);
  CHECK(FindsSameCall(group, Key{"a", 1}, Key{"a", 1}));
  CHECK_FALSE(FindsSameCall(group, Key{"a", 1}, Key{"b", 1}));
  CHECK_FALSE(FindsSameCall(group, Key{"a", 1}, Key{"a", 2}));
}

TEST_CASE(
    "With a transparent hash, a key may be given as anything that it can be constructed from") {
  Group<Tenant, int, TenantHash> group;
  CHECK(FindsSameCall(group, Tenant(TenantView{"a"}), TenantView{"a"}));
  CHECK_FALSE(FindsSameCall(group, TenantView{"a"}, TenantView{"b"}));
}

TEST_CASE("A key that is converted from another type lives as long as the call needs it") {
  Group<std::string, int> group;
  struct Convertible {
    operator std::string() const { return "a key that is too long for the small-string buffer"; }
  };
  CHECK(FindsSameCall(group, Convertible(), "a key that is too long for the small-string buffer"));
}

TEST_CASE("Two different numbers never become the same key") {
  Group<std::uint32_t, int> group;
  const auto fn = [] { return 1; };
  CHECK_THROWS_AS(static_cast<void>(group.Do(1LL + (1LL << 32), fn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do(-1, fn)), std::out_of_range);
  CHECK_THROWS_AS(static_cast<void>(group.Do(3.7, fn)), std::out_of_range);
  CHECK(*group.Do(3.0, fn) == 1);
  CHECK(*group.Do(~0U, fn) == 1);
}

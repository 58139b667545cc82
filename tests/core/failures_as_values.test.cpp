// SPDX-License-Identifier: MIT

// IsFailure and IsNotFound: a value may say that it is a failure, or that nothing was found.

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>
#include <version>

#include "support/catch.hpp"
#include "support/support.hpp"

#if defined(__cpp_lib_expected)
#include <expected>
#endif

using namespace test;
using singleflight::Group;
using singleflight::IsFailure;
using singleflight::IsNotFound;
using singleflight::OnFailure;
using singleflight::Role;
using singleflight::Stats;

namespace shop {

struct Reply {
  int status = 200;
};
inline bool IsFailure(const Reply& reply) { return reply.status >= 500; }
inline bool IsNotFound(const Reply& reply) { return reply.status == 404; }

// The answer to the question throws.
struct Unsure {
  int value = 0;
};
inline bool IsFailure(const Unsure&) { throw std::runtime_error("who knows"); }

template <class T>
struct Expected {
  std::optional<T> value;
};
template <class T>
bool IsFailure(const Expected<T>& expected) {
  return !expected.value;
}

// The answer is not a bool itself.
struct Vote {
  bool carried = false;
};
struct Verdict {
  bool failed = false;
  explicit operator bool() const { return failed; }
};
inline Verdict IsFailure(const Vote& vote) { return {!vote.carried}; }

// Can be made of anything, and says that all it is made of has failed.
struct Document {
  template <class T>
  explicit(false) Document(const T&) {}
};
inline bool IsFailure(const Document&) { return true; }
inline bool IsNotFound(const Document&) { return true; }
struct Page {  // can be made a Document, or a number
  operator Document() const { return Document(0); }
  operator int() const { return 0; }
};
// Converts to everything.
struct Clay {
  template <class T>
  operator T() const {
    return T();
  }
};

enum Color { kRed };
enum class Code { kOk, kDown };
inline bool IsFailure(int status) { return status == 0; }
inline bool IsFailure(Code code) { return code == Code::kDown; }
template <class Enum>
requires std::is_enum_v<Enum>
bool IsNotFound(Enum) { return true; }

struct DetailedReply : Reply {};

}  // namespace shop

namespace elsewhere {  // a namespace that is not ours

struct StatusOr {
  bool ok = false;
};
// Converts to bool, and compares with nullptr, as JSON types do.
struct Json {
  operator bool() const { throw std::domain_error("this is an object"); }
  bool operator==(std::nullptr_t) const { throw std::domain_error("this is an object"); }
};

}  // namespace elsewhere

template <>
struct singleflight::ValueTraits<elsewhere::StatusOr> {
  static bool IsFailure(const elsewhere::StatusOr& value) { return !value.ok; }
};

TEST_CASE("IsFailure: is declared in the value's namespace, or by ValueTraits, and else false") {
  CHECK(IsFailure(shop::Reply{500}));
  CHECK_FALSE(IsFailure(shop::Reply{200}));
  CHECK(IsFailure(shop::Expected<int>{}));
  CHECK_FALSE(IsFailure(shop::Expected<int>{1}));
  CHECK(IsFailure(elsewhere::StatusOr{false}));
  CHECK_FALSE(IsFailure(elsewhere::StatusOr{true}));
  CHECK_FALSE(IsFailure(0));
  CHECK_FALSE(IsFailure(false));
  CHECK_FALSE(IsFailure(std::string()));
  CHECK_FALSE(IsFailure(std::optional<int>()));
  CHECK_FALSE(IsFailure(elsewhere::Json()));
#if defined(__cpp_lib_expected)
  CHECK(IsFailure(std::expected<int, int>(std::unexpect, 1)));
  CHECK_FALSE(IsFailure(std::expected<int, int>(1)));
#endif
}

TEST_CASE("IsNotFound: is true of empty optionals and null pointers, and of what says so") {
  const std::unique_ptr<int> null_owner;
  int value = 0;
  CHECK(IsNotFound(std::optional<int>()));
  CHECK_FALSE(IsNotFound(std::optional<int>(0)));
  CHECK(IsNotFound(static_cast<int*>(nullptr)));
  CHECK_FALSE(IsNotFound(&value));
  CHECK(IsNotFound(std::shared_ptr<const int>()));
  CHECK(IsNotFound(null_owner));
  CHECK(IsNotFound(shop::Reply{404}));
  CHECK_FALSE(IsNotFound(shop::Reply{200}));
  CHECK_FALSE(IsNotFound(false));
  CHECK_FALSE(IsNotFound(0));
  CHECK_FALSE(IsNotFound(std::string()));
  CHECK_FALSE(IsNotFound(elsewhere::Json()));
}

TEST_CASE("IsFailure: may return what converts to bool explicitly") {
  CHECK(IsFailure(shop::Vote{false}));
  CHECK_FALSE(IsFailure(shop::Vote{true}));
}

TEST_CASE("IsFailure: is not asked of a class or a number that the value only converts to") {
  CHECK(IsFailure(shop::Document(1)));
  CHECK(IsNotFound(shop::Document(1)));
  CHECK_FALSE(IsFailure(std::vector<shop::Document>()));
  CHECK_FALSE(IsNotFound(std::vector<shop::Document>()));
  CHECK_FALSE(IsFailure(std::map<int, shop::Document>()));
  CHECK_FALSE(IsFailure(shop::Page()));
  CHECK_FALSE(IsNotFound(shop::Page()));
  CHECK_FALSE(IsFailure(shop::Clay()));
  CHECK_FALSE(IsNotFound(shop::Clay()));
  CHECK_FALSE(IsFailure(shop::kRed));
  CHECK(IsFailure(shop::Code::kDown));
  CHECK_FALSE(IsFailure(shop::Code::kOk));
  CHECK(IsNotFound(shop::kRed));  // by a template for all enumerations

  Group<int, std::vector<shop::Document>> group;
  CHECK(group.Do(1, [] { return std::vector<shop::Document>(); })->empty());
  CHECK(group.GetStats() == Stats{.executions = 1});
}

TEST_CASE("A class derived from one that says whether it failed says the same") {
  CHECK(IsFailure(shop::DetailedReply{{500}}));
  CHECK(IsNotFound(shop::DetailedReply{{404}}));
  CHECK_FALSE(IsFailure(shop::DetailedReply{}));
  struct Number : std::optional<int> {
    using optional::optional;
  };
  CHECK(IsNotFound(Number()));
  CHECK_FALSE(IsNotFound(Number(0)));
  struct Owner : std::unique_ptr<int> {};
  CHECK(IsNotFound(Owner()));
  struct Hidden : private std::optional<int> {};  // it is no optional to anybody else
  CHECK_FALSE(IsNotFound(Hidden()));
#if defined(__cpp_lib_expected)
  struct NumberOrCode : std::expected<int, int> {
    using expected::expected;
  };
  CHECK(IsFailure(NumberOrCode(std::unexpect, 1)));
  CHECK_FALSE(IsFailure(NumberOrCode(1)));
#endif
}

TEST_CASE("An optional that has a value says what the value says") {
  using Reply = std::optional<shop::Reply>;
  CHECK(IsFailure(Reply(shop::Reply{500})));
  CHECK(IsNotFound(Reply(shop::Reply{404})));
  CHECK_FALSE(IsFailure(Reply()));
  CHECK(IsNotFound(Reply()));
  CHECK_FALSE(IsFailure(Reply(shop::Reply{})));
  CHECK_FALSE(IsNotFound(Reply(shop::Reply{})));
  Group<int, Reply> group;
  CHECK((*group.Do(1, [] { return shop::Reply{503}; }))->status == 503);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
#if defined(__cpp_lib_expected)
  CHECK(IsFailure(std::optional<std::expected<int, int>>(std::unexpected(1))));
  CHECK(IsNotFound(std::expected<std::optional<int>, int>(std::nullopt)));
  CHECK(IsFailure(std::expected<shop::Reply, int>(shop::Reply{500})));
  CHECK_FALSE(IsFailure(std::expected<void, int>()));
#endif
}

TEST_CASE("A value that is a failure reaches all callers as it is, and counts as a failure") {
  Group<int, shop::Reply> group;
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 2);
      return shop::Reply{503};
    });
  });
  AwaitCallers(group, 1, 1);
  Caller follower([&] { return group.Do(1, [] { return shop::Reply{200}; }); });
  CHECK(leader.Join().value->status == 503);
  CHECK(follower.Join().value->status == 503);
  CHECK(group.Do(1, [] { return shop::Reply{500}; })->status == 500);
  CHECK(group.Do(1, [] { return shop::Reply{200}; })->status == 200);
  CHECK(group.GetStats() == Stats{.executions = 3, .followers = 1, .failures = 2});
}

TEST_CASE("A value that is a failure is retried by kRetry, once") {
  Group<int, shop::Reply> group;
  Caller leader([&] {
    return group.Do(1, [&] {
      AwaitCallers(group, 1, 3);
      return shop::Reply{503};
    });
  });
  AwaitCallers(group, 1, 1);
  std::atomic<int> runs = 0;
  const auto ask = [&] {
    return group.Do(1,
                    [&] {
                      ++runs;
                      return shop::Reply{504};
                    },
                    {.on_failure = OnFailure::kRetry});
  };
  Caller first(ask);
  Caller second(ask);
  CHECK(first.Join().value->status == 504);
  CHECK(second.Join().value->status == 504);
  CHECK(leader.Join().value->status == 503);
  CHECK(runs == 1);
}

TEST_CASE("A value that is a failure counts in calls that are led asynchronously, too") {
  Group<int, shop::Reply> group;
  CHECK(DoAsync(group, 1, [] { return shop::Reply{503}; }).Get()->status == 503);
  const auto load = [](std::span<const int> keys) {
    return std::vector<shop::Reply>(keys.size(), shop::Reply{500});
  };
  for (const auto& reply : DoMany(group, {2, 3}, load)) {
    REQUIRE(reply);
    CHECK(reply->status == 500);
  }
  CHECK(group.GetStats() == Stats{.executions = 3, .failures = 3});
}

TEST_CASE("A value whose IsFailure throws counts as a failure, and nothing escapes the landing") {
  Group<int, shop::Unsure> group;
  CHECK(group.Do(1, [] { return shop::Unsure{1}; })->value == 1);
  CHECK(DoAsync(group, 1, [] { return shop::Unsure{2}; }).Get()->value == 2);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

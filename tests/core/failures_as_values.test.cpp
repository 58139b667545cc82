// SPDX-License-Identifier: MIT

// IsFailure and IsNotFound: a value may say that it is a failure, or that nothing was found.

#include <atomic>
#include <memory>
#include <optional>
#include <string>
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

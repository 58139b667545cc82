// SPDX-License-Identifier: MIT
#pragma once

// What a caller gets: the call's value, whether others got it too, and which part the caller
// played.
//
//   auto [user, shared] = users.Do("user:42", Load);  // const User&, bool
//   const auto result = users.Do("user:42", Load);
//   Render(*result, result->name, result.role() == singleflight::Role::kLeader);
//   User mine = users.Do("user:42", Load).value();    // moves if alone, copies if shared
//
// A result that went to one caller holds the value itself. A shared one refers to the one value of
// its call, which lives as long as any of the call's results: a thousand callers of a call that
// returned a megabyte hold one megabyte. The value is therefore read through a const reference.

#include <concepts>
#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#if defined(__clang__)
#define SINGLEFLIGHT_LIFETIME_BOUND [[clang::lifetimebound]]  // warns of a dangling reference
#else
#define SINGLEFLIGHT_LIFETIME_BOUND
#endif

namespace singleflight {

// The leader is the caller for whose request `fn` was run; a follower joined its call.
enum class Role : unsigned char { kLeader, kFollower };

namespace detail {
struct ResultFactory;
}

// Copying a Result copies the value if the result is not shared, and no value if it is. Reading one
// Result from several threads is safe, as with any const object. One whose assignment threw,
// because the value's move did, may only be assigned again or destroyed.
template <class Value>
class [[nodiscard]] Result {
 public:
  // The value, never a copy. The reference is good as long as this Result, or any of the same call.
  const Value& value() const& noexcept SINGLEFLIGHT_LIFETIME_BOUND {
    const Value* alone = std::get_if<0>(&value_);
    return alone != nullptr ? *alone : **std::get_if<1>(&value_);
  }

  // The value itself: moved if this caller is alone, copied if the result is shared.
  Value value() && {
    static_assert(
        std::copy_constructible<Value>,
        "Result::value() && copies a value that is shared, and this Value cannot be copied: "
        "keep the Result and read it through *result or result.value()");
    if (Value* alone = std::get_if<0>(&value_)) return std::move(*alone);
    return **std::get_if<1>(&value_);
  }

  const Value& operator*() const& noexcept SINGLEFLIGHT_LIFETIME_BOUND { return value(); }
  const Value* operator->() const noexcept SINGLEFLIGHT_LIFETIME_BOUND {
    return std::addressof(value());
  }

  // True if the call's result was given to more than one caller. All of them read the same answer.
  bool shared() const noexcept { return value_.index() == 1; }
  Role role() const noexcept { return role_; }

  // For structured bindings: auto [value, shared].
  template <std::size_t Index>
  decltype(auto) get() const noexcept {
    if constexpr (Index == 0) {
      return value();
    } else {
      return shared();
    }
  }

 private:
  friend detail::ResultFactory;

  Result(Value&& alone, Role role)
      : value_(std::in_place_index<0>, std::move(alone)), role_(role) {}
  Result(std::shared_ptr<const Value> shared, Role role) noexcept
      : value_(std::in_place_index<1>, std::move(shared)), role_(role) {}

  std::variant<Value, std::shared_ptr<const Value>> value_;
  Role role_;
};

// The result of a call that has no value: it landed, and without an exception. May be dropped.
template <>
class Result<void> {
 public:
  void value() const noexcept {}
  void operator*() const noexcept {}
  bool shared() const noexcept { return shared_; }
  Role role() const noexcept { return role_; }

 private:
  friend detail::ResultFactory;

  Result(bool shared, Role role) noexcept : shared_(shared), role_(role) {}

  bool shared_;
  Role role_;
};

}  // namespace singleflight

template <class Value>
requires(!std::is_void_v<Value>) struct std::tuple_size<singleflight::Result<Value>>
    : std::integral_constant<std::size_t, 2> {
};

template <class Value>
struct std::tuple_element<0, singleflight::Result<Value>> {
  using type = const Value&;
};

template <class Value>
struct std::tuple_element<1, singleflight::Result<Value>> {
  using type = bool;
};

#undef SINGLEFLIGHT_LIFETIME_BOUND

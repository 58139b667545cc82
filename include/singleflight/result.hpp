// SPDX-License-Identifier: MIT
#pragma once

// Result: what a caller gets. The call's value, whether other callers got it too, and the caller's
// role.
//
//   auto [user, shared] = users.Do("user:42", Load);  // const User&, bool
//   const auto result = users.Do("user:42", Load);
//   Render(*result, result->name, result.role() == singleflight::Role::kLeader);
//   User mine = users.Do("user:42", Load).value();    // moves if alone, copies if shared
//
// A result that went to one caller holds the value itself. A shared result refers to the one value
// of its call, which lives as long as any of the call's results. A thousand callers of a call that
// returned a megabyte hold one megabyte. So the value is read through a const reference.
//
// Warning: the reference dangles once the Result is destroyed. Keep the Result:
//
//   const User& user = *users.Do("user:42", Load);  // wrong: the Result is a temporary
//   const auto user = users.Do("user:42", Load);    // right: use *user and user->name

#include <concepts>
#include <cstddef>
#include <memory>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "detail/lifetime_bound.hpp"
#include "detail/requirements.hpp"

namespace singleflight {

// The leader is the caller whose `fn` was run. A follower joined its call.
enum class Role : unsigned char { kLeader, kFollower };

namespace detail {
struct ResultFactory;
}

// Copying a Result copies the value if the result is not shared, and no value if it is.
//
// Thread: reading one Result on several threads is safe, as with any const object.
// Errors: a Result whose assignment threw, because the value's copy or move did, may only be
//   assigned to or destroyed.
template <class Value>
class [[nodiscard]] Result {
 public:
  // Returns the value, without a copy.
  //
  // Lifetime: the reference is valid until this Result is destroyed or assigned to. That of a
  //   shared result is valid as long as any Result of the call.
  const Value& value() const& noexcept SINGLEFLIGHT_LIFETIME_BOUND {
    const Value* alone = std::get_if<0>(&value_);
    return alone != nullptr ? *alone : **std::get_if<1>(&value_);
  }

  // Returns the value itself: moved if this caller is alone, copied if the result is shared. If it
  // was moved, what remains in this Result must not be relied on.
  //
  // Errors: throws what the value's move or copy throws.
  Value value() && {
    static_assert(
        std::copy_constructible<Value>,
        "Result::value() && copies a value that is shared, and this Value cannot be copied: "
        "keep the Result and read it through *result or result.value()");
    if (Value* alone = std::get_if<0>(&value_)) return std::move(*alone);
    return **std::get_if<1>(&value_);
  }

  // Like value() const&.
  const Value& operator*() const& noexcept SINGLEFLIGHT_LIFETIME_BOUND { return value(); }
  const Value* operator->() const noexcept SINGLEFLIGHT_LIFETIME_BOUND {
    return std::addressof(value());
  }

  // True if the call's result was given to more than one caller. All of them see the same answer.
  bool shared() const noexcept { return value_.index() == 1; }
  // Returns whether this caller led the call or followed it.
  Role role() const noexcept { return role_; }

  // Lets structured bindings work: auto [value, shared].
  template <std::size_t Index>
  decltype(auto) get() const noexcept {
    if constexpr (Index == 0) {
      return value();
    } else {
      return shared();
    }
  }

  void operator co_await() const = delete;  // Do blocks: write co_await CoDo(group, key, fn)

 private:
  friend detail::ResultFactory;

  Result(Value&& alone, Role role)
      : value_(std::in_place_index<0>, std::move(alone)), role_(role) {}
  Result(std::shared_ptr<const Value> shared, Role role) noexcept
      : value_(std::in_place_index<1>, std::move(shared)), role_(role) {}

  std::variant<Value, std::shared_ptr<const Value>> value_;
  Role role_;
};

// The result of a call that has no value: the call landed without an exception. It may be
// discarded.
template <>
class Result<void> {
 public:
  void value() const noexcept {}
  void operator*() const noexcept {}
  bool shared() const noexcept { return shared_; }
  Role role() const noexcept { return role_; }

  void operator co_await() const = delete;  // Do blocks: write co_await CoDo(group, key, fn)

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

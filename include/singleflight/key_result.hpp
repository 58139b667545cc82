// SPDX-License-Identifier: MIT
#pragma once

// KeyResult: a Result, or an error. It is what DoMany returns for each key of a batch, and what
// DoThen gives to its callback.
//
//   for (const auto& user : singleflight::DoMany(users, ids, load_missing)) {
//     if (user) {
//       Render(user->name);
//     } else {
//       Log(user.error());
//     }
//   }

#include <cstddef>
#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "detail/lifetime_bound.hpp"
#include "result.hpp"

namespace singleflight {

namespace detail {
template <class G>
class Batch;
template <class Value>
class AsyncCaller;
}  // namespace detail

// Reads like a Result. If there is none, reading throws that key's error.
//
// Thread, Lifetime: as for a Result.
template <class Value>
class [[nodiscard]] KeyResult {
 public:
  // True if there is a result.
  explicit operator bool() const noexcept { return outcome_.index() == 1; }
  // Null if there is a result.
  std::exception_ptr error() const noexcept {
    const auto* error = std::get_if<0>(&outcome_);
    return error != nullptr ? *error : nullptr;
  }

  const Result<Value>& result() const& SINGLEFLIGHT_LIFETIME_BOUND {
    ThrowIfFailed();
    return *std::get_if<1>(&outcome_);
  }
  Result<Value> result() && {
    ThrowIfFailed();
    return std::move(*std::get_if<1>(&outcome_));
  }

  // Like those of Result.
  decltype(auto) value() const& SINGLEFLIGHT_LIFETIME_BOUND { return result().value(); }
  decltype(auto) value() && { return std::move(*this).result().value(); }
  decltype(auto) operator*() const& SINGLEFLIGHT_LIFETIME_BOUND { return *result(); }
  auto operator->() const SINGLEFLIGHT_LIFETIME_BOUND requires(!std::is_void_v<Value>) {
    return result().operator->();
  }
  bool shared() const { return result().shared(); }
  Role role() const { return result().role(); }

  template <std::size_t Index>
  decltype(auto) get() const {
    return result().template get<Index>();
  }

 private:
  template <class G>
  friend class detail::Batch;
  friend detail::AsyncCaller<Value>;

  explicit KeyResult(std::exception_ptr error) noexcept
      : outcome_(std::in_place_index<0>, std::move(error)) {}
  explicit KeyResult(Result<Value>&& result)
      : outcome_(std::in_place_index<1>, std::move(result)) {}

  void ThrowIfFailed() const {
    if (const auto* error = std::get_if<0>(&outcome_)) std::rethrow_exception(*error);
  }

  std::variant<std::exception_ptr, Result<Value>> outcome_;
};

}  // namespace singleflight

template <class Value>
requires(!std::is_void_v<Value>) struct std::tuple_size<singleflight::KeyResult<Value>>
    : std::integral_constant<std::size_t, 2> {
};

template <std::size_t Index, class Value>
struct std::tuple_element<Index, singleflight::KeyResult<Value>>
    : std::tuple_element<Index, singleflight::Result<Value>> {};

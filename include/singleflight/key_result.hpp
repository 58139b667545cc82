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
//
// A batch's function may return KeyResults, too, if single keys can fail:
//
//   std::vector<singleflight::KeyResult<User>> LoadMissing(std::span<const int> ids) {
//     std::vector<singleflight::KeyResult<User>> users;
//     for (const Row& row : db.Select(ids)) {
//       if (row.ok) {
//         users.push_back(Parse(row));  // a User
//       } else {
//         users.push_back(singleflight::KeyResult<User>::Failure(row.exception));
//       }
//     }
//     return users;
//   }

#include <cstddef>
#include <exception>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "detail/lifetime_bound.hpp"
#include "detail/outcome.hpp"
#include "result.hpp"

namespace singleflight {

// Reads like a Result. If there is none, reading throws that key's error.
//
// Thread, Lifetime: as for a Result.
template <class Value>
class [[nodiscard]] KeyResult {
 public:
  // Holds a result. A value alone is one that is not shared(), and whose role() is kLeader.
  // NOLINTBEGIN(google-explicit-constructor): as std::expected does
  KeyResult(Result<Value> result) : outcome_(std::in_place_index<1>, std::move(result)) {}
  KeyResult(detail::Stored<Value> value) requires(!std::is_void_v<Value>)
      : KeyResult(detail::ResultFactory::Alone<Value>(std::move(value), Role::kLeader)) {}
  // NOLINTEND(google-explicit-constructor)
  KeyResult() requires std::is_void_v<Value>
      : KeyResult(detail::ResultFactory::Alone<Value>({}, Role::kLeader)) {}
  // Holds an error. A null one stands for `owner_dead`.
  static KeyResult Failure(std::exception_ptr error) noexcept {
    return KeyResult(Failed{error != nullptr ? std::move(error) : detail::MakeOwnerDead()});
  }

  // True if there is a result.
  explicit operator bool() const noexcept { return has_value(); }
  bool has_value() const noexcept { return outcome_.index() == 1; }
  // Null if there is a result.
  std::exception_ptr error() const noexcept {
    const auto* failed = std::get_if<0>(&outcome_);
    return failed != nullptr ? failed->error : nullptr;
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
  struct Failed {  // never null. A type of its own, so that Value may be std::exception_ptr
    std::exception_ptr error;
  };

  explicit KeyResult(Failed failed) noexcept
      : outcome_(std::in_place_index<0>, std::move(failed)) {}

  void ThrowIfFailed() const {
    if (const auto* failed = std::get_if<0>(&outcome_)) std::rethrow_exception(failed->error);
  }

  std::variant<Failed, Result<Value>> outcome_;
};

}  // namespace singleflight

template <class Value>
requires(!std::is_void_v<Value>) struct std::tuple_size<singleflight::KeyResult<Value>>
    : std::integral_constant<std::size_t, 2> {
};

template <std::size_t Index, class Value>
struct std::tuple_element<Index, singleflight::KeyResult<Value>>
    : std::tuple_element<Index, singleflight::Result<Value>> {};

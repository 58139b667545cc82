// SPDX-License-Identifier: MIT
#pragma once

// How a call landed, and how a caller's Result is made from that.

#include <exception>
#include <memory>
#include <type_traits>
#include <utility>
#include <variant>

#include "../result.hpp"
#include "../value_traits.hpp"
#include "errors.hpp"

namespace singleflight::detail {

// How a Value is stored: as std::monostate if it is void.
template <class Value>
using Stored = std::conditional_t<std::is_void_v<Value>, std::monostate, Value>;

// How a call landed. Index 0: with an exception, which is null if the leader vanished. Index 1:
// with a value.
template <class Value>
using Outcome = std::variant<std::exception_ptr, Stored<Value>>;

template <class Value>
bool Threw(const Outcome<Value>& outcome) noexcept {
  return outcome.index() != 1;
}

// Whether a call landed with an exception, or with a value that says that it is a failure. A value
// that throws when it is asked counts as one.
template <class Value>
bool Failed(const Outcome<Value>& outcome) noexcept {
  if constexpr (kCanFail<Stored<Value>>) {
    try {
      if (const auto* value = std::get_if<1>(&outcome)) return singleflight::IsFailure(*value);
    } catch (...) {
      return true;
    }
  }
  return detail::Threw<Value>(outcome);
}

// The error of an outcome that threw. Never null.
template <class Value>
std::exception_ptr ErrorOf(const Outcome<Value>& outcome) {
  if (const auto* error = std::get_if<0>(&outcome); error != nullptr && *error != nullptr) {
    return *error;
  }
  return MakeOwnerDead();
}

struct ResultFactory {
  template <class Value>
  static Result<Value> Alone(Stored<Value>&& value, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(false, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  template <class Value>
  static Result<Value> Shared(std::shared_ptr<const Stored<Value>> value, Role role) noexcept {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(true, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  // A placeholder beside an error: there is nothing in it to read.
  template <class Value>
  static Result<Value> Empty(Role role) noexcept {
    return Shared<Value>(nullptr, role);
  }

  // Takes the value out, for the only caller of a call. Throws if the call failed.
  template <class Value>
  static Result<Value> Take(Outcome<Value>& outcome, Role role) {
    if (detail::Threw<Value>(outcome)) std::rethrow_exception(detail::ErrorOf<Value>(outcome));
    return Alone<Value>(std::move(*std::get_if<1>(&outcome)), role);
  }

  // The same result, corrected by a caller that knows who else received it.
  template <class Value>
  static Result<Value> As(Result<Value>&& result, bool shared, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(shared || result.shared(), role);
    } else {
      if (Value* const alone = std::get_if<0>(&result.value_)) {
        return shared ? Shared<Value>(std::make_shared<const Value>(std::move(*alone)), role)
                      : Alone<Value>(std::move(*alone), role);
      }
      return Shared<Value>(std::move(*std::get_if<1>(&result.value_)), role);
    }
  }
};

}  // namespace singleflight::detail

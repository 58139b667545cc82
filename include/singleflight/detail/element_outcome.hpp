// SPDX-License-Identifier: MIT
#pragma once

// How one element of what a batch's `fn` returned becomes the outcome of one key: a value, an
// object that holds a value or an error, or, for a group of void, only an error.

#include <concepts>
#include <exception>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "../value_traits.hpp"
#include "errors.hpp"
#include "outcome.hpp"

namespace singleflight {

template <class T>
class Cached;
template <class Value>
class KeyResult;

namespace detail {

// Whether a load has returned its value with what it says of it: see read_through_options.hpp.
template <class T>
inline constexpr bool kIsCached = false;
template <class T>
inline constexpr bool kIsCached<Cached<T>> = true;

template <class T>
inline constexpr bool kIsKeyResult = false;
template <class Value>
inline constexpr bool kIsKeyResult<KeyResult<Value>> = true;

// Holds a value or an error, and can tell which, as std::expected and KeyResult can.
template <class T>
concept ExpectedLike = requires(T&& expected) {
  static_cast<bool>(expected.has_value());
  std::forward<T>(expected).error();
};

// May hold an exception in place of an error, as Boost.Outcome's outcome can.
template <class T>
concept MayHoldException = requires(T&& expected) {
  static_cast<bool>(expected.has_exception());
  std::forward<T>(expected).exception();
};

// The value of an expected-like that has one. A KeyResult's is moved out if the result is not
// shared. One that is shared and cannot be copied is an error of its key.
template <class T>
decltype(auto) ValueOf(T&& expected) {
  using Element = std::remove_cvref_t<T>;
  if constexpr (kIsKeyResult<Element>) {
    using Value = std::remove_cvref_t<decltype(*expected)>;
    if constexpr (std::copy_constructible<Value>) {
      return std::forward<T>(expected).value();
    } else if constexpr (std::same_as<T, Element>) {  // an rvalue
      return ResultFactory::TakeAlone(std::forward<T>(expected).result());
    } else {
      return *expected;
    }
  } else if constexpr (requires { *std::forward<T>(expected); }) {
    return *std::forward<T>(expected);
  } else if constexpr (requires { std::forward<T>(expected).value(); }) {
    return std::forward<T>(expected).value();
  }
}

// Whether what `fn` returned to a group of void is known to be, or to hold, an error. An int or a
// bool may mean one, too. Nothing says so, and it is ignored.
template <class T>
constexpr bool MayBeError() {
  if constexpr (std::is_void_v<T>) {
    return false;
  } else {
    using Plain = std::remove_cvref_t<T>;
    return ExpectedLike<T> || kCanFail<Plain> ||
           std::convertible_to<const Plain*, const std::exception*> ||
           std::same_as<Plain, std::exception_ptr> ||
           std::convertible_to<const Plain*, const std::error_code*> ||
           std::convertible_to<const Plain*, const std::error_condition*> ||
           std::is_error_code_enum_v<Plain> || std::is_error_condition_enum_v<Plain>;
  }
}

// Refuses an error that would be dropped.
template <class Value, class Returned>
constexpr void CheckDropped() {
  if constexpr (std::is_void_v<Value>) {
    static_assert(!MayBeError<Returned>(),
                  "the group's Value is void, so the error that fn may return would be dropped: "
                  "throw it, or make what fn returns the group's Value");
  }
}

// Whether a call would take an element for a Value, or for what holds one, and lose what a Cached
// says of it. A std::any, for example, would swallow it.
template <class Value, class Element>
constexpr bool IsOrHoldsCached() {
  using T = std::remove_cvref_t<Element>;
  if constexpr (std::is_void_v<Element> || std::same_as<T, Value>) {
    return false;
  } else if constexpr (!kIsCached<T> && ExpectedLike<Element>) {
    using Held = std::remove_cvref_t<decltype(detail::ValueOf(std::declval<Element>()))>;
    return kIsCached<Held> && !std::same_as<Held, Value>;
  } else {
    return kIsCached<T>;
  }
}

// Refuses what an `fn` that is awaited returned, if that is lost.
template <class Value, class Awaited>
constexpr void CheckAwaited() {
  detail::CheckDropped<Value, Awaited>();
  static_assert(!detail::IsOrHoldsCached<Value, Awaited>(),
                "a load that is awaited cannot return Cached: let it return the Value itself");
}

// What an element is for a group of this Value. kNone: nothing that can be used.
enum class ElementKind { kNone, kValue, kExpected, kError };

// `Element` is an lvalue or rvalue reference. An object that holds a value or an error is not
// converted to the Value as a whole, unless the Value is such an object, too: a std::any would
// swallow the error.
template <class Value, class Element>
constexpr ElementKind KindOfElement() {
  using T = std::remove_cvref_t<Element>;
  if constexpr (std::is_void_v<Value>) {
    return std::same_as<T, std::exception_ptr> ? ElementKind::kError
           : ExpectedLike<Element>             ? ElementKind::kExpected
                                               : ElementKind::kNone;
  } else if constexpr (std::same_as<T, Value> || !ExpectedLike<Element> ||
                       (ExpectedLike<Value> && std::convertible_to<Element, Value>)) {
    return std::convertible_to<Element, Value> ? ElementKind::kValue : ElementKind::kNone;
  } else {
    using Held = decltype(detail::ValueOf(std::declval<Element>()));
    return std::convertible_to<Held, Value> ? ElementKind::kExpected : ElementKind::kNone;
  }
}

template <class Value, class Element>
concept ElementFor = KindOfElement<Value, Element&&>()
!= ElementKind::kNone;

// Makes an exception_ptr from the error that an element holds.
template <class Error>
std::exception_ptr ToException(Error&& error) {
  using Kind = std::decay_t<Error>;
  if constexpr (std::same_as<Kind, std::exception_ptr>) {
    if (error != nullptr) return std::forward<Error>(error);
    return MakeError(std::errc::no_message,
                     "singleflight: fn of a batch returned neither a value nor an error");
  } else if constexpr (std::same_as<Kind, std::error_code>) {
    return std::make_exception_ptr(std::system_error(error));
  } else {
    static_assert(
        std::constructible_from<Kind, Error>,
        "an error that fn returned is thrown as it is, so it must be possible to move it, "
        "or to copy it if fn keeps it");
    if constexpr (std::copy_constructible<Kind>) {
      return std::make_exception_ptr<Kind>(std::forward<Error>(error));
    } else {
      try {
        throw Kind(std::forward<Error>(error));
      } catch (...) {
        return Caught();
      }
    }
  }
}

// Throws what reading or converting the element throws.
template <class Value, class Element>
Outcome<Value> ToOutcome(Element&& element) {
  constexpr ElementKind kKind = KindOfElement<Value, Element&&>();
  if constexpr (kKind == ElementKind::kValue) {
    return Outcome<Value>(std::in_place, std::forward<Element>(element));
  } else if constexpr (kKind == ElementKind::kExpected) {
    if (!static_cast<bool>(element.has_value())) {
      if constexpr (MayHoldException<Element>) {
        if (static_cast<bool>(element.has_exception())) {
          return Outcome<Value>(detail::ToException(std::forward<Element>(element).exception()));
        }
      }
      return Outcome<Value>(detail::ToException(std::forward<Element>(element).error()));
    }
    if constexpr (std::is_void_v<Value>) {
      return Outcome<Value>(std::in_place);
    } else {
      return Outcome<Value>(std::in_place, detail::ValueOf(std::forward<Element>(element)));
    }
  } else {
    static_assert(kKind == ElementKind::kError);
    if (element == nullptr) return Outcome<Value>(std::in_place);
    return Outcome<Value>(std::forward<Element>(element));
  }
}

}  // namespace detail

}  // namespace singleflight

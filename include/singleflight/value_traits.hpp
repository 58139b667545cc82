// SPDX-License-Identifier: MIT
#pragma once

// IsFailure and IsNotFound: what a value says about itself.
//
// A function may return its failure instead of throwing it, and may return that there is nothing to
// be found. The library knows this of a few standard types. For your own, declare a function in the
// type's namespace:
//
//   namespace shop {
//   struct Reply { int status; std::string body; };
//   inline bool IsFailure(const Reply& reply) { return reply.status >= 500; }
//   inline bool IsNotFound(const Reply& reply) { return reply.status == 404; }
//   }
//
// For a type whose namespace is not yours, specialize ValueTraits:
//
//   template <class T>
//   struct singleflight::ValueTraits<absl::StatusOr<T>> {
//     static bool IsFailure(const absl::StatusOr<T>& value) { return !value.ok(); }
//   };
//
// A failure counts in Stats::failures, is retried by OnFailure::kRetry, and is not put into a
// cache. It still reaches the callers as it is. Nothing is concluded from a conversion to bool or
// from a comparison with nullptr.
//
// Thread: both are called on the thread that lands the call, with no lock held.
// Errors: a value whose IsFailure or IsNotFound throws counts as a failure.

#include <concepts>
#include <memory>
#include <optional>
#include <type_traits>
#include <version>

#include "detail/requirements.hpp"

#if defined(__cpp_lib_expected)
#include <expected>
#endif

namespace singleflight {

// Specialize it with one or both of
//   static bool IsFailure(const Value&);
//   static bool IsNotFound(const Value&);
template <class Value>
struct ValueTraits {};

namespace detail {

// What the standard types say.
template <class Value>
struct StandardTraits {};

template <class Value>
struct StandardTraits<std::optional<Value>> {
  static bool IsNotFound(const std::optional<Value>& value) noexcept { return !value.has_value(); }
};
template <class Pointee>
struct StandardTraits<Pointee*> {
  static bool IsNotFound(Pointee* value) noexcept { return value == nullptr; }
};
template <class Pointee, class Deleter>
struct StandardTraits<std::unique_ptr<Pointee, Deleter>> {
  static bool IsNotFound(const std::unique_ptr<Pointee, Deleter>& value) noexcept {
    return value == nullptr;
  }
};
template <class Pointee>
struct StandardTraits<std::shared_ptr<Pointee>> {
  static bool IsNotFound(const std::shared_ptr<Pointee>& value) noexcept {
    return value == nullptr;
  }
};
#if defined(__cpp_lib_expected)
template <class Value, class Error>
struct StandardTraits<std::expected<Value, Error>> {
  static bool IsFailure(const std::expected<Value, Error>& value) noexcept {
    return !value.has_value();
  }
};
#endif

namespace customization {

// Found by ordinary lookup, so that only functions in the value's own namespace are considered.
void IsFailure() = delete;
void IsNotFound() = delete;

template <class Value>
concept HasIsFailure = requires(const Value& value) {
  { IsFailure(value) } -> std::convertible_to<bool>;
};
template <class Value>
concept HasIsNotFound = requires(const Value& value) {
  { IsNotFound(value) } -> std::convertible_to<bool>;
};

struct IsFailureFn {
  template <class Value>
  static constexpr bool kCanSay = HasIsFailure<Value> || requires(const Value& value) {
    ValueTraits<Value>::IsFailure(value);
  }
  || requires(const Value& value) { StandardTraits<Value>::IsFailure(value); };

  template <class Value>
  constexpr bool operator()(const Value& value) const {
    if constexpr (requires { ValueTraits<Value>::IsFailure(value); }) {
      return static_cast<bool>(ValueTraits<Value>::IsFailure(value));
    } else if constexpr (HasIsFailure<Value>) {
      return static_cast<bool>(IsFailure(value));
    } else if constexpr (requires { StandardTraits<Value>::IsFailure(value); }) {
      return StandardTraits<Value>::IsFailure(value);
    } else {
      return false;
    }
  }
};

struct IsNotFoundFn {
  template <class Value>
  static constexpr bool kCanSay = HasIsNotFound<Value> || requires(const Value& value) {
    ValueTraits<Value>::IsNotFound(value);
  }
  || requires(const Value& value) { StandardTraits<Value>::IsNotFound(value); };

  template <class Value>
  constexpr bool operator()(const Value& value) const {
    if constexpr (requires { ValueTraits<Value>::IsNotFound(value); }) {
      return static_cast<bool>(ValueTraits<Value>::IsNotFound(value));
    } else if constexpr (HasIsNotFound<Value>) {
      return static_cast<bool>(IsNotFound(value));
    } else if constexpr (requires { StandardTraits<Value>::IsNotFound(value); }) {
      return StandardTraits<Value>::IsNotFound(value);
    } else {
      return false;
    }
  }
};

}  // namespace customization
}  // namespace detail

// Returns whether a value says that it is a failure. By default only a std::expected without a
// value does.
inline constexpr detail::customization::IsFailureFn IsFailure;

// Returns whether a value says that there is nothing to be found. By default an empty std::optional
// and a null pointer do: T*, std::unique_ptr or std::shared_ptr.
inline constexpr detail::customization::IsNotFoundFn IsNotFound;

namespace detail {

template <class Value>
inline constexpr bool kCanFail = customization::IsFailureFn::kCanSay<Value>;
template <class Value>
inline constexpr bool kCanBeNotFound = customization::IsNotFoundFn::kCanSay<Value>;

}  // namespace detail

}  // namespace singleflight

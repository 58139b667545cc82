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
// A function is asked only about its own type and classes derived from that, never through another
// conversion. (A pointer is the exception: it may be converted to another pointer, or to bool.)
// ValueTraits is asked first, and only about the type that it is specialized for. A class derived
// from a standard type says what that type says, unless it has a function of its own.
//
// A function that is declared and cannot be asked is refused: if it takes a Value&, for example, or
// is deleted or ambiguous.
//
// **Warning:** some declarations cannot be seen, and then the values never fail: a member function
// or a function object, a function in another namespace than the type's, one that is declared after
// the type's first use, and an unusable one in a `final` ValueTraits. Check with a test that
// singleflight::IsFailure is true of a failure.
//
// A failure counts in Stats::failures, is retried by OnFailure::kRetry, and is not put into a
// cache. It still reaches the callers as it is. Nothing is concluded from a conversion to bool or
// from a comparison with nullptr.
//
// Thread: both are called on the thread that lands the call, with no lock held.
// Errors: a value whose IsFailure throws counts as a failure. One whose IsNotFound throws is not
// put.

#include <concepts>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
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

namespace detail::customization {

// A declared function need not return bool itself.
template <class Answer>
concept Answers = std::constructible_from<bool, Answer>;

// ---- The functions of the value's namespace
//
// Argument-dependent lookup finds them. The functions below compete with them, and hide the names
// outside.

struct NotDeclared {};

// Only to see what is there. A function for the Value itself wins, so the call is not possible if
// it is deleted or if there are two. Every other function loses. With a Through<Value>, those for
// its bases win, too, but templates are not found.
template <class Value>
struct Through {
  operator const Value&() const;  // NOLINT(google-explicit-constructor)
};
template <class T>
inline constexpr bool kIsThrough = false;
template <class Value>
inline constexpr bool kIsThrough<Through<Value>> = true;

namespace exact {
NotDeclared IsFailure(...);
NotDeclared IsNotFound(...);
template <class T, class... None>
requires(!kIsThrough<T>) NotDeclared IsFailure(const volatile T&, None...);
template <class T, class... None>
requires(!kIsThrough<T>) NotDeclared IsNotFound(const volatile T&, None...);

struct Failure {
  template <class T>
  static auto Ask(T&& value) -> decltype(IsFailure(std::forward<T>(value)));
};
struct NotFound {
  template <class T>
  static auto Ask(T&& value) -> decltype(IsNotFound(std::forward<T>(value)));
};
}  // namespace exact

// For the question itself. Somebody else's function is not asked through a conversion: that of
// shop::Json says nothing about a std::vector<shop::Json>, although a Json can be made of one. Each
// function here loses to one that takes the value itself or a base of it.
namespace without_conversions {
// As good as any conversion to or by a class: the call is ambiguous. The volatile lets a value that
// converts to everything convert to this, too.
struct Anything {
  template <class T>
  Anything(const volatile T&);  // NOLINT(google-explicit-constructor)
  template <class T>
  Anything(const volatile T&&);  // NOLINT(google-explicit-constructor)
};
NotDeclared IsFailure(Anything);
NotDeclared IsNotFound(Anything);
// Better than the conversion of an enumerator to a number, worse than any function for the type.
template <class Enum, class... None>
requires(std::is_enum_v<Enum>) NotDeclared IsFailure(const volatile Enum&, None...);
template <class Enum, class... None>
requires(std::is_enum_v<Enum>) NotDeclared IsNotFound(const volatile Enum&, None...);

struct Failure {
  template <class T>
  static constexpr auto Ask(T&& value) -> decltype(IsFailure(std::forward<T>(value))) {
    return IsFailure(std::forward<T>(value));
  }
};
struct NotFound {
  template <class T>
  static constexpr auto Ask(T&& value) -> decltype(IsNotFound(std::forward<T>(value))) {
    return IsNotFound(std::forward<T>(value));
  }
};
}  // namespace without_conversions

template <class Functions, class T>
concept CanAsk = requires(T&& value) {
  Functions::Ask(std::forward<T>(value));
};
template <class Functions, class T>
concept Declares =
    CanAsk<Functions, T> && !std::same_as<decltype(Functions::Ask(std::declval<T>())), NotDeclared>;

// ---- What is asked

enum class Source { kNothing, kTraits, kFunction, kStandard, kUnusableTraits, kUnusableFunction };

template <class Question, class Value>
constexpr Source SourceOf() {
  using Functions = typename Question::Functions;
  if constexpr (requires(const Value& value) {
                  { Question::template AskTraits<Value>(value) } -> Answers;
                }) {
    return Source::kTraits;
  } else if constexpr (Question::template IsInTraits<Value>()) {
    return Source::kUnusableTraits;
  } else if constexpr (Declares<Functions, const Value&>) {
    return Answers<decltype(Functions::Ask(std::declval<const Value&>()))>
               ? Source::kFunction
               : Source::kUnusableFunction;
  } else if constexpr (Declares<Functions, Value&> ||
                       (Declares<Functions, Value> && !std::is_enum_v<Value>)) {  // NOLINT
    return Source::kUnusableFunction;  // it does not take a const one
  } else if constexpr (std::convertible_to<const Value&, without_conversions::Anything> &&
                       !CanAsk<Functions, const Value&> &&
                       !(CanAsk<typename Question::Exact, const Value&> &&
                         CanAsk<typename Question::Exact, const Through<Value>&>)) {
    return Source::kUnusableFunction;  // it is deleted, or there are two
  } else if constexpr (requires(const Value& value) { Question::Standard(value); }) {
    return Source::kStandard;
  } else {
    return Source::kNothing;
  }
}

template <class Question, class Value>
constexpr Source CheckedSourceOf() {
  constexpr Source kSource = SourceOf<Question, Value>();
  static_assert(kSource != Source::kUnusableTraits,
                "the specialization of ValueTraits declares an IsFailure or IsNotFound that cannot "
                "be asked: make it a public static function of a const Value& that returns bool");
  static_assert(kSource != Source::kUnusableFunction,
                "IsFailure or IsNotFound is declared for this Value and cannot be asked: let one "
                "function take a const Value& and return bool, or specialize ValueTraits");
  return kSource;
}

template <class Question, class Value>
constexpr bool Answer(const Value& value) {
  constexpr Source kSource = customization::CheckedSourceOf<Question, Value>();
  if constexpr (kSource == Source::kTraits) {
    return static_cast<bool>(Question::template AskTraits<Value>(value));
  } else if constexpr (kSource == Source::kFunction) {
    return static_cast<bool>(Question::Functions::Ask(value));
  } else if constexpr (kSource == Source::kStandard) {
    return Question::Standard(value);
  } else {
    return false;
  }
}

template <class Question, class Value>
inline constexpr bool kCanSay =
    customization::CheckedSourceOf<Question, Value>() != Source::kNothing;
template <class Question>
inline constexpr bool kCanSay<Question, void> = false;  // that of a std::expected<void, Error>

// Whether ValueTraits<Value> has a member of a name, also one that cannot be used: a lookup in two
// bases that both have one is ambiguous. A final class cannot be a base, and is not looked into.
template <class Value, class Names>
struct TraitsAnd : ValueTraits<Value>, Names {};
template <class Value>
concept HasOpenTraits = std::is_class_v<ValueTraits<Value>> && !std::is_final_v<ValueTraits<Value>>;

// What the standard types say, and classes derived from them.
struct FailureQuestion {
  using Functions = without_conversions::Failure;
  using Exact = exact::Failure;

  template <class Value>
  static constexpr auto AskTraits(const Value& value)
      -> decltype(ValueTraits<Value>::IsFailure(value)) {
    return ValueTraits<Value>::IsFailure(value);
  }
  struct Names {
    static void IsFailure();
  };
  template <class Value>
  static constexpr bool IsInTraits() {
    if constexpr (HasOpenTraits<Value>) {
      return !requires { &TraitsAnd<Value, Names>::IsFailure; };
    } else {
      return false;
    }
  }

  template <class Value>
  requires kCanSay<FailureQuestion, Value>
  static constexpr bool Standard(const std::optional<Value>& value) {
    return value.has_value() && customization::Answer<FailureQuestion>(*value);
  }
#if defined(__cpp_lib_expected)
  template <class Value, class Error>
  static constexpr bool Standard(const std::expected<Value, Error>& value) {
    if constexpr (!std::is_void_v<Value>) {
      if (value.has_value()) return customization::Answer<FailureQuestion>(*value);
    }
    return !value.has_value();
  }
#endif
};

struct NotFoundQuestion {
  using Functions = without_conversions::NotFound;
  using Exact = exact::NotFound;

  template <class Value>
  static constexpr auto AskTraits(const Value& value)
      -> decltype(ValueTraits<Value>::IsNotFound(value)) {
    return ValueTraits<Value>::IsNotFound(value);
  }
  struct Names {
    static void IsNotFound();
  };
  template <class Value>
  static constexpr bool IsInTraits() {
    if constexpr (HasOpenTraits<Value>) {
      return !requires { &TraitsAnd<Value, Names>::IsNotFound; };
    } else {
      return false;
    }
  }

  template <class Value>
  static constexpr bool Standard(const std::optional<Value>& value) {
    return !value.has_value() || customization::Answer<NotFoundQuestion>(*value);
  }
  template <class Pointee>
  static constexpr bool Standard(Pointee* value) {
    return value == nullptr;
  }
  template <class Pointee, class Deleter>
  static constexpr bool Standard(const std::unique_ptr<Pointee, Deleter>& value) {
    return value == nullptr;
  }
  template <class Pointee>
  static constexpr bool Standard(const std::shared_ptr<Pointee>& value) {
    return value == nullptr;
  }
#if defined(__cpp_lib_expected)
  template <class Value, class Error>
  requires kCanSay<NotFoundQuestion, Value>
  static constexpr bool Standard(const std::expected<Value, Error>& value) {
    return value.has_value() && customization::Answer<NotFoundQuestion>(*value);
  }
#endif
};

struct IsFailureFn {
  template <class Value>
  constexpr bool operator()(const Value& value) const {
    return customization::Answer<FailureQuestion>(value);
  }
};
struct IsNotFoundFn {
  template <class Value>
  constexpr bool operator()(const Value& value) const {
    return customization::Answer<NotFoundQuestion>(value);
  }
};

}  // namespace detail::customization

// Returns whether a value says that it is a failure. By default only a std::expected without a
// value does, and an optional or expected whose value does.
inline constexpr detail::customization::IsFailureFn IsFailure;

// Returns whether a value says that there is nothing to be found. By default an empty std::optional
// and a null pointer do: T*, std::unique_ptr or std::shared_ptr. So does an optional or expected
// whose value does.
inline constexpr detail::customization::IsNotFoundFn IsNotFound;

namespace detail {

template <class Value>
inline constexpr bool kCanFail = customization::kCanSay<customization::FailureQuestion, Value>;
template <class Value>
inline constexpr bool kCanBeNotFound =
    customization::kCanSay<customization::NotFoundQuestion, Value>;

}  // namespace detail

}  // namespace singleflight

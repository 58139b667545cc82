// SPDX-License-Identifier: MIT
#pragma once

// LosslessCast: makes a group's Key of what a caller passed, so that different things that were
// asked for stay different keys.
//
// C++ converts silently between numbers, and std::optional, std::pair, std::chrono::duration and
// others do it with what they hold: 2^32 + 1 becomes key 1, and hours wrap around as nanoseconds.
// Here, each of these conversions is exact or refused: by a sentence of the compiler if the types
// tell, and by std::out_of_range if the value does.
//
// A constructor of the user's own Key decides what becomes of its argument, but a number reaches
// that constructor unchanged. A Key that is derived from one of those classes inherits constructors
// that convert, so it is made only of what that class can hold unchanged.

#include <array>
#include <chrono>
#include <concepts>
#include <cstddef>
#include <iterator>
#include <limits>
#include <optional>
#include <ratio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "number_cast.hpp"
#include "number_like.hpp"

namespace singleflight::detail {

template <class To, class From>
To LosslessCast(const From& from);

// ---- Durations and points in time

// Never called: these name the class that an argument is or is derived from.
template <class Rep, class Period>
std::chrono::duration<Rep, Period> AsDuration(const std::chrono::duration<Rep, Period>&);
template <class Clock, class Duration>
std::chrono::time_point<Clock, Duration> AsTimePoint(
    const std::chrono::time_point<Clock, Duration>&);

template <class From>
inline constexpr bool kLikeDuration = requires(const From& from) {
  detail::AsDuration(from);
};
template <class From>
inline constexpr bool kLikeTimePoint = requires(const From& from) {
  detail::AsTimePoint(from);
};

template <class To, class Rep, class Period>
To ToTicks(const std::chrono::duration<Rep, Period>& from) {
  using From = std::chrono::duration<Rep, Period>;
  using Ratio = std::ratio_divide<Period, typename To::period>;
  if constexpr (!Number<typename To::rep> || !Number<Rep>) {
    return detail::PlainCast<To>(from);
  } else if constexpr (std::ratio_equal_v<Ratio, std::ratio<1>>) {
    return To(detail::NumberCast<typename To::rep>(from.count()));
  } else if constexpr (Integer<typename To::rep>) {
    return To(detail::Multiply<typename To::rep>(from.count(), Ratio::num));
  } else {
    static_assert(Integer<Rep> && std::numeric_limits<Rep>::is_specialized,
                  "this conversion rounds, so different durations could become the same key: pass "
                  "a duration of the Key's own type");
    // The conversion rounds, but it never decreases. So if both neighbours become other keys,
    // nothing else becomes this one.
    const auto becomes = [](auto ticks) {
      return detail::InOwnPrecision(To(From(static_cast<Rep>(ticks))).count());
    };
    const Rep count = from.count();
    const auto to = becomes(count);
    const bool below = count == (std::numeric_limits<Rep>::min)() || becomes(count - 1) < to;
    const bool above = count == (std::numeric_limits<Rep>::max)() || to < becomes(count + 1);
    if (!below || !above) detail::ThrowNotRepresentable();
    return To(to);
  }
}

template <class To, class From>
To ToDuration(const From& from) {
  if constexpr (kLikeDuration<From>) {
    return detail::ToTicks<To>(from);
  } else if constexpr (NumberLike<From>) {
    return To(detail::LosslessCast<typename To::rep>(from));
  } else {
    return detail::PlainCast<To>(from);
  }
}

template <class To, class From>
To ToTimePoint(const From& from) {
  if constexpr (kLikeTimePoint<From>) {
    return To(detail::LosslessCast<typename To::duration>(from.time_since_epoch()));
  } else if constexpr (kLikeDuration<From>) {
    return To(detail::LosslessCast<typename To::duration>(from));
  } else {
    return detail::PlainCast<To>(from);
  }
}

// ---- Classes that convert what they hold

template <class T>
std::optional<T> AsOptional(const std::optional<T>&);
template <class First, class Second>
std::pair<First, Second> AsTuple(const std::pair<First, Second>&);
template <class... Elements>
std::tuple<Elements...> AsTuple(const std::tuple<Elements...>&);
template <class Element, std::size_t kSize>
std::array<Element, kSize> AsTuple(const std::array<Element, kSize>&);

template <class From>
inline constexpr bool kLikeOptional = requires(const From& from) {
  detail::AsOptional(from);
};
template <class From>
using OptionalOf = decltype(detail::AsOptional(std::declval<const From&>()));
template <class From>
using TupleOf = decltype(detail::AsTuple(std::declval<const From&>()));

template <class From>
constexpr std::size_t SizeOfTuple() {
  if constexpr (requires(const From& from) { detail::AsTuple(from); }) {
    return std::tuple_size_v<TupleOf<From>>;
  } else {
    return std::string_view::npos;
  }
}

// These choose what the standard library chooses: the whole `from` becomes what To holds, if it
// can.
template <class To, class From>
To ToOptional(const From& from) {
  using Held = typename To::value_type;
  constexpr bool kWouldTestIt = std::same_as<Held, bool> && kLikeOptional<From>;
  if constexpr (std::same_as<From, std::nullopt_t>) {
    return To();
  } else if constexpr (std::constructible_from<Held, const From&> && !kWouldTestIt) {
    return To(detail::LosslessCast<Held>(from));
  } else if constexpr (kLikeOptional<From>) {
    const OptionalOf<From>& optional = from;
    return optional ? To(detail::LosslessCast<Held>(*optional)) : To();
  } else {
    return detail::PlainCast<To>(from);
  }
}

template <class To, class From>
constexpr bool HoldsWhole() {
  if constexpr (std::tuple_size_v<To> == 1) {
    return std::constructible_from<std::tuple_element_t<0, To>, const From&>;
  } else {
    return false;
  }
}

template <class To, class Tuple, std::size_t... kIndices>
To ToEach(const Tuple& from, std::index_sequence<kIndices...>) {
  return To(detail::LosslessCast<std::tuple_element_t<kIndices, To>>(std::get<kIndices>(from))...);
}

template <class To, class From>
To ToTuple(const From& from) {
  if constexpr (detail::HoldsWhole<To, From>()) {
    return To(detail::LosslessCast<std::tuple_element_t<0, To>>(from));
  } else if constexpr (detail::SizeOfTuple<From>() == std::tuple_size_v<To>) {
    const TupleOf<From>& tuple = from;
    return detail::ToEach<To>(tuple, std::make_index_sequence<std::tuple_size_v<To>>());
  } else {
    return detail::PlainCast<To>(from);
  }
}

// Accepts a From as the alternative that a std::variant's constructor would choose for it.
template <class From, std::size_t kIndex, class Alternative>
struct AcceptsAs {
  struct Holder {
    Alternative one[1];
  };
  static constexpr bool kIsExact = requires(const From& from) { Holder{{from}}; };
  std::integral_constant<std::size_t, kIndex> operator()(Alternative) const requires kIsExact;
};
template <class From, class To, class Indices>
struct AcceptsAsAny;
template <class From, class... Alternatives, std::size_t... kIndices>
struct AcceptsAsAny<From, std::variant<Alternatives...>, std::index_sequence<kIndices...>>
    : AcceptsAs<From, kIndices, Alternatives>... {
  using AcceptsAs<From, kIndices, Alternatives>::operator()...;
};

template <class To, class From>
To ToVariant(const From& from) {
  using Indices = std::make_index_sequence<std::variant_size_v<To>>;
  using Choice = AcceptsAsAny<From, To, Indices>;
  if constexpr (std::invocable<const Choice&, const From&>) {
    constexpr std::size_t kIndex = std::invoke_result_t<const Choice&, const From&>::value;
    return To(std::in_place_index<kIndex>,
              detail::LosslessCast<std::variant_alternative_t<kIndex, To>>(from));
  } else {
    return detail::PlainCast<To>(from);
  }
}

[[noreturn]] inline void ThrowNull() {
  throw std::invalid_argument("singleflight: this key is a null pointer, not a string");
}

// Returns a view of a string. A string that a pointer or an array refers to ends at its first zero,
// and an array without one ends where the array does.
//
// Errors: std::invalid_argument for a null pointer.
template <class View, class From>
View ToView(const From& from) {
  static_assert(!std::is_null_pointer_v<From>, "nullptr is not a string");
  if constexpr (std::is_bounded_array_v<From>) {
    const auto* const zero = View::traits_type::find(from, std::extent_v<From>, {});
    const auto size = zero != nullptr ? zero - from : std::ssize(from);
    return View(from, static_cast<std::size_t>(size));
  } else {
    if constexpr (std::is_pointer_v<From>) {
      if (from == nullptr) detail::ThrowNull();
    }
    return from;
  }
}

template <class To, class From>
To ToString(const From& from) {
  using Char = typename To::value_type;
  using View = std::basic_string_view<Char, typename To::traits_type>;
  if constexpr (kIsPointer<From>) {
    return To(detail::ToView<View>(from));
  } else if constexpr (std::convertible_to<const From&, const Char*> &&
                       !std::convertible_to<const From&, View> &&
                       !std::convertible_to<const From&, To>) {
    return To(detail::ToView<View, const Char*>(from));
  } else {
    return detail::PlainCast<To>(from);
  }
}

// ---- Which class a Key is

// Is true of one class template, so that a Key is recognized.
template <class T>
inline constexpr bool kIsDuration = false;
template <class Rep, class Period>
inline constexpr bool kIsDuration<std::chrono::duration<Rep, Period>> = true;
template <class T>
inline constexpr bool kIsTimePoint = false;
template <class Clock, class Duration>
inline constexpr bool kIsTimePoint<std::chrono::time_point<Clock, Duration>> = true;
template <class T>
inline constexpr bool kIsOptional = false;
template <class T>
inline constexpr bool kIsOptional<std::optional<T>> = true;
template <class T>
inline constexpr bool kIsTuple = false;
template <class First, class Second>
inline constexpr bool kIsTuple<std::pair<First, Second>> = true;
template <class... Elements>
inline constexpr bool kIsTuple<std::tuple<Elements...>> = true;
template <class T>
inline constexpr bool kIsVariant = false;
template <class... Alternatives>
inline constexpr bool kIsVariant<std::variant<Alternatives...>> = true;
template <class T>
inline constexpr bool kIsString = false;
template <class Char, class CharTraits, class Allocator>
inline constexpr bool kIsString<std::basic_string<Char, CharTraits, Allocator>> = true;
template <class Char, class CharTraits>
inline constexpr bool kIsString<std::basic_string_view<Char, CharTraits>> = true;

// ---- Classes derived from one of these

template <class... Alternatives>
std::variant<Alternatives...> AsVariant(const std::variant<Alternatives...>&);

template <class To>
constexpr auto FindBase() {
  if constexpr (kLikeDuration<To>) {
    return std::type_identity<decltype(detail::AsDuration(std::declval<const To&>()))>();
  } else if constexpr (kLikeTimePoint<To>) {
    return std::type_identity<decltype(detail::AsTimePoint(std::declval<const To&>()))>();
  } else if constexpr (kLikeOptional<To>) {
    return std::type_identity<OptionalOf<To>>();
  } else if constexpr (requires { requires kIsTuple<TupleOf<To>>; }) {
    return std::type_identity<TupleOf<To>>();
  } else if constexpr (requires(const To& to) { detail::AsVariant(to); }) {
    return std::type_identity<decltype(detail::AsVariant(std::declval<const To&>()))>();
  } else {
    return std::type_identity<void>();
  }
}
// The class that converts what it holds and from which To is derived, or void.
template <class To>
using ConvertingBase = typename decltype(detail::FindBase<To>())::type;

// To inherits constructors that convert what they are given, so they are given only what its base
// class can hold unchanged. A constructor of To's own may take everything of its parameter's type,
// unless it is a template: that cannot be told from an inherited one.
template <class To, class From>
To ToDerived(const From& from) {
  using Base = ConvertingBase<To>;
  constexpr bool kDecides = std::derived_from<From, To> || kHasConversionTo<From, To> ||
                            kTakes<To, From, std::remove_cv_t<From>>;
  if constexpr (!kDecides && std::constructible_from<Base, const From&>) {
    static_cast<void>(detail::LosslessCast<Base>(from));
  }
  return detail::ToClass<To>(from);
}

// ---- The cast itself

// Returns `from` as a To, to which it converts, implicitly or explicitly.
//
// Errors: std::out_of_range for what a To cannot represent, std::invalid_argument for a null
//   pointer where a string is meant, and what constructing a To throws.
template <class To, class From>
To LosslessCast(const From& from) {
  if constexpr (std::same_as<To, std::remove_cv_t<From>>) {
    return from;
  } else if constexpr (OtherNumber<To> || OtherNumber<From>) {
    static_assert(kNever<From>,
                  "a number of this type cannot be checked: pass the group's Key type itself");
  } else if constexpr (Number<To>) {
    return detail::ToNumber<To>(from);
  } else if constexpr (kIsDuration<To>) {
    return detail::ToDuration<To>(from);
  } else if constexpr (kIsTimePoint<To>) {
    return detail::ToTimePoint<To>(from);
  } else if constexpr (kIsOptional<To>) {
    return detail::ToOptional<To>(from);
  } else if constexpr (kIsTuple<To>) {
    return detail::ToTuple<To>(from);
  } else if constexpr (kIsVariant<To>) {
    return detail::ToVariant<To>(from);
  } else if constexpr (kIsString<To>) {
    return detail::ToString<To>(from);
  } else if constexpr (!std::is_void_v<ConvertingBase<To>>) {
    return detail::ToDerived<To>(from);
  } else if constexpr (std::is_class_v<To>) {
    return detail::ToClass<To>(from);
  } else {
    return detail::PlainCast<To>(from);
  }
}

}  // namespace singleflight::detail

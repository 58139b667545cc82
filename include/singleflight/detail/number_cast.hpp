// SPDX-License-Identifier: MIT
#pragma once

// NumberCast: converts a number to a number of another type, and throws if it would not be the same
// number. It knows all types of integers and floating-point numbers, also those of 128 bits, which
// std::is_integral does not know under -std=c++20. No conversion here has undefined behaviour.

#include <concepts>
#include <cstdint>
#include <limits>
#include <stdexcept>
#include <type_traits>

namespace singleflight::detail {

#ifdef __SIZEOF_INT128__
__extension__ typedef __int128 Int128;  // __extension__ silences -Wpedantic
__extension__ typedef unsigned __int128 Uint128;
#else
using Int128 = std::intmax_t;
using Uint128 = std::uintmax_t;
#endif

template <class T>
concept Integer = std::integral<T> || std::same_as<std::remove_cv_t<T>, Int128> ||
    std::same_as<std::remove_cv_t<T>, Uint128>;

template <class T>
concept Floating = std::floating_point<T> && std::numeric_limits<T>::is_specialized &&
                   std::numeric_limits<T>::radix == 2;

template <class T>
concept Number = Integer<T> || Floating<T>;

// A number that NumberCast cannot check, such as __float128.
template <class T>
concept OtherNumber =
    !Number<T> && !std::is_class_v<T> && !std::is_union_v<T> && !std::is_enum_v<T> &&
    !std::is_pointer_v<T> && !std::is_member_pointer_v<T> && !std::is_null_pointer_v<T> &&
    !std::is_reference_v<T> && !std::is_array_v<T> && !std::is_function_v<T> && !std::is_void_v<T>;

template <Integer T>
inline constexpr bool kIsSigned = static_cast<T>(-1) < static_cast<T>(0);

// The bits of an integer's value.
template <Integer T>
inline constexpr int kDigits = static_cast<int>(sizeof(T)) * 8 - (kIsSigned<T> ? 1 : 0);
template <>
inline constexpr int kDigits<bool> = 1;

template <Integer T>
constexpr bool IsNegative(T value) noexcept {
  if constexpr (kIsSigned<T>) {
    return value < 0;
  } else {
    return false;
  }
}

template <Floating T>
constexpr T PowerOfTwo(int exponent) noexcept {
  T power = 1;
  for (; exponent > 0; --exponent) power *= 2;
  return power;
}

// Whether two floating-point numbers are equal. A NaN equals nothing.
template <Floating T>
constexpr bool Equal(T a, T b) noexcept {
  return a <= b && a >= b;  // not `==`, which -Wfloat-equal refuses in the user's build
}

// Returns the result of a calculation, rounded to its type. Some processors calculate with more
// precision (x87), and a result that was not stored could still have it.
template <Floating T>
T InOwnPrecision(T result) noexcept {
  const volatile T stored = result;
  return stored;
}

// Whether a To can be the same number as `value`.
template <Integer To, Integer From>
constexpr bool Represents(From value) noexcept {
  const To to = static_cast<To>(value);
  return static_cast<From>(to) == value && IsNegative(to) == IsNegative(value);
}

template <Integer To, Floating From>
constexpr bool Represents(From value) noexcept {
  using Limits = std::numeric_limits<From>;
  if constexpr (kDigits<To> < Limits::max_exponent) {
    constexpr From kEnd = PowerOfTwo<From>(kDigits<To>);
    if (!(value < kEnd && value >= (kIsSigned<To> ? -kEnd : From()))) return false;
  } else {  // every finite From is in the range of To, unless it is negative
    if (!(value <= (Limits::max)() && value >= (kIsSigned<To> ? Limits::lowest() : From()))) {
      return false;
    }
  }
  return Equal(static_cast<From>(static_cast<To>(value)), value);  // it has no fraction
}

template <Floating To, Integer From>
constexpr bool Represents(From value) noexcept {
  using Limits = std::numeric_limits<To>;
  using Unsigned =
      std::conditional_t<(sizeof(From) > sizeof(std::uint64_t)), Uint128, std::uint64_t>;
  auto magnitude = static_cast<Unsigned>(value);
  if (IsNegative(value)) magnitude = Unsigned{0} - magnitude;
  if constexpr (kDigits < Unsigned >> Limits::max_exponent) {
    if (magnitude >> Limits::max_exponent != 0) return false;
  }
  if constexpr (kDigits < Unsigned >> Limits::digits) {
    if (magnitude >> Limits::digits == 0) return true;
    const Unsigned lowest_bit = magnitude & (~magnitude + 1);
    return magnitude / lowest_bit >> Limits::digits == 0;
  } else {
    return true;
  }
}

template <Floating To, Floating From>
constexpr bool Represents(From value) noexcept {
  if constexpr (std::numeric_limits<From>::max_exponent > std::numeric_limits<To>::max_exponent) {
    constexpr auto kMax = static_cast<From>((std::numeric_limits<To>::max)());
    const bool finite = Equal(value - value, From());
    if (finite && !(value <= kMax && value >= -kMax)) return false;
  }
  return Equal(static_cast<From>(static_cast<To>(value)), value);
}

[[noreturn]] inline void ThrowNotRepresentable() {
  throw std::out_of_range(
      "singleflight: this cannot be represented by the group's Key type without a loss");
}

// Returns `value` as a To. Equal numbers stay equal, and others stay different: a fraction, a NaN
// and what is out of range are refused.
//
// Errors: std::out_of_range.
template <Number To, Number From>
constexpr To NumberCast(From value) {
  if constexpr (!std::same_as<To, From>) {
    if (!Represents<To>(value)) ThrowNotRepresentable();
  }
  return static_cast<To>(value);
}

template <Integer T>
inline constexpr Uint128 kMax = ~Uint128{0} >> (kDigits<Uint128> - kDigits<T>);

// Returns count * factor, for a factor greater than 0.
//
// Errors: std::out_of_range.
template <Integer To, Integer From>
To Multiply(From count, std::intmax_t factor) {
  const bool negative = IsNegative(count);
  auto magnitude = static_cast<Uint128>(count);
  if (negative) magnitude = Uint128{0} - magnitude;
  const Uint128 most = !negative ? kMax<To> : kIsSigned<To> ? kMax<To> + 1 : Uint128{0};
  if (magnitude > most / static_cast<Uint128>(factor)) detail::ThrowNotRepresentable();
  const Uint128 product = magnitude * static_cast<Uint128>(factor);
  return static_cast<To>(negative ? Uint128{0} - product : product);
}

}  // namespace singleflight::detail

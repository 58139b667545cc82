// SPDX-License-Identifier: MIT
#pragma once

// ToNumber and ToClass: make a number of what converts to one, and a class that takes a number of
// what is one. C++ has up to two conversions between numbers on the way. None of them may change
// the number, so it is found out from which type and to which type they are.

#include <concepts>
#include <tuple>
#include <type_traits>

#include "number_cast.hpp"

namespace singleflight::detail {

// Makes the conversion that C++ makes. It is implicit if it can be.
template <class To, class From>
To PlainCast(const From& from) {
  if constexpr (std::convertible_to<const From&, To>) {
    return from;
  } else {
    return static_cast<To>(from);
  }
}

template <class>
inline constexpr bool kNever = false;  // for a static_assert that always refuses

// ---- What converts to a number

template <class... Numbers>
struct NumberList {};
using AllNumbers =
    NumberList<bool, char, signed char, unsigned char, wchar_t,
#ifdef __cpp_char8_t
               char8_t,
#endif
#ifdef __SIZEOF_INT128__
               Int128, Uint128,
#endif
               char16_t, char32_t, short, unsigned short, int, unsigned, long, unsigned long,
               long long, unsigned long long, float, double, long double>;

template <class T>
struct Accepts {
  std::type_identity<T> operator()(T) const;
};
template <class>
struct AcceptsAny;
template <class... Numbers>
struct AcceptsAny<NumberList<Numbers...>> : Accepts<Numbers>... {
  using Accepts<Numbers>::operator()...;
  std::type_identity<void> operator()(const volatile void*) const;  // pointers prefer it to bool
};

template <class From, class To>
inline constexpr bool kHasConversionTo = requires(const From& from) {
  from.operator To();
}
|| requires(const From& from) { from.operator To&(); }
|| requires(const From& from) { from.operator const To&(); };

template <class From>
constexpr auto FindNumber() {
  using Accepting = const AcceptsAny<AllNumbers>&;
  if constexpr (std::invocable<Accepting, const From&>) {
    using Found = std::invoke_result_t<Accepting, const From&>;
    // A pointer to a function or to a member becomes a bool, too, but is none.
    constexpr bool kIsBool = std::same_as<Found, std::type_identity<bool>>;
    if constexpr (!kIsBool || std::same_as<From, bool> || kHasConversionTo<From, bool>) {
      return Found();
    } else {
      return std::type_identity<void>();
    }
  } else {
    return std::type_identity<void>();
  }
}

// The type of number to which a number, an enumerator or a class with one conversion function
// converts: of all types, the compiler prefers the one to which nothing is lost. Void if there is
// no such type, or more than one.
template <class From>
using NumberOf = typename decltype(detail::FindNumber<std::remove_cv_t<From>>())::type;

template <class From>
concept NumberLike = Number<NumberOf<From>>;

template <class From>
inline constexpr bool kIsPointer = std::is_pointer_v<std::decay_t<From>> ||
                                   std::is_member_pointer_v<From> || std::is_null_pointer_v<From>;

template <Number To, class From>
To ToNumber(const From& from) {
  if constexpr (NumberLike<From> && std::convertible_to<const From&, To>) {
    const NumberOf<From> number = from;
    return detail::NumberCast<To>(number);
  } else if constexpr (kIsPointer<From>) {
    static_assert(kNever<From>,
                  "a pointer is not a number, and every pointer would become the key `true`: pass "
                  "what it points to");
  } else {
    static_assert(kHasConversionTo<From, To>,
                  "it is not clear which number this is: pass a number, or an object with one "
                  "conversion function to a number");
    return static_cast<To>(from);
  }
}

// ---- Classes that are made of a number

template <class T>
struct Exactly {
  template <std::same_as<T> U>
  operator U() const;
};

// Whether a constructor of To takes a T just as it is. An explicit one counts only if a To cannot
// be made of a From without it.
template <class To, class From, class T>
inline constexpr bool kTakes = requires(void (&take)(To)) {
  take({Exactly<T>()});
}
|| (!std::convertible_to<const From&, To> && std::constructible_from<To, Exactly<T>>);

template <class To, class From, class... Numbers>
auto TakenNumbers(NumberList<Numbers...>) -> decltype(std::tuple_cat(
    std::conditional_t<kTakes<To, From, Numbers>, std::tuple<Numbers>, std::tuple<>>()...));

// A std::bitset. It drops the bits for which it has no room.
template <class To>
concept BitSet = std::constructible_from<To, unsigned long long> && requires(const To& bits) {
  { bits.to_ullong() } -> std::same_as<unsigned long long>;
};

template <class To, class From>
To ToClass(const From& from) {
  if constexpr (BitSet<To> && NumberLike<From>) {
    const auto number = detail::ToNumber<unsigned long long>(from);
    const To bits(number);
    if (bits.to_ullong() != number) detail::ThrowNotRepresentable();
    return bits;
  } else if constexpr (requires { To{from}; } || !(NumberLike<From> || kIsPointer<From>)) {
    return detail::PlainCast<To>(from);
  } else {  // braces refuse it: a constructor of To would take another number than this one
    static_assert(!kIsPointer<From>,
                  "a pointer would become `true` on its way to the Key's constructor: pass what "
                  "the constructor takes");
    using Taken = decltype(detail::TakenNumbers<To, From>(AllNumbers()));
    static_assert(std::tuple_size_v<Taken> == 1,
                  "it is not clear which number the Key's constructor would get: pass a number of "
                  "the type that the constructor takes");
    return detail::PlainCast<To>(detail::ToNumber<std::tuple_element_t<0, Taken>>(from));
  }
}

}  // namespace singleflight::detail

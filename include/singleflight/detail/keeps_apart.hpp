// SPDX-License-Identifier: MIT
#pragma once

// KeepsApart: whether a function of the user's takes keys as they are. If it takes another type,
// C++ converts the keys on the way, and the function may not tell two of them apart.
//
// A function may take the Key, any type, a number that holds all numbers of the Key, a pointer for
// a pointer, a view of a whole string or vector, or what a std::reference_wrapper refers to. It may
// also take a base class that is known to have all members of the Key. Everything else that the Key
// converts to is refused.
//
// Not everything can be told. A template may take a base class of the Key that lacks some of its
// members, such as `const Base<T>&`. A parameter whose class has a constructor for any type counts
// as one that takes any type. What a function does with the key that it is given is not seen.

#include <concepts>
#include <functional>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "number_cast.hpp"
#include "number_like.hpp"

namespace singleflight::detail {

// ---- Numbers

// Whether different numbers of type From are different as a To.
template <Number To, class From>
constexpr bool StayDifferent() {
  if constexpr (std::is_enum_v<From>) {
    return detail::StayDifferent<To, std::underlying_type_t<From>>();
  } else if constexpr (std::same_as<To, bool> || std::same_as<From, bool>) {
    return std::same_as<From, bool>;
  } else if constexpr (Integer<To> && Integer<From>) {
    return sizeof(To) >= sizeof(From);
  } else if constexpr (Integer<From>) {
    return std::numeric_limits<To>::digits >= kDigits<From>;
  } else if constexpr (Floating<To>) {
    return std::numeric_limits<To>::digits >= std::numeric_limits<From>::digits &&
           std::numeric_limits<To>::max_exponent >= std::numeric_limits<From>::max_exponent;
  } else {
    return false;
  }
}

template <class Call, class Key, class Taken>
constexpr bool TakesInstead() {
  if constexpr (std::invocable<Call, Exactly<Taken>>) {
    return detail::StayDifferent<Taken, Key>();
  } else {
    return false;
  }
}
template <class Call, class Key, class... Numbers>
constexpr bool TakesOneOf(NumberList<Numbers...>) {
  return (detail::TakesInstead<Call, Key, Numbers>() || ...);
}

// ---- Classes

// A Key without its class's conversions. It is also a Key to a template, such as one that takes a
// std::pair<First, Second>.
template <class Key>
struct Unconverted : Key {
  // As they are not const, they are preferred to those of the Key, and to a constructor of a T.
  template <class T>
  operator T() = delete;
  template <class T>
  operator T&() = delete;
};

// A base of the Key that may lack some of its members. A class of standard layout has all of its
// members in one class.
template <class Base, class Key>
concept PartOf = !std::same_as<Base, Key> && std::derived_from<Key, Base> &&
                 !(std::is_standard_layout_v<Key> && !std::is_empty_v<Base>);

template <class Key>
struct AsPart {
  template <PartOf<Key> Base>
  operator Base() const;
};
template <class Key>
struct AsPartByReference {
  template <PartOf<Key> Base>
  operator const Base&() const;
};

struct Unrelated {};  // only a function that takes anything takes it

// What refers to the whole of a Key, or the whole of what the Key refers to.
template <class Key>
struct WholeView {
  using type = Key;
};
template <class Char, class CharTraits, class Allocator>
struct WholeView<std::basic_string<Char, CharTraits, Allocator>> {
  using type = std::basic_string_view<Char, CharTraits>;
};
template <class Element, class Allocator>
struct WholeView<std::vector<Element, Allocator>> {
  using type = std::span<const Element>;
};
template <class T>
struct WholeView<std::reference_wrapper<T>> {
  using type = std::remove_cv_t<T>;
};

template <class Call, class Key>
constexpr bool TakesClass() {
  using View = typename WholeView<Key>::type;
  if constexpr (std::invocable<Call, Exactly<View>>) {
    return true;
  } else if constexpr (std::is_class_v<Key> && !std::is_final_v<Key>) {
    constexpr bool kTakesPart =
        std::invocable<Call, AsPart<Key>> || std::invocable<Call, AsPartByReference<Key>>;
    return std::invocable<Call, Unconverted<Key>> &&
           (!kTakesPart || std::invocable<Call, Unrelated>);
  } else {
    return false;
  }
}

// ---- Pointers

template <class T>
inline constexpr bool kIsCharacter =
    std::same_as<T, char> || std::same_as<T, wchar_t> || std::same_as<T, char16_t> ||
#ifdef __cpp_char8_t
    std::same_as<T, char8_t> ||
#endif
    std::same_as<T, char32_t>;

// Converts to every pointer to which a Key converts, but not to bool.
template <class Key>
struct AsPointer {
  template <class To>
  requires(kIsPointer<To>&& std::convertible_to<Key, To>) operator To() const;
};

template <class Call, class Key>
constexpr bool TakesPointer() {
  using Char = std::remove_const_t<std::remove_pointer_t<Key>>;
  if constexpr (std::invocable<Call, AsPointer<Key>>) {
    return true;
  } else if constexpr (kIsCharacter<Char>) {  // the function takes the string
    return std::invocable<Call, Exactly<std::basic_string_view<Char>>> ||
           std::invocable<Call, Exactly<std::basic_string<Char>>>;
  } else {
    return false;
  }
}

// ---- The check itself

// `Call` is a class that can be called with a key as the user's function can, and with a key and a
// std::type_identity if the function is a template to which that type can be given.
template <class Call, class Key>
constexpr bool KeepsApart() {
  if constexpr (std::invocable<Call, Exactly<Key>> ||
                std::invocable<Call, Exactly<Key>, std::type_identity<Key>> ||
                std::invocable<Call, Exactly<Key>, std::type_identity<const Key&>>) {
    return true;  // it takes a Key, or any type
  } else if constexpr (Number<Key> || std::is_enum_v<Key>) {
    return detail::TakesOneOf<Call, Key>(AllNumbers());
  } else if constexpr (kIsPointer<Key>) {
    return detail::TakesPointer<Call, Key>();
  } else {
    return detail::TakesClass<Call, Key>();
  }
}

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// WireBytes: the bytes of a value that mean the same in another process.
//
// They are those of the numbers that the value consists of, one after the other, in the byte order
// of the processor. What lies between the numbers in memory is left out, because it has no value
// and may be left from anything that was there before.

#include <algorithm>
#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <initializer_list>
#include <iterator>
#include <limits>
#include <optional>
#include <ranges>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include "aggregate.hpp"
#include "number_cast.hpp"

namespace singleflight::redis {

template <class Value>
struct Codec;
template <class Value>
struct CopyBytes;

namespace detail {

using singleflight::detail::Number;
using singleflight::detail::VisitMembers;

// ---- Which types have such bytes

enum class Portability : unsigned char {
  kPortable,
  kUnknown,  // a class of the user's, who has not said so
  kLocal,    // it counts from something that other machines do not have
  kPointer,  // it holds a pointer, or something like one
};

template <class... Elements>
constexpr Portability WorstOf(Elements... elements) {
  Portability worst = Portability::kPortable;
  ((worst = elements > worst ? elements : worst), ...);
  return worst;
}

template <class T>
inline constexpr bool kIsHandle = false;
template <class Referred>
inline constexpr bool kIsHandle<std::reference_wrapper<Referred>> = true;
template <class Element>
inline constexpr bool kIsHandle<std::initializer_list<Element>> = true;

// Is true of types that refer to something else, although some are trivially copyable.
template <class T>
inline constexpr bool kIsPointerLike =
    std::is_pointer_v<T> || std::is_member_pointer_v<T> || std::is_null_pointer_v<T> ||
    std::ranges::view<T> || std::input_or_output_iterator<T> || kIsHandle<T>;

// Parts of a date: one number, or three without a gap between them.
template <class T>
inline constexpr bool kIsDate =
    std::same_as<T, std::chrono::day> || std::same_as<T, std::chrono::month> ||
    std::same_as<T, std::chrono::year> || std::same_as<T, std::chrono::weekday> ||
    std::same_as<T, std::chrono::year_month_day>;

// How many bytes of a T are its value. The x87 format has ten, and some more for alignment.
template <class T>
inline constexpr std::size_t kValueBytes = sizeof(T);
inline constexpr bool kHasX87Format = std::numeric_limits<long double>::digits == 64;
template <>
inline constexpr std::size_t kValueBytes<long double> = kHasX87Format ? 10 : sizeof(long double);

template <class T>
void Append(std::string& bytes, const T& value);
template <class T>
bool Read(std::string_view& bytes, T& value);

// A T's portability and, if that is kPortable, how it is written and read. Read takes the T's bytes
// from the front. False: they are not those of a T.
template <class T>
struct Wire {
  static constexpr bool kIsNumber = Number<T> && !std::is_volatile_v<T>;
  static constexpr Portability kPortability = kIsPointerLike<T>         ? Portability::kPointer
                                              : kIsNumber || kIsDate<T> ? Portability::kPortable
                                                                        : Portability::kUnknown;

  static void Append(std::string& bytes, const T& value) {
    bytes.append(reinterpret_cast<const char*>(&value), kValueBytes<T>);
  }
  static bool Read(std::string_view& bytes, T& value) {
    if (bytes.size() < kValueBytes<T>) return false;
    std::memcpy(static_cast<void*>(&value), bytes.data(), kValueBytes<T>);
    bytes.remove_prefix(kValueBytes<T>);
    return true;
  }
};

// The portability of a part of a value. A class of the user's is portable if its Codec says so.
template <class T>
constexpr Portability PortabilityOf() {
  if constexpr (Wire<T>::kPortability == Portability::kUnknown && std::is_class_v<T>) {
    constexpr bool kOptedIn = std::is_base_of_v<CopyBytes<T>, Codec<T>>;
    return kOptedIn ? Portability::kPortable : Portability::kUnknown;
  } else {
    return Wire<T>::kPortability;
  }
}

// A class of the user's. If it is an aggregate, its members are written one after the other.
template <class T>
struct WireOfClass {
  static void Append(std::string& bytes, const T& value) {
    if constexpr (std::is_aggregate_v<T>) {
      VisitMembers(value, [&](const auto&... members) { (detail::Append(bytes, members), ...); });
    } else {
      bytes.append(reinterpret_cast<const char*>(&value), sizeof(T));
    }
  }
  static bool Read(std::string_view& bytes, T& value) {
    if constexpr (std::is_aggregate_v<T>) {
      return VisitMembers(value,
                          [&](auto&... members) { return (detail::Read(bytes, members) && ...); });
    } else {
      if (bytes.size() < sizeof(T)) return false;
      std::memcpy(static_cast<void*>(&value), bytes.data(), sizeof(T));
      bytes.remove_prefix(sizeof(T));
      return true;
    }
  }
};

template <class T>
void Append(std::string& bytes, const T& value) {
  if constexpr (Wire<T>::kPortability == Portability::kPortable) {
    Wire<T>::Append(bytes, value);
  } else {
    WireOfClass<T>::Append(bytes, value);
  }
}
template <class T>
bool Read(std::string_view& bytes, T& value) {
  if constexpr (Wire<T>::kPortability == Portability::kPortable) {
    return Wire<T>::Read(bytes, value);
  } else {
    return WireOfClass<T>::Read(bytes, value);
  }
}

// ---- What the standard library has

template <class T>
constexpr void CheckDefault() {
  static_assert(std::default_initializable<T>,
                "what an optional, a variant or an array holds is read into a new object, so it "
                "needs a default constructor: write Encode and Decode");
}

template <>
struct Wire<bool> {
  static constexpr Portability kPortability = Portability::kPortable;
  static void Append(std::string& bytes, bool value) { bytes += value ? '\1' : '\0'; }
  static bool Read(std::string_view& bytes, bool& value) {
    if (bytes.empty() || static_cast<unsigned char>(bytes.front()) > 1) return false;
    value = bytes.front() == '\1';
    bytes.remove_prefix(1);
    return true;
  }
};

template <class Enum>
requires(std::is_enum_v<Enum> && !std::is_volatile_v<Enum>) struct Wire<Enum> {
  using Number = std::underlying_type_t<Enum>;
  static constexpr Portability kPortability = Portability::kPortable;
  static void Append(std::string& bytes, const Enum& value) {
    detail::Append(bytes, static_cast<Number>(value));
  }
  static bool Read(std::string_view& bytes, Enum& value) {
    Number number{};
    if (!detail::Read(bytes, number)) return false;
    value = static_cast<Enum>(number);
    return true;
  }
};

template <class Element>
struct WireOfElements {
  static constexpr Portability kPortability = detail::PortabilityOf<Element>();
  // Elements of which nothing is left out, and whose bytes are all valid.
  static constexpr bool kAtOnce =
      Number<Element> && !std::same_as<Element, bool> && kValueBytes<Element> == sizeof(Element);

  static void Append(std::string& bytes, std::span<const Element> elements) {
    if constexpr (kAtOnce) {
      bytes.append(reinterpret_cast<const char*>(elements.data()), elements.size_bytes());
    } else {
      for (const Element& element : elements) detail::Append(bytes, element);
    }
  }
  static bool Read(std::string_view& bytes, std::span<Element> elements) {
    if constexpr (kAtOnce) {
      if (bytes.size() < elements.size_bytes()) return false;
      if (elements.empty()) return true;
      std::memcpy(elements.data(), bytes.data(), elements.size_bytes());
      bytes.remove_prefix(elements.size_bytes());
      return true;
    } else {
      return std::all_of(elements.begin(), elements.end(),
                         [&](Element& element) { return detail::Read(bytes, element); });
    }
  }
};
template <class Element, std::size_t kSize>
struct Wire<std::array<Element, kSize>> : WireOfElements<Element> {};
template <class Element, std::size_t kSize>
struct Wire<Element[kSize]> : WireOfElements<Element> {};

// A std::pair or a std::tuple.
template <class Tuple, class... Elements>
struct WireOfTuple {
  static constexpr Portability kPortability = detail::WorstOf(detail::PortabilityOf<Elements>()...);
  static void Append(std::string& bytes, const Tuple& value) {
    std::apply([&](const auto&... elements) { (detail::Append(bytes, elements), ...); }, value);
  }
  static bool Read(std::string_view& bytes, Tuple& value) {
    return std::apply([&](auto&... elements) { return (detail::Read(bytes, elements) && ...); },
                      value);
  }
};
template <class First, class Second>
struct Wire<std::pair<First, Second>> : WireOfTuple<std::pair<First, Second>, First, Second> {};
template <class... Elements>
struct Wire<std::tuple<Elements...>> : WireOfTuple<std::tuple<Elements...>, Elements...> {};

template <class T>
struct Wire<std::optional<T>> {
  static constexpr Portability kPortability = detail::PortabilityOf<T>();
  static void Append(std::string& bytes, const std::optional<T>& value) {
    detail::Append(bytes, value.has_value());
    if (value) detail::Append(bytes, *value);
  }
  static bool Read(std::string_view& bytes, std::optional<T>& value) {
    CheckDefault<T>();
    bool has_value = false;
    if (!detail::Read(bytes, has_value)) return false;
    value.reset();
    return !has_value || detail::Read(bytes, value.emplace());
  }
};

template <>
struct Wire<std::monostate> {
  static constexpr Portability kPortability = Portability::kPortable;
  static void Append(std::string&, std::monostate) {}
  static bool Read(std::string_view&, std::monostate&) { return true; }
};

template <class... Alternatives>
struct Wire<std::variant<Alternatives...>> {
  using Variant = std::variant<Alternatives...>;
  static constexpr Portability kPortability =
      detail::WorstOf(detail::PortabilityOf<Alternatives>()...);
  static void Append(std::string& bytes, const Variant& value) {
    detail::Append(bytes, static_cast<std::uint32_t>(value.index()));
    std::visit([&](const auto& held) { detail::Append(bytes, held); }, value);
  }
  static bool Read(std::string_view& bytes, Variant& value) {
    (CheckDefault<Alternatives>(), ...);
    std::uint32_t index = 0;
    return detail::Read(bytes, index) &&
           ReadHeld(bytes, value, index, std::index_sequence_for<Alternatives...>());
  }

 private:
  template <std::size_t... kIndices>
  static bool ReadHeld(std::string_view& bytes, Variant& value, std::uint32_t index,
                       std::index_sequence<kIndices...>) {
    return ((index == kIndices && detail::Read(bytes, value.template emplace<kIndices>())) || ...);
  }
};

template <class T>
struct Wire<std::complex<T>> {
  static constexpr Portability kPortability = detail::PortabilityOf<T>();
  static void Append(std::string& bytes, const std::complex<T>& value) {
    detail::Append(bytes, value.real());
    detail::Append(bytes, value.imag());
  }
  static bool Read(std::string_view& bytes, std::complex<T>& value) {
    T real{}, imaginary{};
    if (!detail::Read(bytes, real) || !detail::Read(bytes, imaginary)) return false;
    value = {real, imaginary};
    return true;
  }
};

template <class Rep, class Period>
struct Wire<std::chrono::duration<Rep, Period>> {
  static constexpr Portability kPortability = detail::PortabilityOf<Rep>();
  static void Append(std::string& bytes, const std::chrono::duration<Rep, Period>& value) {
    detail::Append(bytes, value.count());
  }
  static bool Read(std::string_view& bytes, std::chrono::duration<Rep, Period>& value) {
    Rep count{};
    if (!detail::Read(bytes, count)) return false;
    value = std::chrono::duration<Rep, Period>(count);
    return true;
  }
};

// A local time has no clock. It is a date and a time of day, which are the same everywhere. Whoever
// else counts without a clock has to say what that means.
template <class Clock>
constexpr Portability PortabilityOfClock() {
  if constexpr (requires { std::bool_constant<Clock::is_steady>(); }) {
    return Clock::is_steady ? Portability::kLocal : Portability::kPortable;
  } else {
    return std::same_as<Clock, std::chrono::local_t> ? Portability::kPortable
                                                     : Portability::kUnknown;
  }
}

template <class Clock, class Duration>
struct Wire<std::chrono::time_point<Clock, Duration>> {
  static constexpr Portability kPortability =
      detail::WorstOf(detail::PortabilityOf<Duration>(), detail::PortabilityOfClock<Clock>());
  static void Append(std::string& bytes, const std::chrono::time_point<Clock, Duration>& value) {
    detail::Append(bytes, value.time_since_epoch());
  }
  static bool Read(std::string_view& bytes, std::chrono::time_point<Clock, Duration>& value) {
    Duration since_epoch{};
    if (!detail::Read(bytes, since_epoch)) return false;
    value = std::chrono::time_point<Clock, Duration>(since_epoch);
    return true;
  }
};

template <std::size_t kSize>
struct Wire<std::bitset<kSize>> {
  static constexpr Portability kPortability = Portability::kPortable;
  static constexpr std::size_t kBytes = (kSize + 7) / 8;
  static void Append(std::string& bytes, const std::bitset<kSize>& value) {
    std::array<unsigned char, kBytes> packed = {};
    for (std::size_t i = 0; i < kSize; ++i) {
      if (value[i]) packed[i / 8] |= static_cast<unsigned char>(1U << i % 8);
    }
    detail::Append(bytes, packed);
  }
  static bool Read(std::string_view& bytes, std::bitset<kSize>& value) {
    std::array<unsigned char, kBytes> packed = {};
    if (!detail::Read(bytes, packed)) return false;
    for (std::size_t i = 0; i < kBytes * 8; ++i) {
      const bool bit = (packed[i / 8] >> i % 8 & 1) != 0;
      if (i < kSize) {
        value[i] = bit;
      } else if (bit) {
        return false;
      }
    }
    return true;
  }
};

}  // namespace detail

}  // namespace singleflight::redis

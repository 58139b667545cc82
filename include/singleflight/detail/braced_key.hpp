// SPDX-License-Identifier: MIT
#pragma once

// BracedKey: the type of a parameter that takes a key in braces, such as {a, b}.
//
// If the parameter was a std::pair, the pair would convert `a` and `b` before the library sees
// them, and {2^32 + 1, 0} could become the key {1, 0}. So for a Key that converts what it holds,
// the parameter is a Braced, which makes the Key by LosslessCast. For any other Key it is the Key
// itself: there, C++ refuses a number in braces that would change.

#include <concepts>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>

#include "lossless_cast.hpp"
#include "number_cast.hpp"
#include "number_like.hpp"

namespace singleflight::detail {

template <class Key>
struct BracedFor;

template <class Key>
inline constexpr bool kConvertsWhatItHolds = kIsTuple<Key> || kIsOptional<Key> || kIsVariant<Key> ||
                                             kIsDuration<Key> || kIsTimePoint<Key> || BitSet<Key>;

template <class Key>
using BracedKey = typename std::conditional_t<kConvertsWhatItHolds<Key>, BracedFor<Key>,
                                              std::type_identity<Key>>::type;

// The type of a parameter that takes one element of a key in braces.
template <class Element>
using BracedElement =
    typename std::conditional_t<kConvertsWhatItHolds<Element> || Number<Element>,
                                BracedFor<Element>, std::type_identity<Element>>::type;

template <class From, class Key>
concept ConvertsTo = std::convertible_to<const From&, Key>;

// A Key that is given as {}, as {a}, or as {a, b} if it has Elements.
template <class Key, class... Elements>
class Braced {
 public:
  Braced() : key_() {}
  template <ConvertsTo<Key> From>
  Braced(const From& from) : key_(detail::LosslessCast<Key>(from)) {}
  Braced(BracedElement<Elements>... elements) requires(sizeof...(Elements) > 0)
      : key_(Braced::Take<Elements>(elements)...) {}

  Key& get() noexcept { return key_; }
  const Key& get() const noexcept { return key_; }

 private:
  template <class Element>
  static Element&& Take(BracedElement<Element>& braced) noexcept {
    if constexpr (std::same_as<Element, BracedElement<Element>>) {
      return std::move(braced);
    } else {
      return std::move(braced.get());
    }
  }

  Key key_;
};

template <class Key>
struct BracedFor {
  using type = Braced<Key>;
};
template <class T>
struct BracedFor<std::optional<T>> {
  using type = Braced<std::optional<T>, T>;
};
template <class First, class Second>
struct BracedFor<std::pair<First, Second>> {
  using type = Braced<std::pair<First, Second>, First, Second>;
};
template <class... Elements>
struct BracedFor<std::tuple<Elements...>> {
  using type = Braced<std::tuple<Elements...>, Elements...>;
};

}  // namespace singleflight::detail

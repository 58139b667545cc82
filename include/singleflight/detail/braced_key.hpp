// SPDX-License-Identifier: MIT
#pragma once

// BracedKey: the type of a parameter that takes a key in braces, such as {a, b}.
//
// A std::pair in braces converts `a` and `b` before the library sees them, so {2^32 + 1, 0} could
// become the key {1, 0}. For a Key that converts what it holds, the parameter is therefore a
// Braced, which makes the Key by LosslessCast. A number is one, too, because GCC only warns of a
// variable in braces that does not fit.
//
// For any other Key, the parameter is the Key itself, and braces mean what they mean in C++: an
// aggregate takes designated initializers, and a string takes {pointer, count}. C++ refuses there a
// number that would change. GCC only warns of it, unless it is a constant.
//
// **Warning:** C++ also converts a pair that is a member of an aggregate, an element of a container
// in braces, or a base class of the Key. Nothing checks that. Name such a pair or such a Key first,
// with the types that the Key has.

#include <concepts>
#include <cstddef>
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
using BracedKey = typename std::conditional_t<kConvertsWhatItHolds<Key> || Number<Key>,
                                              BracedFor<Key>, std::type_identity<Key>>::type;

template <class Key, class... Elements>
class Braced;

template <class T>
inline constexpr bool kIsBraced = false;
template <class Key, class... Elements>
inline constexpr bool kIsBraced<Braced<Key, Elements...>> = true;

// Whether an argument in braces may become a To: one that has braces of its own, a To, or what
// converts to one. `From` is as a forwarding reference has it.
template <class From, class To>
concept MayBecome = std::same_as<std::remove_cvref_t<From>, BracedKey<std::remove_cv_t<To>>> ||
    std::same_as<std::remove_cvref_t<From>, To> || std::convertible_to<const From&, To>;

// A Key that is given as {}, as {a}, or as {a, b} if it has two Elements.
//
// An argument of a constructor that has braces of its own has no type. Then its template parameter
// has its default, which is the BracedKey of the element. Only such an argument is converted before
// it gets here.
template <class Key, class... Elements>
class Braced {
  struct Nothing {
    Nothing() = delete;
  };
  template <class... Args>
  static constexpr bool Fit() {
    if constexpr (sizeof...(Args) == sizeof...(Elements)) {
      return (MayBecome<Args, Elements> && ...);
    } else {
      return false;
    }
  }

  static constexpr std::size_t kSize = sizeof...(Elements);
  static constexpr std::size_t kMostListed = 4;  // a pack has no defaults, so these are listed
  using Defaults =
      std::tuple<BracedKey<std::remove_cv_t<Elements>>..., Nothing, Nothing, Nothing, Nothing>;
  template <std::size_t kIndex>
  using At = std::tuple_element_t<kIndex, Defaults>;

 public:
  Braced() requires std::default_initializable<Key> : key_() {}

  template <class From = std::conditional_t<kSize == 1, At<0>, Nothing>>
  requires(!Number<Key> && !std::same_as<std::remove_cvref_t<From>, Braced> &&
           // NOLINTNEXTLINE(bugprone-forwarding-reference-overload): it excludes a Braced
           (MayBecome<From, Key> || Fit<From>())) Braced(From&& from)
      : key_(Braced::Whole(std::forward<From>(from))) {}
  template <class From>
  requires(Number<Key>&& std::convertible_to<const From&, Key>)
      Braced(const From& from)  // it may be a bit-field, to which no other reference binds
      : key_(detail::LosslessCast<Key>(from)) {}

  template <class A = At<0>, class B = At<1>>
  requires(Fit<A, B>()) Braced(A&& a, B&& b)
      : Braced(kEach, std::forward<A>(a), std::forward<B>(b)) {}

  template <class A = At<0>, class B = At<1>, class C = At<2>>
  requires(Fit<A, B, C>()) Braced(A&& a, B&& b, C&& c)
      : Braced(kEach, std::forward<A>(a), std::forward<B>(b), std::forward<C>(c)) {}

  template <class A = At<0>, class B = At<1>, class C = At<2>, class D = At<3>>
  requires(Fit<A, B, C, D>()) Braced(A&& a, B&& b, C&& c, D&& d)
      : Braced(kEach, std::forward<A>(a), std::forward<B>(b), std::forward<C>(c),
               std::forward<D>(d)) {}

  // For more elements: none has braces of its own, or some have.
  template <class... Args>
  requires(kSize > kMostListed && Fit<Args...>()) Braced(Args&&... args)
      : Braced(kEach, std::forward<Args>(args)...) {}
  Braced(BracedKey<std::remove_cv_t<Elements>>... elements) requires(kSize > kMostListed)
      : Braced(kEach, std::move(elements)...) {}

  const Key& get() const noexcept { return key_; }
  operator const Key&() const noexcept { return key_; }  // for a group that is not the library's

 private:
  template <class, class...>
  friend class Braced;

  struct EachElement {};
  static constexpr EachElement kEach{};

  template <std::same_as<EachElement> Each, class... Args>  // so that no {} becomes an EachElement
  Braced(Each, Args&&... args)
      : key_(Braced::Become<std::remove_cv_t<Elements>>(std::forward<Args>(args))...) {}

  // What is given in one pair of braces is the Key's only element, or else the whole Key.
  template <class From>
  static decltype(auto) Whole(From&& from) {
    if constexpr (kSize == 1 && std::same_as<std::remove_cvref_t<From>, At<0>>) {
      return Braced::Become<Elements...>(std::forward<From>(from));
    } else {
      return Braced::Become<Key>(std::forward<From>(from));
    }
  }

  template <class To, class From>
  static decltype(auto) Become(From&& from) {
    if constexpr (kIsBraced<std::remove_cvref_t<From>>) {
      return std::move(from.key_);
    } else if constexpr (std::same_as<std::remove_cvref_t<From>, To>) {
      return std::forward<From>(from);
    } else {
      return detail::LosslessCast<To>(from);
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

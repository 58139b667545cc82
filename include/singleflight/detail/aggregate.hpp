// SPDX-License-Identifier: MIT
#pragma once

// VisitMembers: passes the members of an aggregate to a function.
//
//   struct Point { int x, y; } point = {1, 2};
//   VisitMembers(point, [](int& x, int& y) { x = y; });
//
// C++20 does not tell how many members a class has. But an aggregate can be initialized with as
// many things as it has members. So this tries how many it takes of a thing that converts to any
// type. An array takes one for each of its elements, so it also tries where braces may stand.

#include <concepts>
#include <cstddef>
#include <exception>
#include <type_traits>
#include <utility>

#include "requirements.hpp"

namespace singleflight::detail {

template <class T, class Aggregate>
concept OtherThan = !std::same_as<T, Aggregate>;
template <class T, class Aggregate>
concept BaseOf = OtherThan<T, Aggregate> && std::is_base_of_v<T, Aggregate>;

// Converts to anything but the aggregate itself. It is never called, but must have a body, since a
// compiler may look into the constructors that take it.
template <class Aggregate>
struct Anything {
  template <OtherThan<Aggregate> Member>
  operator Member() const noexcept {
    std::terminate();
  }
};
// Converts to a base class of the aggregate only.
template <class Aggregate>
struct AnyBase {
  template <BaseOf<Aggregate> Base>
  operator Base() const noexcept {
    std::terminate();
  }
};

// Converts to a union only.
struct AnyUnion {
  template <class Union>
  requires std::is_union_v<Union>
  operator Union() const noexcept { std::terminate(); }
};
// Converts to nothing. It is taken only by a class that is constructed from anything.
struct NoConversion {};

template <class Aggregate, std::size_t... kIndices>
constexpr bool Takes(std::index_sequence<kIndices...>) {
  return requires { Aggregate{(static_cast<void>(kIndices), Anything<Aggregate>())...}; };
}

// Whether the first initializer may be a base class, with kOthers after it.
template <class Aggregate, std::size_t... kOthers>
constexpr bool TakesBase(std::index_sequence<kOthers...>) {
  return requires {
    Aggregate{AnyBase<Aggregate>(), (static_cast<void>(kOthers), Anything<Aggregate>())...};
  };
}

// Whether braces around kInner initializers may follow kBefore others and precede kAfter others.
template <class Aggregate, std::size_t... kBefore, std::size_t... kInner, std::size_t... kAfter>
constexpr bool TakesBraces(std::index_sequence<kBefore...>, std::index_sequence<kInner...>,
                           std::index_sequence<kAfter...>) {
  using Any = Anything<Aggregate>;
  return requires {
    Aggregate{(static_cast<void>(kBefore), Any())...,
              {(static_cast<void>(kInner), Any())...},
              (static_cast<void>(kAfter), Any())...};
  };
}

// Whether a Special may stand after kBefore others and before kAfter others.
template <class Aggregate, class Special, std::size_t... kBefore, std::size_t... kAfter>
constexpr bool TakesSpecial(std::index_sequence<kBefore...>, std::index_sequence<kAfter...>) {
  using Any = Anything<Aggregate>;
  return requires {
    Aggregate{(static_cast<void>(kBefore), Any())..., Special(),
              (static_cast<void>(kAfter), Any())...};
  };
}

inline constexpr std::size_t kMaxInitializers = 256;
inline constexpr std::size_t kMaxMembers = 24;
inline constexpr std::size_t kUnknownCount = ~std::size_t{0};

// Whether an Aggregate that takes kInitializers has more members. The next is then of a class whose
// constructors take Anything as well, so that the conversion is ambiguous. Braces avoid that.
template <class Aggregate, std::size_t kInitializers>
constexpr bool TakesMore() {
  using Before = std::make_index_sequence<kInitializers>;
  using None = std::index_sequence<>;
  return (kInitializers == 0 && !std::is_empty_v<Aggregate>) ||
         detail::TakesBraces<Aggregate>(Before(), None(), None()) ||
         detail::TakesBraces<Aggregate>(Before(), std::make_index_sequence<1>(), None());
}

// How many initializers an Aggregate takes at most, or kUnknownCount.
template <class Aggregate, std::size_t kTried = 0, bool kTaken = false>
constexpr std::size_t CountInitializers() {
  constexpr bool kTakesIt = detail::Takes<Aggregate>(std::make_index_sequence<kTried>());
  if constexpr (kTaken && !kTakesIt) {
    return detail::TakesMore<Aggregate, kTried - 1>() ? kUnknownCount : kTried - 1;
  } else if constexpr (kTried > kMaxInitializers) {
    return kUnknownCount;
  } else {
    return detail::CountInitializers<Aggregate, kTried + 1, kTakesIt>();
  }
}

// How many of kLeft initializers belong to the member for which the first is. For an array that is
// the number of its elements: they may stand in braces, and then no other initializers fit.
template <class Aggregate, std::size_t kBefore, std::size_t kLeft, std::size_t kTried = 2>
constexpr std::size_t InitializersOfMember() {
  if constexpr (kTried > kLeft) {
    return 1;
  } else {
    using Before = std::make_index_sequence<kBefore>;
    using Inner = std::make_index_sequence<kTried>;
    constexpr bool kFits = detail::TakesBraces<Aggregate>(
        Before(), Inner(), std::make_index_sequence<kLeft - kTried>());
    constexpr bool kFitsAsOne =
        detail::TakesBraces<Aggregate>(Before(), Inner(), std::make_index_sequence<kLeft - 1>());
    if constexpr (kFits && !kFitsAsOne) {
      return kTried;
    } else {
      return detail::InitializersOfMember<Aggregate, kBefore, kLeft, kTried + 1>();
    }
  }
}

template <class Aggregate, std::size_t kBefore, std::size_t kLeft>
constexpr std::size_t CountMembersFrom() {
  if constexpr (kLeft == 0) {
    return 0;
  } else {
    constexpr std::size_t kOne = detail::InitializersOfMember<Aggregate, kBefore, kLeft>();
    return 1 + detail::CountMembersFrom<Aggregate, kBefore + kOne, kLeft - kOne>();
  }
}

// How many members an Aggregate has, arrays included. kUnknownCount if it has a base class, a
// member that is constructed from anything, or so many members or elements that they are not
// counted.
template <class Aggregate>
constexpr std::size_t CountMembers() {
  constexpr std::size_t kInitializers = detail::CountInitializers<Aggregate>();
  if constexpr (kInitializers == 0 || kInitializers == kUnknownCount) {
    return kInitializers;
  } else if constexpr (detail::TakesBase<Aggregate>(
                           std::make_index_sequence<kInitializers - 1>())) {
    return kUnknownCount;
  } else {
    constexpr std::size_t kCount = detail::CountMembersFrom<Aggregate, 0, kInitializers>();
    return kCount <= kMaxMembers ? kCount : kUnknownCount;
  }
}

// Whether the members for which the last kLeft initializers are include a union.
template <class Aggregate, std::size_t kBefore, std::size_t kLeft>
constexpr bool HasUnionFrom() {
  if constexpr (kLeft == 0) {
    return false;
  } else {
    using Before = std::make_index_sequence<kBefore>;
    using After = std::make_index_sequence<kLeft - 1>;
    constexpr std::size_t kOne = detail::InitializersOfMember<Aggregate, kBefore, kLeft>();
    return (detail::TakesSpecial<Aggregate, AnyUnion>(Before(), After()) &&
            !detail::TakesSpecial<Aggregate, NoConversion>(Before(), After())) ||
           detail::HasUnionFrom<Aggregate, kBefore + kOne, kLeft - kOne>();
  }
}

// Whether a member of an Aggregate is a union, which may be an anonymous one, or an array of
// unions. The Aggregate's members must have been counted.
template <class Aggregate>
constexpr bool HasUnion() {
  return detail::HasUnionFrom<Aggregate, 0, detail::CountInitializers<Aggregate>()>();
}

// Returns fn(members...). `Aggregate` may be const. It has neither a union (see HasUnion) nor a
// bit-field. C++20 has no way to ask about the latter: the compiler refuses it by its name here.
template <class Aggregate, class Fn>
constexpr decltype(auto) VisitMembers(Aggregate& aggregate, Fn&& fn) {
  constexpr std::size_t kCount = detail::CountMembers<std::remove_cv_t<Aggregate>>();
  static_assert(kCount != kUnknownCount);
  if constexpr (kCount == 0) {
    return fn();
  } else if constexpr (kCount == 1) {
    auto& [a] = aggregate;
    return fn(a);
  } else if constexpr (kCount == 2) {
    auto& [a, b] = aggregate;
    return fn(a, b);
  } else if constexpr (kCount == 3) {
    auto& [a, b, c] = aggregate;
    return fn(a, b, c);
  } else if constexpr (kCount == 4) {
    auto& [a, b, c, d] = aggregate;
    return fn(a, b, c, d);
  } else if constexpr (kCount == 5) {
    auto& [a, b, c, d, e] = aggregate;
    return fn(a, b, c, d, e);
  } else if constexpr (kCount == 6) {
    auto& [a, b, c, d, e, f] = aggregate;
    return fn(a, b, c, d, e, f);
  } else if constexpr (kCount == 7) {
    auto& [a, b, c, d, e, f, g] = aggregate;
    return fn(a, b, c, d, e, f, g);
  } else if constexpr (kCount == 8) {
    auto& [a, b, c, d, e, f, g, h] = aggregate;
    return fn(a, b, c, d, e, f, g, h);
  } else if constexpr (kCount == 9) {
    auto& [a, b, c, d, e, f, g, h, i] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i);
  } else if constexpr (kCount == 10) {
    auto& [a, b, c, d, e, f, g, h, i, j] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j);
  } else if constexpr (kCount == 11) {
    auto& [a, b, c, d, e, f, g, h, i, j, k] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k);
  } else if constexpr (kCount == 12) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l);
  } else if constexpr (kCount == 13) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m);
  } else if constexpr (kCount == 14) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n);
  } else if constexpr (kCount == 15) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o);
  } else if constexpr (kCount == 16) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p);
  } else if constexpr (kCount == 17) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q);
  } else if constexpr (kCount == 18) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r);
  } else if constexpr (kCount == 19) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s);
  } else if constexpr (kCount == 20) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t);
  } else if constexpr (kCount == 21) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u);
  } else if constexpr (kCount == 22) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v);
  } else if constexpr (kCount == 23) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w);
  } else if constexpr (kCount == 24) {
    auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x] = aggregate;
    return fn(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x);
  }
}

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// What a ReadThrough asks about its keys: whether they own what they say, and the calls of a
// cache's functions, for KeepsApart.

#include <concepts>
#include <cstddef>
#include <functional>
#include <span>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

namespace singleflight::detail {

template <class T>
concept Character = std::same_as<T, char> || std::same_as<T, wchar_t> || std::same_as<T, char8_t> ||
    std::same_as<T, char16_t> || std::same_as<T, char32_t>;

// Whether a kept key would refer to what its caller may destroy: a view or a C string, also in a
// pair or tuple.
template <class Key>
inline constexpr bool kIsViewKey = false;
template <class Char, class CharTraits>
inline constexpr bool kIsViewKey<std::basic_string_view<Char, CharTraits>> = true;
template <class Element, std::size_t kExtent>
inline constexpr bool kIsViewKey<std::span<Element, kExtent>> = true;
template <class T>
inline constexpr bool kIsViewKey<std::reference_wrapper<T>> = true;
template <class Char>
requires(Character<std::remove_cv_t<Char>>) inline constexpr bool kIsViewKey<Char*> = true;
template <class First, class Second>
inline constexpr bool kIsViewKey<std::pair<First, Second>> =
    kIsViewKey<First> || kIsViewKey<Second>;
template <class... Parts>
inline constexpr bool kIsViewKey<std::tuple<Parts...>> = (... || kIsViewKey<Parts>);

template <class Cache>
struct CallsGet {
  template <class Key>
  auto operator()(Key&& key) const -> decltype(std::declval<Cache&>().Get(std::forward<Key>(key)));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Get<Given>(std::forward<Key>(key)));
};
template <class Cache, class Value>
struct CallsPut {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<Cache&>().Put(std::forward<Key>(key), std::declval<const Value&>()));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Put<Given>(std::forward<Key>(key),
                                                           std::declval<const Value&>()));
};
template <class Cache>
struct CallsErase {
  template <class Key>
  auto operator()(Key&& key) const
      -> decltype(std::declval<Cache&>().Erase(std::forward<Key>(key)));
  template <class Key, class Given, class Its = Cache>
  auto operator()(Key&& key, std::type_identity<Given>) const
      -> decltype(std::declval<Its&>().template Erase<Given>(std::forward<Key>(key)));
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// DefaultHash and DefaultEqual: how a group hashes and compares its keys unless you say otherwise.
// With them, a group of string keys accepts a std::string_view or a const char* as the key, and Do
// allocates nothing for it.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "detail/requirements.hpp"

namespace singleflight {

namespace detail {

template <class Key>
struct StringView {  // not a string, so there is no view
  struct type {};
};

template <class Char, class Allocator>
struct StringView<std::basic_string<Char, std::char_traits<Char>, Allocator>> {
  using type = std::basic_string_view<Char>;
};

// Hashes std::string, std::string_view and const char* alike, without constructing a string.
template <class View>
struct TransparentStringHash {
  using is_transparent = void;
  std::size_t operator()(View key) const noexcept { return std::hash<View>{}(key); }
};

template <class Key>
struct Defaults {
  using Hash = std::hash<Key>;
  using Equal = std::equal_to<Key>;
};

template <class Char, class Allocator>
struct Defaults<std::basic_string<Char, std::char_traits<Char>, Allocator>> {
  using Hash = TransparentStringHash<std::basic_string_view<Char>>;
  using Equal = std::equal_to<>;
};

}  // namespace detail

// Is a hash that also accepts views if Key is a string, and otherwise std::hash<Key>.
template <class Key>
using DefaultHash = typename detail::Defaults<Key>::Hash;

// Is std::equal_to<> if Key is a string, and otherwise std::equal_to<Key>.
template <class Key>
using DefaultEqual = typename detail::Defaults<Key>::Equal;

}  // namespace singleflight

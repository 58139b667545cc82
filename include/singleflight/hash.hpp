// SPDX-License-Identifier: MIT
#pragma once

// How keys are hashed and compared unless the user says otherwise.

#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

namespace singleflight {

namespace detail {

template <class Key>
struct StringView {  // not a string: no view
  struct type {};
};

template <class Char, class Allocator>
struct StringView<std::basic_string<Char, std::char_traits<Char>, Allocator>> {
  using type = std::basic_string_view<Char>;
};

// Hashes std::string, std::string_view and const char* alike, without making a string of them.
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

template <class Key>
using DefaultHash = typename detail::Defaults<Key>::Hash;

template <class Key>
using DefaultEqual = typename detail::Defaults<Key>::Equal;

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// DefaultHash and DefaultEqual: how a group hashes and compares its keys unless you say otherwise.
// With them, a group of string keys accepts a std::string_view or a const char* as the key, and Do
// allocates nothing for it.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include "detail/hash_seed.hpp"
#include "detail/requirements.hpp"
#include "detail/string_hash.hpp"

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

// Hashes std::string, std::string_view and const char* alike, without constructing a string. Every
// group hashes with a seed of its own, so nobody can find strings that meet in its table.
template <class View>
struct TransparentStringHash {
  using is_transparent = void;
  std::size_t operator()(View key) const noexcept { return std::hash<View>{}(key); }
  std::uint64_t operator()(View key, const HashSeed& seed) const noexcept {
    return detail::HashBytes(key.data(), key.size() * sizeof(typename View::value_type), seed);
  }
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

// Is std::hash<Key>, unless Key is a string. Then it is a hash that also accepts views, is fast for
// short strings, and takes a seed that each group draws. For std::hash, give the group a Hash that
// calls it.
template <class Key>
using DefaultHash = typename detail::Defaults<Key>::Hash;

// Is std::equal_to<> if Key is a string, and otherwise std::equal_to<Key>.
template <class Key>
using DefaultEqual = typename detail::Defaults<Key>::Equal;

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// KeyView: a key as callers of a redis::Group give it, which is whatever converts to a view. Unlike
// a std::string_view, it refuses a null pointer, and reads no further than an array is long.

#include <concepts>
#include <cstddef>
#include <string_view>

#include "../lossless_cast.hpp"

namespace singleflight::redis::detail {

template <class Key>
concept ConvertsToView = std::convertible_to<const Key&, std::string_view>;

class KeyView : public std::string_view {
 public:
  // Errors: std::invalid_argument for a null pointer.
  template <ConvertsToView Key>
  KeyView(const Key& key)  // NOLINT(google-explicit-constructor): it takes what a view takes
      : std::string_view(singleflight::detail::ToView<std::string_view>(key)) {}
  KeyView(const char* first, std::size_t size) : std::string_view(first, size) {}
};

}  // namespace singleflight::redis::detail

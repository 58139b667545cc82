// SPDX-License-Identifier: MIT
#pragma once

// Reads UTF-8 strictly, as RFC 3629 says. A part of debug_page.hpp and spans.hpp.

#include <cstddef>
#include <string_view>

namespace utf8 {

struct Character {
  char32_t code;
  std::size_t size;  // in bytes. 0: the first byte begins no character
};

// Returns the first character of a text in UTF-8 that is not empty.
inline Character FirstOf(std::string_view text) {
  const auto byte = [text](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned first = byte(0);
  const std::size_t size = first < 0x80   ? 1
                           : first < 0xC2 ? 0
                           : first < 0xE0 ? 2
                           : first < 0xF0 ? 3
                           : first < 0xF5 ? 4
                                          : 0;
  if (size == 0 || size > text.size()) return {first, 0};
  char32_t code = size == 1 ? first : first & (0x7FU >> size);
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return {first, 0};
    code = code << 6 | (byte(i) & 0x3F);
  }
  constexpr char32_t kLeast[] = {0, 0, 0x80, 0x800, 0x10000};
  const bool is_surrogate = code >= 0xD800 && code < 0xE000;
  if (code < kLeast[size] || code > 0x10FFFF || is_surrogate) return {first, 0};
  return {code, size};
}

}  // namespace utf8

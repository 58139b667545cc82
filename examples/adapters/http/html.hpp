// SPDX-License-Identifier: MIT
#pragma once

// Writes bytes from outside, numbers and times as HTML. A part of debug_page.hpp.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "utf8.hpp"

namespace html {

// Whether a reader would see the character, and nothing else moves because of it. Spaces other than
// U+0020, controls of the direction of text, and characters without width are not visible.
inline bool IsVisible(char32_t code) {
  constexpr char32_t kHidden[][2] = {
      {0, 0x1F},          {0x7F, 0xA0},     {0xAD, 0xAD},     {0x34F, 0x34F},   {0x61C, 0x61C},
      {0x115F, 0x1160},   {0x1680, 0x1680}, {0x17B4, 0x17B5}, {0x180B, 0x180F}, {0x2000, 0x200F},
      {0x2028, 0x202F},   {0x205F, 0x206F}, {0x3000, 0x3000}, {0x3164, 0x3164}, {0xD800, 0xF8FF},
      {0xFE00, 0xFE0F},   {0xFEFF, 0xFEFF}, {0xFFA0, 0xFFA0}, {0xFFF0, 0xFFFB}, {0xFFFE, 0xFFFF},
      {0xE0000, 0x10FFFF}};
  for (const auto& [begin, end] : kHidden) {
    if (code >= begin && code <= end) return false;
  }
  return true;
}

// Returns 1234567 as 1,234,567.
inline std::string Number(std::uint64_t number) {
  std::string text = std::to_string(number);
  for (std::size_t i = text.size(); i > 3; i -= 3) text.insert(i - 3, 1, ',');
  return text;
}

// Returns a length of time in the unit that fits it, such as 1.2 ms or 15 s.
inline std::string Time(std::chrono::nanoseconds time) {
  constexpr std::int64_t kSecond = 1'000'000'000;
  constexpr std::pair<std::int64_t, const char*> kUnits[] = {
      {86'400 * kSecond, " d"}, {3600 * kSecond, " h"}, {60 * kSecond, " min"},
      {kSecond, " s"},          {1'000'000, " ms"},     {1000, " µs"}};
  for (const auto& [unit, name] : kUnits) {
    if (time.count() < unit) continue;
    const std::int64_t tenths = (time.count() + unit / 20) / (unit / 10);
    if (tenths >= 100) return std::to_string((time.count() + unit / 2) / unit) + name;
    return std::to_string(tenths / 10) + '.' + std::to_string(tenths % 10) + name;
  }
  return std::to_string(time.count() < 0 ? 0 : time.count()) + " ns";
}

// Appends a text that may come from a client, as the content of an element. What is not visible
// becomes <i>\x0a</i> or <i>\u{202e}</i>. A backslash of the text itself is in no <i>, so the two
// differ. If the text is longer than `most` bytes, appends its beginning, and how long it is.
inline void AppendText(std::string& out, std::string_view text, std::size_t most = 200) {
  const std::size_t size = text.size();
  std::string_view rest = text;
  while (!rest.empty()) {
    const auto [code, bytes] = utf8::FirstOf(rest);
    const std::size_t taken = bytes == 0 ? 1 : bytes;
    if (size - rest.size() + taken > most) break;
    if (bytes == 0 || !IsVisible(code)) {
      char escape[32];
      const bool is_byte = bytes <= 1;
      std::snprintf(escape, sizeof(escape), is_byte ? "<i>\\x%02x</i>" : "<i>\\u{%x}</i>",
                    static_cast<unsigned>(code));
      out += escape;
    } else if (const auto at = std::string_view("&<>\"'").find(rest.front());
               at != std::string_view::npos) {
      constexpr const char* kNames[] = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
      out += kNames[at];
    } else {
      out += rest.substr(0, taken);
    }
    rest.remove_prefix(taken);
  }
  if (size == 0) out += "<i>empty</i>";
  if (!rest.empty()) out += "… <i>" + Number(size) + " bytes in all</i>";
}

}  // namespace html

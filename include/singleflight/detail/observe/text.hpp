// SPDX-License-Identifier: MIT
#pragma once

// Helpers for Prometheus' text and for JSON: numbers that no locale changes, text that is valid
// UTF-8, and the names that are allowed.

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace singleflight::detail {

inline void AppendNumber(std::string& text, std::uint64_t number) {
  char digits[20];  // as many as 2^64 - 1 has
  text.append(digits, std::to_chars(digits, digits + sizeof(digits), number).ptr);
}

// Appends nanoseconds as seconds, exactly: 1'500'000 is 0.0015.
inline void AppendSeconds(std::string& text, std::uint64_t nanoseconds) {
  constexpr std::uint64_t kSecond = 1'000'000'000;
  AppendNumber(text, nanoseconds / kSecond);
  if (nanoseconds % kSecond == 0) return;
  const std::size_t point = text.size();
  AppendNumber(text, kSecond + nanoseconds % kSecond);  // its first digit, 1, keeps the zeros
  text[point] = '.';
  text.erase(text.find_last_not_of('0') + 1);
}

// Returns how many bytes the first character of `text`, which is not empty, has in UTF-8. 0: its
// bytes are not valid.
constexpr std::size_t CharacterSize(std::string_view text) noexcept {
  const auto byte = [text](std::size_t i) {
    return i < text.size() ? static_cast<unsigned char>(text[i]) : 0U;
  };
  const unsigned first = byte(0), second = byte(1);
  if (first < 0x80) return 1;
  if (first < 0xC2 || first > 0xF4) return 0;
  if (first == 0xE0 && second < 0xA0) return 0;  // would fit two bytes
  if (first == 0xED && second > 0x9F) return 0;  // a surrogate
  if (first == 0xF0 && second < 0x90) return 0;  // would fit three bytes
  if (first == 0xF4 && second > 0x8F) return 0;  // beyond U+10FFFF
  const std::size_t size = first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
  for (std::size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xC0) != 0x80) return 0;
  }
  return size;
}

// Returns `text` with U+FFFD in place of each byte that is not valid UTF-8, and of each NUL, at
// which some readers stop.
inline std::string ValidText(std::string_view text) {
  std::string valid;
  valid.reserve(text.size());
  while (!text.empty()) {
    const std::size_t size = text.front() == '\0' ? 0 : CharacterSize(text);
    valid += size == 0 ? std::string_view("\xEF\xBF\xBD") : text.substr(0, size);
    text.remove_prefix(size == 0 ? 1 : size);
  }
  return valid;
}

// Appends text as Prometheus reads it: with a backslash before those characters, and \n for the end
// of a line.
inline void AppendEscaped(std::string& out, std::string_view text, std::string_view characters) {
  for (const char c : text) {
    if (c == '\n' || characters.find(c) != characters.npos) out += '\\';
    out += c == '\n' ? 'n' : c;
  }
}

// Appends a JSON string with its quotes.
inline void AppendJsonString(std::string& out, std::string_view text) {
  constexpr std::string_view kHex = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20) {
      out += "\\u00";
      out += kHex[byte >> 4];
      out += kHex[byte & 15];
    } else {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
  }
  out += '"';
}

// ---- Names

constexpr bool IsLowerCase(char c) noexcept { return c >= 'a' && c <= 'z'; }
constexpr bool IsLetter(char c) noexcept { return IsLowerCase(c) || (c >= 'A' && c <= 'Z'); }
constexpr bool IsDigit(char c) noexcept { return c >= '0' && c <= '9'; }

// `le` and `quantile` have a meaning of their own, and `__` begins those of Prometheus itself.
constexpr bool IsLabelName(std::string_view name) noexcept {
  if (name.empty() || IsDigit(name.front()) || name.starts_with("__")) return false;
  if (name == "le" || name == "quantile") return false;
  for (const char c : name) {
    if (!IsLetter(c) && !IsDigit(c) && c != '_') return false;
  }
  return true;
}

// Lower case letters, digits and single underscores between these. It must not have a suffix that
// is added to names.
constexpr bool IsMetricName(std::string_view name) noexcept {
  if (name.empty() || !IsLowerCase(name.front()) || name.back() == '_') return false;
  for (const char* suffix : {"_total", "_bucket", "_sum", "_count"}) {
    if (name.ends_with(suffix)) return false;
  }
  for (std::size_t i = 0; i < name.size(); ++i) {
    if (name[i] == '_' ? name[i - 1] == '_' : !IsLowerCase(name[i]) && !IsDigit(name[i])) {
      return false;
    }
  }
  return true;
}

}  // namespace singleflight::detail

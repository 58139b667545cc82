// SPDX-License-Identifier: MIT
#pragma once

// Where a request of HTTP/1 begins and ends (RFC 9112). The servers of the examples use it, so that
// they refuse what another server on the way might read as a different request.

#include <algorithm>
#include <array>
#include <cctype>
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "text.hpp"

// The head of a request. It refers to the text that was parsed.
struct HttpHead {
  std::string_view method, target, version;
  HttpFieldViews fields = {};
  std::size_t body_size = 0;
  bool chunked = false;  // body_size is not known
};

// Parses a head up to and including the empty line. Returns the status with which to refuse the
// request, or nothing if it may be served. After a refusal, the connection must be closed.
//
// It is strict: a character, a space or a header that two servers might read in two ways is an
// error, also where HTTP would allow to ignore it.
inline std::string_view ParseHead(std::string_view text, std::size_t max_body, HttpHead& head) {
  constexpr std::string_view kBad = "400 Bad Request";
  // Removes the part before `end` from the text, and `end`. Returns the part.
  const auto cut = [](std::string_view& rest, std::string_view end) {
    const std::size_t at = std::min(rest.find(end), rest.size());
    const std::string_view part = rest.substr(0, at);
    rest.remove_prefix(std::min(at + end.size(), rest.size()));
    return part;
  };
  const auto has_control = [](std::string_view line) {
    return std::ranges::any_of(
        line, [](char c) { return c != '\t' && std::iscntrl(static_cast<unsigned char>(c)) != 0; });
  };
  std::string_view first = cut(text, "\r\n");
  if (has_control(first)) return kBad;
  head.method = cut(first, " ");
  head.target = cut(first, " ");
  head.version = first;
  if (!http_text::IsToken(head.method) || head.target.empty()) return kBad;
  if (head.version != "HTTP/1.1" && head.version != "HTTP/1.0") return kBad;
  while (!text.starts_with("\r\n")) {
    const std::string_view line = cut(text, "\r\n");
    const std::string_view name = line.substr(0, line.find(':'));
    if (has_control(line) || name.size() == line.size()) return kBad;
    // Another server might read "Cookie " as a Cookie, and a line that begins with a space as a
    // part of the line before it.
    if (!http_text::IsToken(name)) return kBad;
    std::string_view value = line.substr(name.size() + 1);
    value.remove_prefix(std::min(value.find_first_not_of(" \t"), value.size()));
    value = value.substr(0, value.find_last_not_of(" \t") + 1);
    head.fields.emplace_back(name, value);
  }

  const bool is_old = head.version == "HTTP/1.0";
  const std::size_t hosts = http_text::ValuesOf(head.fields, "Host").size();  // RFC 9112, 3.2
  if (hosts > 1 || (hosts == 0 && !is_old)) return kBad;
  const auto lengths = http_text::ValuesOf(head.fields, "Content-Length");  // RFC 9112, 6.3
  const auto codings = http_text::ValuesOf(head.fields, "Transfer-Encoding");
  if (lengths.size() + codings.size() > 1) return kBad;
  head.chunked = !codings.empty();
  if (head.chunked) {
    if (is_old) return kBad;
    return http_text::SameName(codings[0], "chunked") ? "" : "501 Not Implemented";
  }
  if (lengths.empty()) return "";
  const std::string length(lengths[0]);
  if (length.empty() || length.find_first_not_of("0123456789") != length.npos) return kBad;
  constexpr std::string_view kTooLarge = "413 Content Too Large";
  if (length.size() > 18) return kTooLarge;
  head.body_size = std::stoull(length);
  return head.body_size > max_body ? kTooLarge : "";
}

// SPDX-License-Identifier: MIT
#pragma once

// Reads header names, header values and request targets, as RFC 9110 writes them. A part of
// http_coalescing.hpp.

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

using HttpFieldViews = std::vector<std::pair<std::string_view, std::string_view>>;
using HttpFields = std::vector<std::pair<std::string, std::string>>;

namespace http_text {

// ---- Names of headers, whose case does not matter (RFC 9110, 5.1)

inline char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }
inline char Upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

inline bool SameName(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, Lower, Lower);
}

inline bool StartsWithName(std::string_view text, std::string_view start) {
  return SameName(text.substr(0, start.size()), start);
}

inline bool EndsWithName(std::string_view text, std::string_view end) {
  return text.size() >= end.size() && SameName(text.substr(text.size() - end.size()), end);
}

template <class Names>
bool HasName(const Names& names, std::string_view name) {
  return std::ranges::any_of(names, [name](const auto& other) { return SameName(other, name); });
}

// Whether a text is a token, as the names of headers and methods are (RFC 9110, 5.6.2).
inline bool IsToken(std::string_view text) {
  constexpr std::string_view kChars =
      "!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
  return !text.empty() && text.find_first_not_of(kChars) == text.npos;
}

// Returns the name as in `Accept-Encoding`.
inline std::string Canonical(std::string_view name) {
  std::string text(name);
  bool first = true;
  for (char& c : text) c = std::exchange(first, c == '-') ? Upper(c) : Lower(c);
  return text;
}

// ---- Values of headers

template <class Fields>
std::vector<std::string_view> ValuesOf(const Fields& fields, std::string_view name) {
  std::vector<std::string_view> values;
  for (const auto& [other, value] : fields) {
    if (SameName(other, name)) values.push_back(value);
  }
  return values;
}

template <class Fields>
bool Has(const Fields& fields, std::string_view name) {
  return std::ranges::any_of(fields,
                             [name](const auto& field) { return SameName(field.first, name); });
}

// Whether a value contains the word, in any case.
inline bool Mentions(std::string_view value, std::string_view word) {
  const auto same = [](char a, char b) { return Lower(a) == Lower(b); };
  return std::search(value.begin(), value.end(), word.begin(), word.end(), same) != value.end();
}

// Returns the elements of a list without quoted commas (RFC 9110, 5.6.1).
inline std::vector<std::string> ListOf(std::string_view value) {
  constexpr std::string_view kSpace = " \t";
  std::vector<std::string> elements;
  for (bool last = false; !last;) {
    const std::size_t comma = std::min(value.find(','), value.size());
    std::string_view element = value.substr(0, comma);
    last = comma == value.size();
    value.remove_prefix(last ? comma : comma + 1);
    element.remove_prefix(std::min(element.find_first_not_of(kSpace), element.size()));
    element = element.substr(0, element.find_last_not_of(kSpace) + 1);
    if (!element.empty()) elements.emplace_back(element);
  }
  return elements;
}

// Whether one of the entity tags in an If-None-Match is this one, by the weak comparison
// (RFC 9110, 8.8.3.2 and 13.1.2).
inline bool NamesTag(std::string_view list, std::string_view tag) {
  if (tag.starts_with("W/")) tag.remove_prefix(2);
  if (list == "*") return true;
  while (!list.empty()) {
    const std::size_t start = list.find('"');
    if (start == list.npos) return false;
    const std::size_t end = list.find('"', start + 1);
    if (end == list.npos) return false;
    if (list.substr(start, end + 1 - start) == tag) return true;
    list.remove_prefix(end + 1);
  }
  return false;
}

// ---- Targets

// Returns the path of a target or a URL, as it is written.
inline std::string_view PathOf(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  const std::size_t scheme = target.find("://");
  if (scheme == target.npos || target.find('/') != scheme + 1) return target;
  const std::size_t start = target.find('/', scheme + 3);
  return start == target.npos ? "/" : target.substr(start);
}

// Returns the path to which a reference in the answer to `target` refers, such as a Location
// (RFC 3986, 5.2).
inline std::string ResolvedPath(std::string_view target, std::string_view reference) {
  const std::string with_scheme = "http:" + std::string(reference);
  const std::string_view path = PathOf(reference.starts_with("//") ? with_scheme : reference);
  const std::string_view base = PathOf(target);
  if (path.empty()) return std::string(base);
  std::string text(path.starts_with('/') ? "" : base.substr(0, base.rfind('/') + 1));
  text += path;
  std::string_view rest = text;
  if (rest.starts_with('/')) rest.remove_prefix(1);
  std::vector<std::string_view> segments;
  for (bool last = false; !last;) {
    const std::size_t end = std::min(rest.find('/'), rest.size());
    const std::string_view segment = rest.substr(0, end);
    last = end == rest.size();
    if (!last) rest.remove_prefix(end + 1);
    const bool is_dots = segment == "." || segment == "..";
    if (segment == ".." && !segments.empty()) segments.pop_back();
    if (!is_dots) segments.push_back(segment);
    if (is_dots && last) segments.emplace_back();
  }
  std::string resolved;
  for (const std::string_view segment : segments) (resolved += '/') += segment;
  return resolved;
}

// Returns the path of a target or a URL, with its percent-encoding decoded.
inline std::string DecodedPath(std::string_view target) {
  target = PathOf(target);
  const auto digit = [](char c) -> int {
    c = Lower(c);
    return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
  };
  std::string path;
  for (std::size_t i = 0; i < target.size(); ++i) {
    const bool encoded = target[i] == '%' && i + 2 < target.size() && digit(target[i + 1]) >= 0 &&
                         digit(target[i + 2]) >= 0;
    path +=
        encoded ? static_cast<char>(digit(target[i + 1]) * 16 + digit(target[i + 2])) : target[i];
    if (encoded) i += 2;
  }
  return path;
}

// Returns the parameters of a query, each as it is written: `name=value`.
inline std::vector<std::string_view> ParametersOf(std::string_view query) {
  std::vector<std::string_view> parameters;
  for (bool last = false; !last;) {
    const std::size_t end = std::min(query.find('&'), query.size());
    parameters.push_back(query.substr(0, end));
    last = end == query.size();
    if (!last) query.remove_prefix(end + 1);
  }
  return parameters;
}

inline std::string_view NameOf(std::string_view parameter) {
  return parameter.substr(0, parameter.find('='));
}

inline std::string WithQuery(std::string_view path,
                             const std::vector<std::string_view>& parameters) {
  std::string target(path);
  char separator = '?';
  for (const std::string_view parameter : parameters) {
    target += std::exchange(separator, '&');
    target += parameter;
  }
  return target;
}

// Returns the target without the parameters that have these names.
inline std::string WithoutParameters(std::string_view target,
                                     const std::vector<std::string>& names) {
  const std::size_t query_at = target.find('?');
  if (query_at == target.npos || names.empty()) return std::string(target);
  std::vector<std::string_view> parameters = ParametersOf(target.substr(query_at + 1));
  std::erase_if(parameters, [&names](std::string_view parameter) {
    return std::ranges::find(names, NameOf(parameter)) != names.end();
  });
  return WithQuery(target.substr(0, query_at), parameters);
}

// Returns the target with its parameters sorted by name. Parameters of one name keep their order.
// The target stays as it is if a framework may see other names than this function, as in
// `%61=1&a=2`.
inline std::string SortedTarget(std::string_view target) {
  static constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const std::size_t query_at = target.find('?');
  if (query_at == target.npos) return std::string(target);
  const std::string_view query = target.substr(query_at + 1);
  std::vector<std::string_view> parameters = ParametersOf(query);
  const bool plain = query.find_first_of("?#;") == query.npos &&
                     std::ranges::all_of(parameters, [](std::string_view parameter) {
                       const std::string_view name = NameOf(parameter);
                       return !name.empty() && name.find_first_not_of(kPlain) == name.npos;
                     });
  if (!plain) return std::string(target);
  std::ranges::stable_sort(parameters, {}, NameOf);
  return WithQuery(target.substr(0, query_at), parameters);
}

// ---- Keys

// Appends a text after its length, so that no two sequences of texts make the same key.
inline void Append(std::string& key, std::string_view text) {
  key += std::to_string(text.size());
  key += ':';
  key += text;
}

// Returns the texts that were appended.
inline std::vector<std::string_view> TextsOf(std::string_view key) {
  std::vector<std::string_view> texts;
  while (!key.empty()) {
    std::size_t size = 0, digits = 0;
    for (; digits < key.size() && key[digits] >= '0' && key[digits] <= '9'; ++digits) {
      size = size * 10 + static_cast<std::size_t>(key[digits] - '0');
    }
    key.remove_prefix(std::min(digits + 1, key.size()));  // and the colon
    texts.push_back(key.substr(0, size));
    key.remove_prefix(std::min(size, key.size()));
  }
  return texts;
}

// Returns another text each time.
inline std::string NextNumber() {
  static std::atomic<std::uint64_t> last = 0;
  return std::to_string(++last);
}

}  // namespace http_text

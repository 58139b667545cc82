// SPDX-License-Identifier: MIT
#pragma once

// SharingKey decides which HTTP requests may share one run of their handler. http_middleware.hpp
// and asio_middleware.hpp use it. It works with any framework whose Request has a `method`, a
// `target` and `headers`, which are pairs of a name and a value. http_sharing.hpp decides which
// answers may be shared.
//
// In case of doubt a request is not shared. Its handler then runs once more. That costs time, but
// nobody sees the answer to somebody else.

#include <algorithm>
#include <atomic>
#include <cctype>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the answers of a handler depend on, and how long to wait for them.
template <class Request>
struct SharingOptions {
  // Further request headers that the answer depends on. Requests that differ in them do not share.
  // If Cookie or Authorization is named here, requests with the same value of it share.
  std::vector<std::string> vary = {};
  // Returns everything else that the answer depends on, as a text: for example the user of a
  // session, or the client's address or certificate.
  //
  // It must be pure, because it is called several times for a request with credentials. The later
  // calls see other credentials in their place. If it then returns the same text or throws, it does
  // not tell users apart, and the request is not shared.
  //
  // **Warning:** this check cannot find every mistake. It does not notice a key that leaves out a
  // part of a credential, such as one of two cookies. It does not notice a key that has only a role
  // or a tenant that was looked up. Name the header in `vary` instead if you are in doubt, or if
  // looking up an invented credential has effects.
  std::function<std::string(const Request&)> key = {};
  // How long a request waits for another request's run of the handler before it is answered with
  // 503. In asio_middleware.hpp this limits the request that started the run as well.
  std::optional<std::chrono::nanoseconds> timeout = {};
};

namespace http_sharing {

inline constexpr const char* kCredentials[] = {"Authorization", "Cookie", "Proxy-Authorization"};

// The headers that commonly select the answer, make it conditional or name a user.
inline constexpr const char* kSelecting[] = {
    // the site
    "Host", "X-Forwarded-Host", "X-Forwarded-Proto", "Origin",
    // the form of the answer
    "Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Range",
    // conditions, preferences, and headers that replace the path or the method
    "If-Match", "If-None-Match", "If-Modified-Since", "If-Unmodified-Since", "If-Range",
    "Accept-Charset", "Prefer", "X-Requested-With", "X-Original-URL", "X-Rewrite-URL",
    "X-HTTP-Method-Override",
    // the user
    "X-Api-Key", "X-Auth-Token", "X-Access-Token", "X-Authorization", "X-Session-Id",
    "X-Csrf-Token", "Private-Token", "DPoP", "X-Remote-User", "X-Forwarded-User",
    "X-Forwarded-Email", "X-Auth-Request-User", "X-Client-Cert", "Ssl-Client-Cert",
    "Cf-Access-Jwt-Assertion", "X-Amzn-Oidc-Data"};

// Returns a prefix for the keys of one coalesced handler, so that no two handlers share answers.
inline std::string NextRoute() {
  static std::atomic<std::uint64_t> last = 0;
  return std::to_string(++last) + ' ';
}

inline char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; }

inline bool SameName(std::string_view a, std::string_view b) {
  return std::ranges::equal(a, b, {}, Lower, Lower);
}

template <class Headers>
std::vector<std::string_view> ValuesOf(const Headers& headers, std::string_view name) {
  std::vector<std::string_view> values;
  for (const auto& [header, value] : headers) {
    if (SameName(header, name)) values.push_back(value);
  }
  return values;
}

template <class Headers>
bool Has(const Headers& headers, std::string_view name) {
  return !ValuesOf(headers, name).empty();
}

// Appends a text after its length, so that no two sequences of texts make the same key.
inline void Append(std::string& key, std::string_view text) {
  key += std::to_string(text.size());
  key += ':';
  key += text;
}

// Returns all values of the headers with these names, as one text.
template <class Headers, class Names>
std::string Selected(const Headers& headers, const Names& names) {
  std::string text;
  for (const auto& name : names) {
    const std::vector<std::string_view> values = ValuesOf(headers, name);
    text += std::to_string(values.size()) + 'x';  // no header is not an empty header
    for (const std::string_view value : values) Append(text, value);
  }
  return text;
}

// Returns the target with its parameters sorted by name. Parameters of one name keep their order.
// The target stays as it is if the framework may see other names than this function, as in
// `%61=1&a=2`.
inline std::string SortedTarget(std::string_view target) {
  constexpr std::string_view kPlain =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  const std::size_t query_at = target.find('?');
  std::string sorted(target.substr(0, query_at));
  if (query_at == target.npos) return sorted;
  std::string_view rest = target.substr(query_at + 1);
  if (rest.find_first_of("?#;") != rest.npos) return std::string(target);
  std::vector<std::pair<std::string_view, std::string_view>> parameters;  // name, `name=value`
  for (bool last = false; !last;) {
    const std::size_t end = std::min(rest.find('&'), rest.size());
    const std::string_view parameter = rest.substr(0, end);
    const std::string_view name = parameter.substr(0, parameter.find('='));
    if (name.empty() || name.find_first_not_of(kPlain) != name.npos) return std::string(target);
    parameters.emplace_back(name, parameter);
    last = end == rest.size();
    if (!last) rest.remove_prefix(end + 1);
  }
  std::ranges::stable_sort(parameters, {}, [](const auto& parameter) { return parameter.first; });
  char separator = '?';
  for (const auto& [name, parameter] : parameters) {
    sorted += std::exchange(separator, '&');
    sorted += parameter;
  }
  return sorted;
}

// Returns other credentials of the same form. A scheme and the names of cookies stay the same.
inline std::string OtherCredentials(std::string text) {
  const std::size_t start = text.find_first_of(" =;");
  bool in_value = true;
  for (std::size_t i = start == text.npos ? 0 : start; i < text.size(); ++i) {
    char& c = text[i];
    if (c == '=' || c == ';') {
      in_value = c == '=';
    } else if (in_value && std::isalnum(static_cast<unsigned char>(c))) {
      c = c == '0' ? '1' : '0';
    }
  }
  return text;
}

// Returns whether options.key, which has returned `key`, returns something else for other
// credentials.
template <class Request>
bool TellsApart(const SharingOptions<Request>& options, const Request& request,
                std::string_view credential, const std::string& key) {
  Request other = request;
  for (auto& [name, value] : other.headers) {
    if (SameName(name, credential)) value = OtherCredentials(value);
  }
  try {
    return options.key(other) != key;
  } catch (const std::exception&) {
    return false;
  }
}

}  // namespace http_sharing

// Returns the key by which a request shares its answer. Returns nothing for a request that must not
// share: one that is not GET or HEAD, has a body, or has credentials that neither options.vary nor
// options.key includes. Requests with equal keys have the same method, path, query parameters, text
// from options.key, and values of all headers that select an answer.
template <class Request>
std::optional<std::string> SharingKey(const Request& request,
                                      const SharingOptions<Request>& options) {
  using namespace http_sharing;
  if (request.method != "GET" && request.method != "HEAD") return std::nullopt;
  const auto lengths = ValuesOf(request.headers, "Content-Length");
  const bool empty = std::ranges::all_of(lengths, [](auto length) { return length == "0"; });
  if (!empty || Has(request.headers, "Transfer-Encoding")) return std::nullopt;

  const std::string of_user = options.key ? options.key(request) : std::string();
  std::string key;
  for (const char* const name : kCredentials) {
    const bool given = Has(request.headers, name);
    const auto is_it = [name](const std::string& other) { return SameName(name, other); };
    if (given && std::ranges::none_of(options.vary, is_it) &&
        !(options.key && TellsApart(options, request, name, of_user))) {
      return std::nullopt;
    }
    key += given ? '+' : '-';  // a user is never mistaken for a request without credentials
  }
  Append(key, request.method);
  Append(key, SortedTarget(request.target));
  Append(key, of_user);
  key += Selected(request.headers, kSelecting);
  key += Selected(request.headers, options.vary);
  return key;
}

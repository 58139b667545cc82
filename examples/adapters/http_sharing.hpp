// SPDX-License-Identifier: MIT
#pragma once

// Which answers to HTTP requests may be shared, for any framework whose Response has `headers`,
// pairs of a name and a value. http_key.hpp says which requests may share one.

#include <algorithm>
#include <exception>
#include <optional>
#include <singleflight/group.hpp>
#include <sstream>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "http_key.hpp"

namespace http_sharing {

// The names in Vary.
template <class Headers>
std::vector<std::string> VaryOf(const Headers& headers) {
  std::vector<std::string> names;
  for (const std::string_view value : ValuesOf(headers, "Vary")) {
    std::string list(value);
    std::ranges::replace(list, ',', ' ');
    std::istringstream in(list);
    for (std::string name; in >> name;) names.push_back(name);
  }
  return names;
}

// Whether a response with these headers is for one request only.
template <class Headers>
bool IsForOne(const Headers& headers) {
  for (const std::string_view value : ValuesOf(headers, "Cache-Control")) {
    std::string directives(value);  // to find a word that only looks like these does no harm
    std::ranges::transform(value, directives.begin(), Lower);
    if (directives.find("private") != directives.npos) return true;
    if (directives.find("no-store") != directives.npos) return true;
  }
  return Has(headers, "Set-Cookie") || std::ranges::count(VaryOf(headers), "*") != 0;
}

// A std::system_error of a handler, so that nobody takes it for one of the group.
struct HandlerError {
  std::exception_ptr error;
};

}  // namespace http_sharing

// What a call lands with: the response to its leader's request, and for whom it is good besides.
template <class Response>
class Shareable {
 public:
  // For nobody but the leader, who has the response elsewhere.
  Shareable() = default;

  template <class Request>
  Shareable(const Request& leader, Response made)
      : response(std::move(made)),
        for_followers_(!http_sharing::IsForOne(response.headers)),
        vary_(http_sharing::VaryOf(response.headers)),
        selected_by_(http_sharing::Selected(leader.headers, vary_)) {}

  // Whether a follower may have it: it is for more than one, and the follower's request has the
  // leader's values of the headers that the response names in Vary (RFC 9111, section 4.1).
  template <class Request>
  bool Answers(const Request& follower) const {
    return for_followers_ && http_sharing::Selected(follower.headers, vary_) == selected_by_;
  }

  Response response;

 private:
  bool for_followers_ = false;
  std::vector<std::string> vary_;
  std::string selected_by_;
};

// One may serve all the handlers of a server; two servers need two.
template <class Response>
using ResponseGroup = singleflight::Group<std::string, Shareable<Response>>;

// What `ask`, which asks a group, returns. Nothing if a limit of the group refused this caller or
// its timeout passed: to be answered with 503. Else throws what `ask` does.
template <class Ask>
auto UnlessRefused(Ask&& ask) -> std::optional<decltype(ask())> {
  try {
    return ask();
  } catch (const http_sharing::HandlerError& handler) {
    std::rethrow_exception(handler.error);
  } catch (const std::system_error& error) {
    if (error.code() != std::errc::resource_unavailable_try_again &&
        error.code() != std::errc::timed_out) {
      throw;
    }
    return std::nullopt;
  }
}

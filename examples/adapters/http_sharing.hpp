// SPDX-License-Identifier: MIT
#pragma once

// Shareable decides which answers to HTTP requests may be shared. It works with any framework whose
// Response has `headers`, which are pairs of a name and a value. http_key.hpp decides which
// requests may share an answer.

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

// Returns the header names that Vary lists.
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

// Returns whether a response with these headers is for one request only.
template <class Headers>
bool IsForOne(const Headers& headers) {
  for (const std::string_view value : ValuesOf(headers, "Cache-Control")) {
    std::string directives(value);  // a false match does no harm: the handler runs once more
    std::ranges::transform(value, directives.begin(), Lower);
    if (directives.find("private") != directives.npos) return true;
    if (directives.find("no-store") != directives.npos) return true;
  }
  return Has(headers, "Set-Cookie") || std::ranges::count(VaryOf(headers), "*") != 0;
}

// Wraps a std::system_error of a handler, so that it is not mistaken for one of the group.
struct HandlerError {
  std::exception_ptr error;
};

}  // namespace http_sharing

// The value of a call: the response to its leader's request, and which followers may have it, too.
template <class Response>
class Shareable {
 public:
  // No follower may have this one. The leader has its response elsewhere.
  Shareable() = default;

  template <class Request>
  Shareable(const Request& leader, Response made)
      : response(std::move(made)),
        for_followers_(!http_sharing::IsForOne(response.headers)),
        vary_(http_sharing::VaryOf(response.headers)),
        selected_by_(http_sharing::Selected(leader.headers, vary_)) {}

  // Returns whether a follower may have the response. It must not be for one request only. The
  // follower's request must have the leader's values of all headers that Vary lists (RFC 9111,
  // section 4.1).
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

// The group of coalesced handlers. One group may serve all handlers of a server. Two servers need
// two groups.
template <class Response>
using ResponseGroup = singleflight::Group<std::string, Shareable<Response>>;

// Returns what `ask`, a function that calls a group, returns. Returns nothing if a limit of the
// group refused this caller or its timeout passed. The answer is then a 503.
//
// Errors: throws every other exception of `ask`.
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

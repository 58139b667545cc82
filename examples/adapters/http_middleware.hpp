// SPDX-License-Identifier: MIT
#pragma once

// Coalesce for a handler of cpp-httplib: equal requests that arrive while the handler runs share
// its answer.
//
//   ResponseGroup<httplib::Response> pages;
//   server.Get("/users", Coalesce(pages, ListUsers));
//   server.Get("/prices", Coalesce(pages, ListPrices, {.vary = {"X-Currency"}, .timeout = 2s}));
//   ServeStats(server, [&] { return StatsByGroup{{"pages", pages.GetStats()}}; });
//
// Two users never see each other's answer:
//
// - Only GET and HEAD without a body are shared. Requests share if they have the same method, path,
//   query and values of the headers that commonly select an answer. http_key.hpp lists these.
//   User-Agent and X-Tenant, for example, are not among them. Name all others that your answer
//   depends on in SharingOptions::vary.
// - A request with Authorization, Cookie or Proxy-Authorization runs the handler alone, unless
//   SharingOptions tells its user from others.
// - A response is for its leader alone if it has Set-Cookie, if its Cache-Control has private or
//   no-store, or if it is streamed. A response with Vary is for the followers whose headers agree
//   with the leader's. Each other follower runs the handler itself.
//
// **Warning:** an answer may depend on something that is not in the request's headers, such as the
// client's address. Then SharingOptions::key must return it, or users get the wrong answer.

#include <httplib.h>

#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "http_key.hpp"
#include "http_sharing.hpp"
#include "stats_text.hpp"

namespace http_sharing {

// Returns whether the body is not in the response, but comes from a source that is read only once.
template <class Response>
bool IsStreamed(const Response& response) {
  if constexpr (requires { response.file_content_path_; }) {  // from cpp-httplib 0.17 on
    if (!response.file_content_path_.empty()) return true;
  }
  return response.content_provider_ != nullptr || response.content_provider_resource_releaser_;
}

// Adds the handler's response to what the server had put into `response` before.
inline void Fill(httplib::Response& response, httplib::Response&& made) {
  if (made.has_header("Content-Type")) response.headers.erase("Content-Type");
  response.headers.insert(made.headers.begin(), made.headers.end());
  made.headers = std::move(response.headers);
  made.version = response.version;
  response = std::move(made);
  made.content_provider_resource_releaser_ = nullptr;  // a moved-from response may have kept it
}

}  // namespace http_sharing

// Returns a handler that answers as `handler` does, but runs it once for equal requests.
//
// `handler` gets a new response, without the headers that the server has set before, by default or
// in a pre-routing handler. Each request keeps these. They may also say that the answer is for one
// request. Headers that a post-routing handler adds come too late for that.
//
// A request is answered with 503 and Retry-After if a limit of the group refuses it, or if it has
// followed for options.timeout.
//
// Thread: `handler` runs on the leader's thread. Followers block their threads. Several threads may
//   run `handler` at the same time.
// Errors: an exception of `handler` reaches the leader and its followers. If the response already
//   has Vary or says that it is for one request, the exception reaches the leader alone, and each
//   follower runs the handler itself.
// Lifetime: the group must outlive the handler.
inline httplib::Server::Handler Coalesce(ResponseGroup<httplib::Response>& group,
                                         httplib::Server::Handler handler,
                                         SharingOptions<httplib::Request> options = {}) {
  return [&group, route = http_sharing::NextRoute(), handler = std::move(handler),
          options = std::move(options)](const httplib::Request& request,
                                        httplib::Response& response) {
    using namespace http_sharing;
    std::optional<std::string> key = SharingKey(request, options);
    if (!key || IsForOne(response.headers)) return handler(request, response);
    key->insert(0, route);
    for (const std::string& name : VaryOf(response.headers)) {  // set by the server before
      Append(*key, name);
      *key += Selected(request.headers, std::vector{name});
    }

    httplib::Response made;  // by this request, if it leads
    std::exception_ptr failure;
    const auto run = [&]() -> Shareable<httplib::Response> {
      try {
        handler(request, made);
      } catch (...) {
        failure = std::current_exception();
        if (failure == nullptr) throw;  // the thread is cancelled
        if (IsForOne(made.headers) || !VaryOf(made.headers).empty()) return {};
        throw HandlerError{failure};
      }
      if (IsStreamed(made)) return {};
      return {request, std::move(made)};
    };
    auto result = UnlessRefused([&] { return group.Do(*key, run, {.timeout = options.timeout}); });
    if (failure != nullptr) std::rethrow_exception(failure);
    if (!result) {
      response.status = 503;
      response.set_header("Retry-After", "1");
    } else if (IsStreamed(made)) {
      Fill(response, std::move(made));
    } else if (result->role() == singleflight::Role::kLeader || (*result)->Answers(request)) {
      Fill(response, std::move(*result).value().response);
    } else {
      handler(request, response);
    }
  };
}

// Installs the routes /stats (JSON) and /metrics (for Prometheus).
//
// Thread: `read` is called for each request to them, on any thread.
inline void ServeStats(httplib::Server& server, std::function<StatsByGroup()> read) {
  server.Get("/stats", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(ToJson(read()), kJsonType);
  });
  server.Get("/metrics", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(ToPrometheus(read()), kPrometheusType);
  });
}

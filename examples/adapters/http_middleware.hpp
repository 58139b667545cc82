// SPDX-License-Identifier: MIT
#pragma once

// Makes a handler of cpp-httplib run once for all equal requests that wait for it.
//
//   ResponseGroup<httplib::Response> pages;
//   server.Get("/users", Coalesce(pages, ListUsers));
//   server.Get("/prices", Coalesce(pages, ListPrices, {.vary = {"X-Currency"}, .timeout = 2s}));
//   ServeStats(server, [&] { return StatsByGroup{{"pages", pages.GetStats()}}; });
//
// Two users never see each other's answer:
//
// - Only GET and HEAD without a body are shared, by method, path, query and the request headers
//   that commonly choose an answer (http_key.hpp names them). Name others on which yours depends:
//   neither User-Agent nor, say, X-Tenant is among them.
// - A request with Authorization, Cookie or Proxy-Authorization runs the handler alone, unless
//   SharingOptions says how to tell its user from others.
// - A response with Set-Cookie, or with private or no-store in Cache-Control, or one that is
//   streamed, is its leader's alone; and one with Vary is for those whose headers agree. The other
//   followers run the handler, each for itself.
//
// An answer that depends on what is not in the request's headers, such as the client's address,
// needs SharingOptions::key.

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

// Whether the body comes from somewhere else than the response, and only once.
template <class Response>
bool IsStreamed(const Response& response) {
  if constexpr (requires { response.file_content_path_; }) {  // from cpp-httplib 0.17 on
    if (!response.file_content_path_.empty()) return true;
  }
  return response.content_provider_ != nullptr || response.content_provider_resource_releaser_;
}

// Adds what a handler has made to what the server had put into the response before.
inline void Fill(httplib::Response& response, httplib::Response&& made) {
  if (made.has_header("Content-Type")) response.headers.erase("Content-Type");
  response.headers.insert(made.headers.begin(), made.headers.end());
  made.headers = std::move(response.headers);
  made.version = response.version;
  response = std::move(made);
  made.content_provider_resource_releaser_ = nullptr;  // what was moved from may have kept its own
}

}  // namespace http_sharing

// A handler that answers as `handler` does, which may be called by several threads at once. It is
// called on the thread of the request that leads; the others wait, and hold their threads. What it
// throws reaches them all, unless it has said that its answer is for one, or said Vary. It gets a
// response of its own: headers that the server has set before, by default or in a pre-routing
// handler, are not in it. They stay each request's own, and may say as well that the answer is for
// one. What a post-routing handler adds comes too late for that.
//
// A request that a limit of the group refuses, or that has waited for options.timeout, is answered
// with 503 and Retry-After. The group must outlive the handler.
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
    for (const std::string& name : VaryOf(response.headers)) {  // the server's own
      Append(*key, name);
      *key += Selected(request.headers, std::vector{name});
    }

    httplib::Response made;  // if this request leads
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

// Installs the routes /stats (JSON) and /metrics (for Prometheus). `read` is called for each
// request to them, on any thread.
inline void ServeStats(httplib::Server& server, std::function<StatsByGroup()> read) {
  server.Get("/stats", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(ToJson(read()), kJsonType);
  });
  server.Get("/metrics", [read](const httplib::Request&, httplib::Response& response) {
    response.set_content(ToPrometheus(read()), kPrometheusType);
  });
}

// SPDX-License-Identifier: MIT
#pragma once

// A small HTTP service on Asio that asks its upstream once for all equal requests that wait:
// asio_server.cpp runs it, and tests/asio_server.test.cpp tests it.
//
//   GET /item?...   what the upstream says to this target; 503 if that takes too long
//   GET /stats      what the group has counted, as JSON
//   GET /metrics    the same for Prometheus

#include <sys/resource.h>

#include <asio.hpp>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <string>
#include <utility>

#include "../adapters/asio_middleware.hpp"
#include "../adapters/stats_text.hpp"
#include "asio_http.hpp"

// A connection costs a descriptor, and most shells allow 1,024. Returns how many there may be now.
inline std::size_t RaiseDescriptorLimit() {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<std::size_t>(limit.rlim_cur);
}

class AsioService {
 public:
  using Responses = ResponseGroup<HttpResponse>;
  using Upstream = std::function<asio::awaitable<std::string>(std::string target)>;

  // Declare the group before the context, and that before the service and its server: the context
  // then ends the calls that are led on it while there still is a group, which would wait for them
  // in vain.
  AsioService(Responses& group, Upstream upstream, std::chrono::milliseconds timeout)
      : group_(group),
        upstream_(std::move(upstream)),
        item_(Coalesce(group,
                       [this](const HttpRequest& request) { return AskUpstream(request.target); },
                       {.timeout = timeout})) {}

  asio::awaitable<HttpResponse> Handle(const HttpRequest& request) {
    if (request.method != "GET" && request.method != "HEAD") {
      co_return HttpResponse{"405 Method Not Allowed", {{"Allow", "GET, HEAD"}}, ""};
    }
    const std::string path = request.target.substr(0, request.target.find('?'));
    HttpResponse response{"404 Not Found", {}, ""};
    if (path == "/stats") {
      response = {"200 OK", {{"Content-Type", kJsonType}}, ToJson(GetStats())};
    } else if (path == "/metrics") {
      response = {"200 OK", {{"Content-Type", kPrometheusType}}, ToPrometheus(GetStats())};
    } else if (path == "/item") {
      try {
        response = co_await item_(request);
      } catch (const std::exception& error) {
        response = {"502 Bad Gateway", {}, error.what()};
      }
    }
    co_return response;
  }

  StatsByGroup GetStats() const { return {{"items", group_.GetStats()}}; }

 private:
  asio::awaitable<HttpResponse> AskUpstream(std::string target) {
    std::string body = co_await upstream_(std::move(target));
    co_return HttpResponse{"200 OK", {}, std::move(body)};
  }

  Responses& group_;
  const Upstream upstream_;
  const HttpHandler item_;
};

// SPDX-License-Identifier: MIT
#pragma once

// The routes of asio_server.cpp: a small HTTP service on Asio that asks its upstream once for all
// equal requests that wait.
//
//   GET /item?...            returns what the upstream says, or a 503 if that takes too long
//   GET /stats               returns what the group has counted, as JSON
//   GET /metrics             returns the same for Prometheus
//   GET /debug/singleflight  returns a page for operators, which shows what is in flight

#include <sys/resource.h>

#include <asio.hpp>
#include <chrono>
#include <cstddef>
#include <exception>
#include <functional>
#include <singleflight/latency_histogram.hpp>
#include <singleflight/observe.hpp>
#include <string>
#include <utility>

#include "../adapters/asio_middleware.hpp"
#include "../adapters/debug_page.hpp"
#include "asio_http.hpp"

// Raises the number of descriptors that this process may open, and returns it. Each connection
// needs a descriptor, and most shells allow 1,024.
inline std::size_t RaiseDescriptorLimit() {
  rlimit limit = {};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  ::getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

class AsioService {
 public:
  using Responses = ResponseGroup<HttpResponse>;
  using Upstream = std::function<asio::awaitable<std::string>(std::string target)>;

  // `timeout` limits how long a request waits for the upstream.
  //
  // Lifetime: declare the group before the io_context, and the context before the service and its
  //   server. Then the context's destructor lands the calls that run on it. Otherwise the group's
  //   destructor would wait for them for ever.
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
      response = {"200 OK",
                  {{"Content-Type", singleflight::kJsonType}},
                  singleflight::WriteJson(GetMetrics())};
    } else if (path == "/metrics") {
      response = {"200 OK",
                  {{"Content-Type", singleflight::kPrometheusType}},
                  singleflight::WritePrometheus(GetMetrics())};
    } else if (path == "/debug/singleflight") {
      response = ShowDebugPage(request);
    } else if (path == "/item") {
      try {
        response = co_await item_(request);
      } catch (const std::exception& error) {
        response = {"502 Bad Gateway", {}, error.what()};
      }
    }
    co_return response;
  }

  singleflight::Metrics GetMetrics() const { return singleflight::Metrics().Add("items", group_); }

 private:
  HttpResponse ShowDebugPage(const HttpRequest& request) const {
    DebugAnswer answer = AnswerDebugPage(AsioLibrary::ViewOf(request), [this] {
      return DebugPage()
          .Add("items", group_)
          .AddTimes("upstream", "How long the upstream took.", upstream_times_);
    });
    return {answer.status == 200 ? "200 OK" : "403 Forbidden", std::move(answer.fields),
            std::move(answer.body)};
  }

  asio::awaitable<HttpResponse> AskUpstream(std::string target) {
    const auto start = std::chrono::steady_clock::now();
    std::string body = co_await upstream_(std::move(target));
    upstream_times_.Record(std::chrono::steady_clock::now() - start);
    co_return HttpResponse{"200 OK", {}, std::move(body)};
  }

  Responses& group_;
  const Upstream upstream_;
  singleflight::LatencyHistogram upstream_times_;
  const HttpHandler item_;
};

// SPDX-License-Identifier: MIT
#pragma once

// The routes of http_server.cpp: a small HTTP service that coalesces equal requests with
// http_middleware.hpp.
//
//   GET /                    runs the work once for all equal requests that arrive while it runs
//   GET /fail                does the same, but the work fails: all of these requests get a 500
//   GET /alone               runs the work for each request
//   GET /stats               returns what the group has counted, as JSON
//   GET /metrics             returns the same for Prometheus
//   GET /debug/singleflight  returns a page for operators, which shows what is in flight

#include <httplib.h>

#include <chrono>
#include <exception>
#include <functional>
#include <singleflight/latency_histogram.hpp>
#include <singleflight/observe.hpp>
#include <stdexcept>
#include <string>
#include <utility>

#include "../adapters/herd_server.hpp"
#include "../adapters/http_middleware.hpp"

class HttpService {
 public:
  using Responses = ResponseGroup<httplib::Response>;

  // Returns the body of the answer to a request.
  using Work = std::function<std::string(const httplib::Request&)>;

  // Lifetime: `group` must outlive the service.
  HttpService(Responses& group, Work work) : group_(group), work_(std::move(work)) {}

  // Lifetime: the service must outlive the server.
  void Install(httplib::Server& server) {
    const auto answer = [this](const httplib::Request& request, httplib::Response& response) {
      response.set_content(DoWork(request), "text/plain");
    };
    const auto fail = [this](const httplib::Request& request, httplib::Response&) {
      DoWork(request);
      throw std::runtime_error("the backend is down");
    };
    server.Get("/", Coalesce(group_, answer));
    server.Get("/fail", Coalesce(group_, fail));
    server.Get("/alone", answer);
    ServeStats(server, [this] { return GetMetrics(); });
    ServeDebugPage(server, [this] {
      return DebugPage()
          .Add("answers", group_)
          .AddTimes("work", "How long the work took.", work_times_);
    });
    server.set_exception_handler(
        [](const httplib::Request&, httplib::Response& response, std::exception_ptr error) {
          response.status = 500;
          try {
            std::rethrow_exception(error);
          } catch (const std::exception& e) {
            response.set_content(std::string(e.what()) + "\n", "text/plain");
          }
        });
  }

  singleflight::Metrics GetMetrics() const {
    return singleflight::Metrics().Add("answers", group_);
  }

 private:
  std::string DoWork(const httplib::Request& request) {
    const auto start = std::chrono::steady_clock::now();
    std::string body = work_(request);
    work_times_.Record(std::chrono::steady_clock::now() - start);
    return body;
  }

  Responses& group_;
  const Work work_;
  singleflight::LatencyHistogram work_times_;
};

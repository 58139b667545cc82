// SPDX-License-Identifier: MIT
#pragma once

// The routes of http_server.cpp: a small HTTP service that coalesces equal requests with
// http_middleware.hpp.
//
//   GET /         runs the work once for all equal requests that arrive while it runs
//   GET /fail     does the same, but the work fails: all of these requests get a 500
//   GET /alone    runs the work for each request
//   GET /stats    returns what the group has counted, as JSON
//   GET /metrics  returns the same for Prometheus

#include <httplib.h>
#include <sys/socket.h>

#include <cstddef>
#include <exception>
#include <functional>
#include <stdexcept>
#include <string>
#include <utility>

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
      response.set_content(work_(request), "text/plain");
    };
    const auto fail = [this](const httplib::Request& request, httplib::Response&) {
      work_(request);
      throw std::runtime_error("the backend is down");
    };
    server.Get("/", Coalesce(group_, answer));
    server.Get("/fail", Coalesce(group_, fail));
    server.Get("/alone", answer);
    ServeStats(server, [this] { return GetStats(); });
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

  StatsByGroup GetStats() const { return {{"answers", group_.GetStats()}}; }

 private:
  Responses& group_;
  const Work work_;
};

// httplib's server with settings for a herd of requests.
class HerdServer : public httplib::Server {
 public:
  // A request that waits keeps its thread, so at most `threads` requests are in progress.
  explicit HerdServer(std::size_t threads) {
    new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    set_socket_options([](socket_t socket) {  // httplib's default would share a port in use
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
  }

  // Binds to a port of the loopback address. 0 chooses a free port. Returns the port, or -1 if the
  // port cannot be had.
  int Bind(int port) {
    const char* const host = "127.0.0.1";
    if (port == 0) {
      port = bind_to_any_port(host);
    } else if (!bind_to_port(host, port)) {
      port = -1;
    }
    // httplib lets 5 connections wait to be accepted. In a larger burst some connections would be
    // dropped, and would be tried again seconds or even minutes later.
    if (port > 0) ::listen(svr_sock_, SOMAXCONN);
    return port;
  }
};

// SPDX-License-Identifier: MIT
#pragma once

// A small HTTP service that coalesces equal requests by http_middleware.hpp: the routes of
// http_server.cpp, which tests/http_server.test.cpp tests as well.
//
//   GET /         runs the work once for all equal requests that are waiting for it
//   GET /fail     like /, but the work fails: all who wait for it get the 500
//   GET /alone    runs the work for each request
//   GET /stats    what the group has counted, as JSON
//   GET /metrics  the same for Prometheus

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

  // Makes the body of the answer to a request.
  using Work = std::function<std::string(const httplib::Request&)>;

  // `group` must outlive the service.
  HttpService(Responses& group, Work work) : group_(group), work_(std::move(work)) {}

  // The service must outlive the server.
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

// httplib's server, made ready for a herd.
class HerdServer : public httplib::Server {
 public:
  // A caller that waits holds its thread, so `threads` is the number of requests at once.
  explicit HerdServer(std::size_t threads) {
    new_task_queue = [threads] { return new httplib::ThreadPool(threads); };
    set_socket_options([](socket_t socket) {  // httplib's own would share a port that is in use
      const int yes = 1;
      ::setsockopt(socket, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
    });
  }

  // Binds to a port of this machine only, a free one for 0. Returns the port, or -1 if it failed.
  int Bind(int port) {
    const char* const host = "127.0.0.1";
    if (port == 0) {
      port = bind_to_any_port(host);
    } else if (!bind_to_port(host, port)) {
      port = -1;
    }
    // httplib lets 5 connections wait to be accepted. Of a larger burst some would be dropped, and
    // try again seconds or even minutes later.
    if (port > 0) ::listen(svr_sock_, SOMAXCONN);
    return port;
  }
};

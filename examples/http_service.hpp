// SPDX-License-Identifier: MIT
#pragma once

// A small HTTP service that coalesces equal requests: the routes of http_server.cpp, which
// tests/http_server.test.cpp tests as well.
//
//   GET /        runs the work once for all equal requests that are waiting for it
//   GET /alone   runs the work for each request
//   GET /fail    like /, but the work fails: all who wait for it get the 500
//   GET /stats   what has been counted, as JSON

#include <httplib.h>
#include <sys/socket.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <singleflight/group.hpp>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>

using Responses = singleflight::Group<std::string, std::string>;

class HttpService {
 public:
  // Makes the body of the answer to the request that the key stands for.
  using Work = std::function<std::string(const std::string& key)>;

  // `group` must outlive the service.
  HttpService(Responses& group, Work work) : group_(group), work_(std::move(work)) {}

  // Everything that an answer depends on: method, path and query. Were there users who see
  // different things, then the user would have to be in it, too.
  static std::string KeyOf(const httplib::Request& request) {
    return request.method + ' ' + request.target;
  }

  // The service must outlive the server.
  void Install(httplib::Server& server) {
    server.Get("/", Coalesced([this](const std::string& key) { return Execute(key); }));
    server.Get("/fail", Coalesced([this](const std::string& key) -> std::string {
                 Execute(key);
                 throw std::runtime_error("the backend is down");
               }));
    server.Get("/alone", [this](const httplib::Request& request, httplib::Response& response) {
      ++requests_;
      response.set_content(Execute(KeyOf(request)), "text/plain");
    });
    server.Get("/stats", [this](const httplib::Request&, httplib::Response& response) {
      response.set_content(StatsAsJson(), "application/json");
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

  std::string StatsAsJson() const {
    const singleflight::Stats stats = group_.GetStats();
    std::ostringstream json;
    json << "{\"requests\": " << requests_ << ", \"executions\": " << executions_
         << ", \"shared\": " << shared_ << ", \"followers\": " << stats.followers
         << ", \"failures\": " << stats.failures << ", \"in_flight\": " << stats.in_flight << "}\n";
    return json.str();
  }

 private:
  httplib::Server::Handler Coalesced(Work work) {
    return [this, work = std::move(work)](const httplib::Request& request,
                                          httplib::Response& response) {
      ++requests_;
      const std::string key = KeyOf(request);
      auto [body, shared] = group_.Do(key, [&] { return work(key); });
      if (shared) ++shared_;
      response.set_content(body, "text/plain");
    };
  }

  std::string Execute(const std::string& key) {
    ++executions_;
    return work_(key);
  }

  Responses& group_;
  const Work work_;
  std::atomic<std::uint64_t> requests_ = 0;    // to any route but /stats
  std::atomic<std::uint64_t> executions_ = 0;  // of the work
  std::atomic<std::uint64_t> shared_ = 0;      // requests whose answer others got as well
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

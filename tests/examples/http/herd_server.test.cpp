// SPDX-License-Identifier: MIT

// Tests HerdServer with clients that cannot be trusted.

#include "adapters/herd_server.hpp"

#include <pthread.h>

#include <atomic>
#include <thread>

#include "support/catch.hpp"
#include "support/support.hpp"

#define TEST_SERVER "HerdServer"

namespace {

using Limits = HerdLimits;

class LimitedServer {
 public:
  explicit LimitedServer(Limits limits) : server_(8, limits) {
    const auto answer = [this](const httplib::Request&, httplib::Response& response) {
      ++runs_;
      response.set_content("page", "text/plain");
    };
    server_.Get("/page", answer);
    server_.Post("/page", answer);
    port_ = server_.Bind(0);
    REQUIRE(port_ > 0);
    thread_ = std::jthread([this] { server_.listen_after_bind(); });
    test::Await([this] { return server_.is_running(); });
  }
  ~LimitedServer() { server_.stop(); }

  int port() const { return port_; }
  int runs() const { return runs_; }
  clockid_t cpu_clock() {
    clockid_t clock = {};
    ::pthread_getcpuclockid(thread_.native_handle(), &clock);
    return clock;
  }

 private:
  std::atomic<int> runs_ = 0;
  HerdServer server_;
  int port_ = -1;
  std::jthread thread_;
};

}  // namespace

#include "examples/server_limits.hpp"

TEST_CASE("HerdServer serves pre-routing handlers, and they cannot switch its checks off") {
  std::atomic<int> runs = 0;
  HerdServer server(2);
  server.set_pre_routing_handler([&](const httplib::Request&, httplib::Response& response) {
    ++runs;
    response.status = 200;
    return httplib::Server::HandlerResponse::Handled;
  });
  const int port = server.Bind(0);
  const std::jthread thread([&] { server.listen_after_bind(); });
  test::Await([&] { return server.is_running(); });
  test::RawClient good(port), bad(port);
  bad.Send("GET / HTTP/1.1\r\n\r\n");
  CHECK(StatusOf(bad.ReceiveAll()) == "400");
  // The handler has answered without the body being read, so the connection is closed.
  good.Send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 40\r\n\r\n");
  good.Send("GET / HTTP/1.1\r\nHost: hidden\r\n\r\n");
  CHECK(test::CountAnswers(good.ReceiveAll()) == 1);
  CHECK(runs == 1);
  server.stop();
}

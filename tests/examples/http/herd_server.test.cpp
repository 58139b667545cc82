// SPDX-License-Identifier: MIT

// Tests HerdServer with clients that cannot be trusted.

#include "adapters/herd_server.hpp"

#include <pthread.h>

#include <atomic>
#include <chrono>
#include <string>

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
      response.set_content("a page of text", "text/plain");
    };
    server_.Get("/page", answer);
    server_.Post("/page", answer);
    port_ = server_.Bind(0);
    REQUIRE(port_ > 0);
    thread_ = test::JoiningThread([this] { server_.listen_after_bind(); });
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
  test::JoiningThread thread_;
};

}  // namespace

#include "examples/server_limits.hpp"

TEST_CASE("Attack: a chunked body that never ends is refused by HerdServer with 413") {
  LimitedServer server(kSmall);
  const std::string head = "POST /page HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  std::string chunks, bytes;
  for (int i = 0; i < 100; ++i) chunks += "10\r\n0123456789abcdef\r\n";
  for (int i = 0; i < 1000; ++i) bytes += "1\r\nx\r\n";
  CHECK(StatusOf(AnswerTo(server, head + chunks)) == "413");
  CHECK(StatusOf(AnswerTo(server, head + bytes)) == "413");
  CHECK(StatusOf(AnswerTo(server, head + std::string(3000, '0'))) == "413");  // the size of a chunk
  CHECK(server.runs() == 0);
  CHECK(StatusOf(AnswerTo(server, head + "3\r\nabc\r\n0\r\n\r\n")) == "200");
}

TEST_CASE("Attack: HerdServer decompresses nothing, so a small body does not become a large one") {
  LimitedServer server({});
  const std::string post =
      "POST /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 1\r\n";
  for (const char* const coding : {"gzip", "GZIP", "deflate", "br", "identity, gzip", "zstd"}) {
    CHECK(StatusOf(AnswerTo(server, post + "content-encoding: " + coding + "\r\n\r\nx")) == "415");
  }
  CHECK(server.runs() == 0);
  CHECK(StatusOf(AnswerTo(server, post + "Content-Encoding: identity\r\n\r\nx")) == "200");
}

TEST_CASE("Attack: HerdServer does not send one page many times for the ranges of one request") {
  LimitedServer server({});
  const std::string get = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nRange: bytes=0-0";
  std::string ranges;  // newer versions of httplib want them in order
  for (int i = 1; i < 8; ++i) ranges += "," + std::to_string(i) + "-" + std::to_string(i);
  CHECK(StatusOf(AnswerTo(server, get + ranges + ",8-8\r\n\r\n")) == "416");
  CHECK(server.runs() == 0);
  CHECK(StatusOf(AnswerTo(server, get + ranges + "\r\n\r\n")) == "206");
  CHECK(server.runs() == 1);
}

TEST_CASE("Attack: a client cannot tell a handler of HerdServer another address of its own") {
  LimitedServer server({});
  for (const char* const name :
       {"REMOTE_ADDR", "remote_addr", "REMOTE_PORT", "LOCAL_ADDR", "LOCAL_PORT"}) {
    const std::string get = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n";
    CHECK(StatusOf(AnswerTo(server, get + name + ": 1\r\n\r\n")) == "400");
  }
  CHECK(server.runs() == 0);
}

TEST_CASE("A connection that waits for its next request leaves its thread to one that has come") {
  HerdServer server(1, {.idle_time = std::chrono::hours(1)});
  server.Get("/page", [](const httplib::Request&, httplib::Response& response) {
    response.set_content("page", "text/plain");
  });
  const int port = server.Bind(0);
  const test::JoiningThread thread([&] { server.listen_after_bind(); });
  test::Await([&] { return server.is_running(); });
  test::RawClient idle(port), next(port);
  idle.Get("/page");
  idle.Get("/page");
  next.Get("/page", "Connection: close\r\n");
  CHECK(next.HearsWithin(10'000));
  server.stop();
  CHECK(StatusOf(next.ReceiveAll()) == "200");
  CHECK(test::CountAnswers(idle.ReceiveAll()) == 2);  // what it had sent was answered
}

TEST_CASE("HerdServer serves pre-routing handlers, and they cannot switch its checks off") {
  std::atomic<int> runs = 0;
  HerdServer server(2);
  server.set_pre_routing_handler([&](const httplib::Request&, httplib::Response& response) {
    ++runs;
    response.status = 200;
    return httplib::Server::HandlerResponse::Handled;
  });
  const int port = server.Bind(0);
  const test::JoiningThread thread([&] { server.listen_after_bind(); });
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

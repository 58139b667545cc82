// SPDX-License-Identifier: MIT

// Tests the Asio example over real sockets.

#include <algorithm>
#include <asio.hpp>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/asio_service.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

using asio::ip::tcp;
using Responses = AsioService::Responses;

// Runs a server with the example's routes on a free port and on a thread of its own while this
// object lives.
class RunningServer {
 public:
  explicit RunningServer(std::chrono::milliseconds timeout = std::chrono::hours(1))
      : service_(
            group_, [this](std::string target) { return Answer(std::move(target)); }, timeout) {}
  ~RunningServer() { io_.stop(); }

  std::uint16_t port() const { return port_; }
  int runs() const { return runs_; }
  const Responses& group() const { return group_; }

  // An upstream run finishes when this many callers wait for it.
  std::atomic<std::size_t> callers = 1;
  std::atomic<bool> fail = false;

 private:
  asio::awaitable<std::string> Answer(std::string target) {
    const int run = ++runs_;
    while (!test::HadCallersEach(group_, callers)) co_await asio::post(io_, asio::use_awaitable);
    if (fail) throw std::runtime_error("the upstream is down");
    co_return "answer " + std::to_string(run) + " to " + target;
  }

  Responses group_{{.timed = true}};
  asio::io_context io_{1};
  std::atomic<int> runs_ = 0;
  AsioService service_;
  AsioServer server_{io_, [this](const HttpRequest& request) { return service_.Handle(request); }};
  const std::uint16_t port_ = server_.Listen(0);
  test::JoiningThread thread_{[this] { io_.run(); }};
};

// A client with one connection. Its functions block.
class Client {
 public:
  explicit Client(const RunningServer& server) {
    socket_.connect({asio::ip::address_v4::loopback(), server.port()});
  }

  void Send(const std::string& text) { asio::write(socket_, asio::buffer(text)); }
  void Get(const std::string& target) { Send("GET " + target + " HTTP/1.1\r\nHost: test\r\n\r\n"); }

  // Returns the status and the body of the next answer, such as "200 answer".
  std::string Receive() {
    const std::size_t head_size =
        asio::read_until(socket_, asio::dynamic_buffer(input_), "\r\n\r\n");
    head_ = input_.substr(0, head_size);
    input_.erase(0, head_size);
    const std::string length = "Content-Length: ";
    const std::size_t body_size = std::stoul(head_.substr(head_.find(length) + length.size()));
    if (input_.size() < body_size) {
      asio::read(socket_, asio::dynamic_buffer(input_),
                 asio::transfer_exactly(body_size - input_.size()));
    }
    std::string answer = head_.substr(9, 3) + " " + input_.substr(0, body_size);
    input_.erase(0, body_size);
    return answer;
  }
  // Returns the status line and the headers of the last answer.
  const std::string& head() const { return head_; }

  // Returns everything that the server sends until it closes the connection.
  std::string ReceiveAll() {
    asio::error_code error;
    asio::read(socket_, asio::dynamic_buffer(input_), error);
    return std::exchange(input_, {});
  }
  // Returns whether the server closes the connection without sending anything more.
  bool Ended() { return ReceiveAll().empty(); }

 private:
  static inline asio::io_context io;  // shared, because each context uses descriptors
  tcp::socket socket_{io};
  std::string input_;
  std::string head_;
};

std::string Ask(const RunningServer& server, const std::string& target) {
  Client client(server);
  client.Get(target);
  return client.Receive();
}

// Returns the different answers that `count` connections get if they ask at once.
std::set<std::string> AskAtOnce(RunningServer& server, std::size_t count,
                                const std::string& target) {
  server.callers = count;
  std::vector<std::unique_ptr<Client>> clients(count);
  for (auto& client : clients) client = std::make_unique<Client>(server);
  for (auto& client : clients) client->Get(target);
  std::set<std::string> answers;
  for (auto& client : clients) answers.insert(client->Receive());
  server.callers = 1;
  return answers;
}

}  // namespace

TEST_CASE(
    "Promise 1: a thousand connections on one thread that ask for one URL ask the upstream once") {
  REQUIRE(RaiseDescriptorLimit() > 2100);  // both ends of each connection are in this process
  RunningServer server;
  CHECK(AskAtOnce(server, 1000, "/item?id=42") ==
        std::set<std::string>{"200 answer 1 to /item?id=42"});
  CHECK(server.runs() == 1);
  CHECK(Ask(server, "/stats") ==
        "200 [{\"labels\": {\"group\": \"items\"}, \"stats\": {\"executions\": 1, \"followers\": "
        "999, "
        "\"failures\": 0, \"left\": 0, \"refused\": 0, \"in_flight\": 0}}]\n");
}

TEST_CASE("Promise 1: connections that ask for different URLs each ask the upstream") {
  RunningServer server;
  Client first(server);
  Client second(server);
  server.callers = 2;
  first.Get("/item?id=1");
  second.Get("/item?id=2");
  test::Await([&] { return server.runs() == 2; });
  server.callers = 1;
  CHECK(first.Receive().ends_with("to /item?id=1"));
  CHECK(second.Receive().ends_with("to /item?id=2"));
}

TEST_CASE("Promise 2: requests that follow each other on one connection each ask the upstream") {
  RunningServer server;
  Client client(server);
  for (int i = 1; i <= 3; ++i) {
    client.Get("/item");
    CHECK(client.Receive() == "200 answer " + std::to_string(i) + " to /item");
  }
  client.Get("/item?a");  // two requests that arrive together
  client.Get("/item?b");
  CHECK(client.Receive() == "200 answer 4 to /item?a");
  CHECK(client.Receive() == "200 answer 5 to /item?b");
}

TEST_CASE(
    "Promise 5: if the upstream fails, all its callers get a 502, and the next asks it again") {
  RunningServer server;
  server.fail = true;
  CHECK(AskAtOnce(server, 100, "/item") == std::set<std::string>{"502 the upstream is down"});
  CHECK(server.runs() == 1);
  server.fail = false;
  CHECK(Ask(server, "/item") == "200 answer 2 to /item");
}

TEST_CASE(
    "Promise 11: when all connections have timed out, the upstream run continues, and a later one "
    "joins it") {
  RunningServer server(std::chrono::milliseconds(10));
  server.callers = 4;
  Client first(server);
  Client second(server);
  first.Get("/item");
  second.Get("/item");
  CHECK(first.Receive() == "503 ");
  CHECK(second.Receive() == "503 ");
  CHECK(Ask(server, "/item") == "503 ");
  CHECK(server.runs() == 1);
  CHECK(server.group().GetStats() ==
        singleflight::Stats{.executions = 1, .followers = 2, .left = 3, .in_flight = 1});
}

TEST_CASE("Promise 14: a server on Asio may be destroyed while connections wait for its upstream") {
  std::unique_ptr<Client> client;
  {
    RunningServer server;
    server.callers = 3;
    client = std::make_unique<Client>(server);
    client->Get("/item");
    Client other(server);
    other.Get("/item");
    test::AwaitCallersOfEach(server.group(), 2);
  }
  CHECK(client->Ended());
}

TEST_CASE("The Asio server refuses a request that other servers might read as a different one") {
  const std::string requests[] = {
      "GET /item?q\r\nCookie:sid=1 HTTP/1.1\r\nHost: test\r\n\r\n",
      "GET /item HTTP/1.1\r\nX: 1\nCookie: sid=1\r\n\r\n",
      "GET /item HTTP/1.1\r\nX: 1\rCookie: sid=1\r\n\r\n",
      "GET /item HTTP/1.1\r\nContent-Length\v: 31\r\n\r\n",
      "GET /item HTTP/1.1\r\nCookie\x7F: sid=1\r\n\r\n",
  };
  for (const std::string& request : requests) {
    RunningServer server;
    Client client(server);
    client.Send(request);
    CHECK(client.Receive() == "400 ");
    CHECK(server.runs() == 0);
  }
}

TEST_CASE(
    "The Asio server refuses a request that it does not serve, and keeps the connection open") {
  RunningServer server;
  Client client(server);
  client.Get("/nothing");
  CHECK(client.Receive() == "404 ");
  client.Send("DELETE /item HTTP/1.1\r\nHost: test\r\n\r\n");
  CHECK(client.Receive() == "405 ");
  CHECK(client.head().find("\r\nAllow: GET, HEAD\r\n") != std::string::npos);
  client.Get("/item");
  CHECK(client.Receive() == "200 answer 1 to /item");
}

TEST_CASE("The Asio server answers HEAD with the headers of GET, and no body") {
  RunningServer server;
  const std::string body = Ask(server, "/stats").substr(4);
  Client client(server);
  client.Send("HEAD /stats HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
  const std::string answer = client.ReceiveAll();
  CHECK(answer.find("\r\nContent-Length: " + std::to_string(body.size()) + "\r\n") !=
        std::string::npos);
  CHECK(answer.find("\r\nContent-Type: application/json\r\n") != std::string::npos);
  CHECK(answer.ends_with("\r\n\r\n"));
}

TEST_CASE("The Asio server shows its runs in flight on a page for operators") {
  RunningServer server;
  server.callers = 4;
  Client operators(server);
  const auto shows = [&](const std::string& text) {
    operators.Send("GET /debug/singleflight HTTP/1.1\r\nHost: localhost:80\r\n\r\n");
    const std::string page = operators.Receive();
    return page.starts_with("200 <!DOCTYPE html>") && page.find(text) != std::string::npos;
  };
  CHECK(shows("<p>0 calls in flight, 0 callers.</p>"));
  std::vector<std::unique_ptr<Client>> clients(3);
  for (auto& client : clients) {
    client = std::make_unique<Client>(server);
    client->Get("/item?q=<b>&\"");
  }
  test::AwaitCallersOfEach(server.group(), 3);
  CHECK(shows("<p>1 call in flight, 3 callers.</p>"));
  CHECK(shows("<bdi>GET /item?q=&lt;b&gt;&amp;&quot;, Host: test</bdi><td class=n>3<td class=n>"));
  CHECK(!shows("<td class=n>–"));  // it has an age
  CHECK(shows("<dt>followers<dd>2<small>"));
  CHECK(shows("<p>0 recorded.</p>"));
  server.callers = 3;
  for (auto& client : clients) CHECK(client->Receive().starts_with("200 "));
  CHECK(shows("<p>0 calls in flight, 0 callers.</p>"));
  CHECK(shows("<p>1 recorded, <b>p50</b> "));
}

TEST_CASE("The Asio server shows its page for operators with its headers and to nobody else") {
  RunningServer server;
  Client client(server);
  client.Send("GET /debug/singleflight?refresh=5 HTTP/1.1\r\nHost: localhost\r\n\r\n");
  CHECK(client.Receive().find("http-equiv=\"refresh\" content=\"5\"") != std::string::npos);
  for (const char* field : {"Content-Type: text/html; charset=utf-8", "Cache-Control: no-store",
                            "Content-Security-Policy: default-src 'none';"}) {
    CHECK(client.head().find("\r\n" + std::string(field)) != std::string::npos);
  }
  client.Get("/debug/singleflight");  // its Host is another one
  CHECK(client.Receive().starts_with("403 This page is for"));
}

TEST_CASE("The Asio server closes a connection that it cannot use for another request") {
  RunningServer server;
  const auto answer_and_end = [&](const std::string& request) {
    Client client(server);
    client.Send(request);
    std::string answer = client.Receive();
    CHECK(client.head().find("\r\nConnection: close\r\n") != std::string::npos);
    CHECK(client.Ended());
    return answer;
  };
  CHECK(answer_and_end("GET /stats\r\n\r\n") == "400 ");
  CHECK(answer_and_end("GET stats HTTP/1.1\r\n\r\n") == "400 ");
  CHECK(answer_and_end("GET / HTTP/2.0\r\n\r\n") == "400 ");
  CHECK(answer_and_end("GET / HTTP/1.1\r\nno colon\r\n\r\n") == "400 ");
  CHECK(answer_and_end("GET / HTTP/1.1\r\nCookie : a\r\n\r\n") == "400 ");
  CHECK(answer_and_end("\r\n\r\n") == "400 ");
  CHECK(answer_and_end("GET /" + std::string(8192 - 5, 'x')) == "431 ");
  CHECK(answer_and_end("GET / HTTP/1.0\r\n\r\n") == "404 ");
  CHECK(answer_and_end("GET / HTTP/1.1\r\nHost: a\r\nCONNECTION:\tClose\r\n\r\n") == "404 ");
}

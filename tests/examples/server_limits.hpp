// SPDX-License-Identifier: MIT

// The tests of what a server does with clients that it cannot trust. The tests of each server
// include this file, after they have defined TEST_SERVER, a text for the names, and LimitedServer:
//
//   explicit LimitedServer(Limits limits);  // it answers GET and POST of /page with 200
//   int port() const;
//   int runs() const;                       // how often its handler has run
//   clockid_t cpu_clock();                  // of the thread that accepts connections

#include <sys/resource.h>
#include <time.h>

#include <chrono>
#include <string>
#include <vector>

#include "examples/raw_client.hpp"
#include "sanitizers/sanitizers.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

// Sends a text, and returns what the server answers before it closes the connection.
std::string AnswerTo(const LimitedServer& server, const std::string& text) {
  test::RawClient client(server.port());
  client.Send(text);
  return client.ReceiveAll();
}

std::string StatusOf(const std::string& answer) {
  return answer.size() < 12 ? answer : answer.substr(9, 3);
}

constexpr Limits kSmall = {
    .head_bytes = 1000, .body_bytes = 1000, .request_time = std::chrono::milliseconds(100)};

}  // namespace

TEST_CASE("A request with no Host or with two is refused: " TEST_SERVER) {
  LimitedServer server({});
  const std::string get = "GET /page HTTP/1.1\r\nConnection: close\r\n";
  CHECK(StatusOf(AnswerTo(server, get + "\r\n")) == "400");
  CHECK(StatusOf(AnswerTo(server, get + "Host: a\r\nhost: a\r\n\r\n")) == "400");
  CHECK(StatusOf(AnswerTo(server, "GET /page HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n")) == "400");
  CHECK(server.runs() == 0);
  CHECK(StatusOf(AnswerTo(server, get + "Host: a\r\n\r\n")) == "200");
  CHECK(StatusOf(AnswerTo(server, get + "Host:\r\n\r\n")) == "200");
  CHECK(StatusOf(AnswerTo(server, "GET /page HTTP/1.0\r\n\r\n")) == "200");
}

// The second request is hidden in what one parser takes for the body of the first.
TEST_CASE("Attack: a request whose length is unclear smuggles no other one in: " TEST_SERVER) {
  const std::string hidden = "GET /page HTTP/1.1\r\nHost: a\r\n\r\n";
  const std::string length = "Content-Length: " + std::to_string(hidden.size()) + "\r\n";
  const std::vector<std::string> headers = {
      length + "Transfer-Encoding: chunked\r\n",
      "Content-Length: 0\r\n" + length,
      length + length,
      "Content-Length: +5\r\n",
      "Content-Length: 5, 5\r\n",
      "Content-Length: -1\r\n",
      "Content-Length: 0x1\r\n",
      "Content-Length:\r\n",
      "Content-Length : 5\r\n",
      "Transfer-Encoding: chunked, chunked\r\n",
      "Transfer-Encoding: xchunked\r\n",
      "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
      "Transfer-Encoding : chunked\r\n",
      "X: 1\r\rTransfer-Encoding: chunked\r\n",
      "X: 1\nContent-Length: 5\r\n",
      "X: \x01\r\n",
      "no colon\r\n",
      ": no name\r\n"};
  for (const std::string& of_one : headers) {
    INFO(of_one);
    for (const char* const method : {"POST", "GET"}) {
      LimitedServer server({});
      const std::string answer =
          AnswerTo(server, std::string(method) + " /page HTTP/1.1\r\nHost: a\r\n" + of_one +
                               "\r\n" + hidden);
      CHECK(answer.size() > 12);
      CHECK((StatusOf(answer) == "400" || StatusOf(answer) == "501"));
      CHECK(test::CountAnswers(answer) == 1);
      CHECK(server.runs() == 0);
    }
  }
}

TEST_CASE("The body of a GET is not taken for the next request: " TEST_SERVER) {
  LimitedServer server({});
  const std::string hidden = "GET /page HTTP/1.1\r\nHost: hidden\r\nConnection: close\r\n\r\n";
  const std::string answer =
      AnswerTo(server, "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: " +
                           std::to_string(hidden.size()) + "\r\n\r\n" + hidden);
  CHECK(StatusOf(answer) == "200");
  CHECK(test::CountAnswers(answer) == 1);
  CHECK(server.runs() == 1);
}

TEST_CASE("A body that is read leaves the connection open for the next request: " TEST_SERVER) {
  LimitedServer server({});
  const std::string answer =
      AnswerTo(server,
               "POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello"
               "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
  CHECK(test::CountAnswers(answer) == 2);
  CHECK(server.runs() == 2);
}

TEST_CASE("Attack: of many requests that come at once, none is lost or cut in two: " TEST_SERVER) {
  for (const int count : {40, 300, 1000}) {
    LimitedServer server({});
    std::string requests;
    for (int i = 1; i < count; ++i) {
      requests +=
          "GET /page HTTP/1.1\r\nHost: " + std::string(static_cast<std::size_t>(i % 90), 'a') +
          "\r\n\r\n";
    }
    requests += "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    INFO(count);
    CHECK(test::CountAnswers(AnswerTo(server, requests)) == static_cast<std::size_t>(count));
    CHECK(server.runs() == count);
  }
}

TEST_CASE(
    "A client that ends its sending side after its request still gets the answer: " TEST_SERVER) {
  LimitedServer server({});
  test::RawClient client(server.port());
  client.Send("GET /page HTTP/1.1\r\nHost: a\r\n\r\n");
  client.EndSending();
  CHECK(StatusOf(client.ReceiveAll()) == "200");
}

TEST_CASE("A head that is too large is refused with 431, and a body with 413: " TEST_SERVER) {
  LimitedServer server(kSmall);
  const std::string get = "GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX: ";
  CHECK(StatusOf(AnswerTo(server, get + std::string(5000, 'x'))) == "431");
  CHECK(StatusOf(AnswerTo(server, get + std::string(2000, 'x') + "\r\n\r\n")) == "431");
  const std::string post =
      "POST /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: ";
  for (const char* const length : {"1001", "99999999999999999999999"}) {
    CHECK(StatusOf(AnswerTo(server, post + length + "\r\n\r\n" + std::string(1001, 'x'))) == "413");
  }
  CHECK(server.runs() == 0);
  CHECK(StatusOf(AnswerTo(server, get + std::string(500, 'x') + "\r\n\r\n")) == "200");
  CHECK(StatusOf(AnswerTo(server, post + "1000\r\n\r\n" + std::string(1000, 'x'))) == "200");
}

TEST_CASE("A request that does not arrive in time is refused with 408: " TEST_SERVER) {
  LimitedServer server(kSmall);
  CHECK(StatusOf(AnswerTo(server, "GET /page HT")) == "408");
  CHECK(StatusOf(AnswerTo(server, "GET /page HTTP/1.1\r\nHost: a\r\n")) == "408");
  CHECK(StatusOf(AnswerTo(
            server, "POST /page HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx")) == "408");
  CHECK(server.runs() == 0);
}

// Each byte comes in time, but not the request.
TEST_CASE("A client that sends a byte now and then does not keep its connection: " TEST_SERVER) {
  LimitedServer server(kSmall);
  test::RawClient client(server.port());
  client.Send("GET /page HTTP/1.1\r\nX: ");
  while (!client.HearsWithin(10)) client.Send("x");
  CHECK(StatusOf(client.ReceiveAll()) == "408");
}

#if !defined(UNDER_SANITIZER)  // UBSan needs a descriptor itself, to see whether memory is readable
TEST_CASE("Without a free descriptor the server waits, and then accepts again: " TEST_SERVER) {
  LimitedServer server({});
  test::RawClient first, client;  // they have their descriptors
  rlimit limit = {};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = limit.rlim_max};
  const auto cpu_time = [&] {
    timespec time = {};
    ::clock_gettime(server.cpu_clock(), &time);
    return std::chrono::seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
  };
  ::setrlimit(RLIMIT_NOFILE, &none);
  const auto before = cpu_time();
  first.Connect(server.port());  // accept() may have a descriptor for this one already
  client.Connect(server.port());
  client.Send("GET /page HTTP/1.0\r\n\r\n");
  const bool heard = client.HearsWithin(200);
  const auto used = cpu_time() - before;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  CHECK(!heard);
  CHECK(used < std::chrono::milliseconds(100));
  CHECK(StatusOf(client.ReceiveAll()) == "200");
}
#endif

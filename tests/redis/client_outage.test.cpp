// SPDX-License-Identifier: MIT

// Tests a redis::Client whose server stops, hangs, restarts or is cut off. Each command ends once,
// and says whether the server may have run it.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <future>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "client_support.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

using Clock = std::chrono::steady_clock;

ClientOptions OptionsAt(const std::string& socket,
                        std::chrono::milliseconds command_timeout = 1min) {
  ClientOptions options;
  options.unix_socket = socket;
  options.connect_timeout = 1min;
  options.command_timeout = command_timeout;
  return options;
}

}  // namespace

TEST_CASE(
    "Redis client: a server that is not there fails each command at once and with the reason") {
  RedisServer server;
  server.Kill();
  TestClient client(OptionsAt(server.Socket()));
  for (int i = 0; i < 3; ++i) {
    const Answer answer = client.Ask({"GET", "k"});
    CHECK(answer.kind == Answer::Kind::kNotSent);
    CHECK(answer.why == server.Socket() + ": Connection refused");
  }
  server.Start();
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(client.Ask({"GET", "k"}).IsReply());
}

TEST_CASE("Redis client: while a server is away, only the loop tries it, ever more seldom") {
  const TemporaryDirectory directory;
  const UniqueFd listener = ListenAt(directory.Path() + "/socket");
  TestClient client(OptionsAt(directory.Path() + "/socket"));
  std::vector<Clock::time_point> attempts;
  std::vector<std::future<Answer>> answers;
  while (attempts.size() < 5) {
    const UniqueFd connection(::accept(*listener, nullptr, nullptr));
    if (*connection < 0) continue;
    attempts.push_back(Clock::now());
    for (int i = 0; i < 10; ++i) answers.push_back(client.Send({"PING"}));
  }
  for (auto& answer : answers) CHECK(answer.get().kind == Answer::Kind::kNotSent);
  for (std::size_t i = 1; i < attempts.size(); ++i) {
    // The n-th pause is at least half of 50 ms * 2^n.
    CHECK(attempts[i] - attempts[i - 1] >= 24ms * (1 << (i - 1)));
  }
}

TEST_CASE("Redis client: a server that hangs is away after command_timeout, and comes back") {
  RedisServer server;
  TestClient client(OptionsAt(server.Socket(), 100ms));
  REQUIRE(client.Ask({"PING"}).IsReply());
  server.Stop();
  const auto begin = Clock::now();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 100; ++i) answers.push_back(client.Send({"INCR", "k"}));
  for (auto& answer : answers) {
    const Answer its = answer.get();
    CHECK(its.kind == Answer::Kind::kUnknown);
    CHECK(its.why == server.Socket() + ": has sent nothing for 100 ms while a command waits");
  }
  CHECK(Clock::now() - begin >= 100ms);
  // From now on nobody waits, though a hanging server accepts connections.
  client.AwaitState(server.Socket(), NodeState::kAway);
  CHECK(client.Ask({"INCR", "k"}).kind == Answer::Kind::kNotSent);
  server.Continue();
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE(
    "Redis client: commands that a hanging server has no room for were not sent, and say so") {
  RedisServer server;
  TestClient client(OptionsAt(server.Socket(), 100ms));
  REQUIRE(client.Ask({"PING"}).IsReply());
  server.Stop();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 50; ++i) {
    answers.push_back(client.Send({"RPUSH", "list", std::string(100'000, 'x')}));
  }
  int unknown = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const Answer::Kind kind = answers[i].get().kind;
    if (kind == Answer::Kind::kUnknown) {
      CHECK(unknown == static_cast<int>(i));  // the first ones
      ++unknown;
    } else {
      CHECK(kind == Answer::Kind::kNotSent);
    }
  }
  CHECK(unknown >= 1);
  CHECK(unknown <= 40);
  server.Continue();
  client.AwaitState(server.Socket(), NodeState::kUp);
  CHECK(server.Ask("LLEN", "list").number <= unknown);
}

TEST_CASE("Redis client: a slow server that goes on answering is not away") {
  const RedisServer server;
  TestClient client(OptionsAt(server.Socket(), 300ms));
  REQUIRE(client.Ask({"PING"}).IsReply());
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 8; ++i) answers.push_back(client.Send({"BLPOP", "none", "0.1"}));
  for (auto& answer : answers) CHECK(answer.get().IsReply());  // the last one after 800 ms
}

TEST_CASE("Redis client: a long command that a slow server goes on reading is not given up") {
  const TemporaryDirectory directory;
  const UniqueFd listener = ListenAt(directory.Path() + "/socket");
  std::promise<void> answered;
  std::jthread server([&] {
    std::optional<UniqueFd> connection;
    Await([&] {
      connection.emplace(::accept(*listener, nullptr, nullptr));
      return **connection >= 0;
    });
    const std::string hello = "-ERR unknown command\r\n+PONG\r\n";
    ::send(**connection, hello.data(), hello.size(), MSG_NOSIGNAL);
    std::string bytes(100'000, ' ');
    std::size_t total = 0;
    while (total < 2'000'000) {  // in about 20 pieces, each 20 ms after the one before
      const auto next = Clock::now() + 20ms;
      Await([&] { return Clock::now() >= next; });
      const ssize_t size = ::recv(**connection, bytes.data(), bytes.size(), 0);
      if (size <= 0) break;
      total += static_cast<std::size_t>(size);
    }
    ::send(**connection, "+OK\r\n", 5, MSG_NOSIGNAL);
    answered.get_future().wait();
  });
  TestClient client(OptionsAt(directory.Path() + "/socket", 100ms));
  const Answer answer = client.Ask({"SET", "k", std::string(2'000'000, 'x')});
  answered.set_value();
  CHECK(answer.why == "");
  CHECK(answer.IsReply());
}

TEST_CASE("Redis client: a server that has restarted is used again, and knows the scripts again") {
  RedisServer server;
  TestClient client(OptionsAt(server.Socket()));
  REQUIRE(client.Run(CountScript(), "k").reply.integer == 1);
  for (int i = 0; i < 3; ++i) {
    server.Restart();
    Await([&] { return client.Run(CountScript(), "k").IsReply(); });
    CHECK(server.Get("k") == "1");
  }
}

TEST_CASE("Redis client: a connection that a server closes when it is idle is replaced unnoticed") {
  const RedisServer server;
  TestClient client(OptionsAt(server.Socket()));
  for (int i = 0; i < 3; ++i) {
    REQUIRE(client.Ask({"PING"}).IsReply());
    const auto since = client.Node(server.Socket())->since;
    Await([&] { return std::chrono::system_clock::now() - since > 1100ms; });
    server.Ask("CLIENT KILL TYPE normal");
    Await([&] { return client.Node(server.Socket())->since != since; });
    CHECK(client.Ask({"INCR", "k"}).reply.integer == i + 1);
  }
}

TEST_CASE("Redis client: a cut after any byte ends the command once, and never runs it unnoticed") {
  const RedisServer server;
  std::uint64_t requests = 0;
  std::uint64_t replies = 0;
  {
    const RedisProxy proxy(server.Socket());
    TestClient client(OptionsAt(proxy.Socket()));
    REQUIRE(client.Run(CountScript(), "0").reply.integer == 1);
    requests = proxy.Bytes(0, RedisProxy::kRequests);
    replies = proxy.Bytes(0, RedisProxy::kReplies);
  }
  server.Ask("SCRIPT FLUSH");
  for (const RedisProxy::Way way : {RedisProxy::kRequests, RedisProxy::kReplies}) {
    const std::uint64_t last = way == RedisProxy::kRequests ? requests : replies;
    for (std::uint64_t at = 0; at < last; ++at) {
      INFO("cut after " << at << " bytes of the "
                        << (way == RedisProxy::kRequests ? "requests" : "replies"));
      RedisProxy proxy(server.Socket());
      proxy.CutAt({way, at, 0});
      TestClient client(OptionsAt(proxy.Socket()));
      server.Ask("DEL", "k");
      server.Ask("SCRIPT FLUSH");
      const Answer answer = client.Run(CountScript(), "k");
      client.Destroy();
      const bool ran = server.Get("k").has_value();
      CHECK(answer.kind != Answer::Kind::kRefused);
      if (answer.kind == Answer::Kind::kNotSent) CHECK_FALSE(ran);
      if (answer.kind == Answer::Kind::kReply) CHECK(ran);
      if (answer.IsReply()) CHECK(answer.reply.integer == 1);
    }
  }
}

TEST_CASE("Redis client: a connection that swallows the requests is noticed by the first of them") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  TestClient client(OptionsAt(proxy.Socket(), 100ms));
  REQUIRE(client.Ask({"PING"}).IsReply());
  proxy.HoldAt({RedisProxy::kRequests, proxy.Bytes(0, RedisProxy::kRequests), 0});
  const Answer answer = client.Ask({"INCR", "k"});
  CHECK(answer.kind == Answer::Kind::kUnknown);
  client.AwaitState(proxy.Socket(), NodeState::kUp);  // by a new connection
  CHECK(client.Ask({"INCR", "k"}).reply.integer == 1);
}

TEST_CASE("Redis client: damaged answers are an outage, and never hang") {
  const RedisServer server;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  {
    const RedisProxy proxy(server.Socket());
    TestClient client(OptionsAt(proxy.Socket()));
    REQUIRE(client.Ask({"PING"}).IsReply());
    begin = proxy.Bytes(0, RedisProxy::kReplies);
    REQUIRE(client.Run(EchoScript(), "key", "argument").IsReply());
    end = proxy.Bytes(0, RedisProxy::kReplies);
  }
  for (std::uint64_t at = begin; at < end; ++at) {
    RedisProxy proxy(server.Socket());
    proxy.CorruptAt({RedisProxy::kReplies, at, 0});
    TestClient client(OptionsAt(proxy.Socket(), 50ms));
    REQUIRE(client.Ask({"PING"}).IsReply());
    const Answer answer = client.Run(EchoScript(), "key", "argument");
    if (answer.IsReply()) {  // what is not seen here is seen by a checksum, later
      CHECK(answer.reply.type == Reply::Type::kArray);
    } else {
      CHECK(answer.why.starts_with(proxy.Socket() + ": "));
    }
  }
}

TEST_CASE("Redis client: a server's last words are the reason for its end") {
  const TemporaryDirectory directory;
  const UniqueFd listener = ListenAt(directory.Path() + "/socket");
  TestClient client(OptionsAt(directory.Path() + "/socket"));
  std::future<Answer> answer = client.Send({"PING"});
  std::optional<UniqueFd> connection;
  Await([&] {
    connection.emplace(::accept(*listener, nullptr, nullptr));
    return **connection >= 0;
  });
  const std::string words = "-ERR closed for the night\r\n";
  REQUIRE(::send(**connection, words.data(), words.size(), 0) > 0);
  connection.reset();
  CHECK(answer.get().why.find("ERR closed for the night") != std::string::npos);
}

TEST_CASE("Redis client: what is no Redis server is away") {
  for (const char* words :
       {"HTTP/1.1 400 Bad Request\r\n\r\n", "\r\n", "*-5\r\n", "$99999999999999\r\n", ":1x\r\n",
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"
        "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n"}) {
    INFO(words);
    const TemporaryDirectory directory;
    const UniqueFd listener = ListenAt(directory.Path() + "/socket");
    TestClient client(OptionsAt(directory.Path() + "/socket"));
    std::future<Answer> answer = client.Send({"PING"});
    std::optional<UniqueFd> connection;
    Await([&] {
      connection.emplace(::accept(*listener, nullptr, nullptr));
      return **connection >= 0;
    });
    REQUIRE(::send(**connection, words, std::string(words).size(), 0) > 0);
    CHECK(answer.get().why.ends_with("sent what is not the Redis protocol"));
  }
}

TEST_CASE("Redis client: an answer that nobody asked for closes the connection") {
  const TemporaryDirectory directory;
  const UniqueFd listener = ListenAt(directory.Path() + "/socket");
  TestClient client(OptionsAt(directory.Path() + "/socket"));
  std::optional<UniqueFd> connection;
  Await([&] {
    connection.emplace(::accept(*listener, nullptr, nullptr));
    return **connection >= 0;
  });
  const std::string words = "-ERR unknown command\r\n+PONG\r\n+OK\r\n";  // the last one is too much
  REQUIRE(::send(**connection, words.data(), words.size(), 0) > 0);
  Await([&] {  // it connects again at once, since this was the first loss
    const auto node = client.Node(directory.Path() + "/socket");
    return node->state == NodeState::kConnecting && !node->why.empty();
  });
  CHECK(client.Node(directory.Path() + "/socket")->why.ends_with("answered what nobody asked"));
}

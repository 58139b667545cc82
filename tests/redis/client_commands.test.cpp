// SPDX-License-Identifier: MIT

// Tests how a redis::Client sends commands and hands out their answers, with a server that works.

#include <algorithm>
#include <array>
#include <cstddef>
#include <future>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "client_support.hpp"
#include "server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

TEST_CASE("Redis client: a command and its answer may hold any bytes") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  std::string bytes = "\r\n$5\r\n"s;
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  CHECK(client.Ask({"SET", bytes, bytes + "!"}).reply.text == "OK");
  CHECK(client.Ask({"GET", bytes}).reply.text == bytes + "!");
  CHECK(client.Ask({"SET", "", ""}).IsReply());
  CHECK(client.Ask({"GET", ""}).reply.type == Reply::Type::kString);
  CHECK(client.Ask({"GET", "none"}).reply.type == Reply::Type::kNil);
}

TEST_CASE("Redis client: a script is sent whole once, and then by its digest") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  for (int i = 1; i <= 3; ++i) CHECK(client.Run(CountScript(), "k").reply.integer == i);
  CHECK(server.Ask("INFO", "commandstats").text.find("cmdstat_eval:calls=1,") != std::string::npos);
  server.Ask("SCRIPT", "FLUSH");
  CHECK(client.Run(CountScript(), "k").reply.integer == 4);
  CHECK(server.Ask("INFO", "commandstats").text.find("cmdstat_eval:calls=2,") != std::string::npos);
}

TEST_CASE("Redis client: commands that meet a forgotten script together send it whole once") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  CHECK(client.Ask({"PING"}).IsReply());
  std::vector<std::future<Answer>> answers(100);
  client.OnLoop([&] {
    for (auto& answer : answers) {
      auto promise = std::make_shared<std::promise<Answer>>();
      answer = promise->get_future();
      client.Core().Commands().RunScript(
          CountScript(), std::array<std::string_view, 1>{"k"}, {},
          [promise](Answer its) { promise->set_value(std::move(its)); });
    }
  });
  long long last = 0;
  for (auto& answer : answers) last = std::max(last, answer.get().reply.integer);
  CHECK(last == 100);
  CHECK(server.Ask("INFO", "commandstats").text.find("cmdstat_eval:calls=1,") != std::string::npos);
}

// The second round would find the first one's commands after they have been destroyed.
// AddressSanitizer notices that.
TEST_CASE("Redis client: no command waits for a script that its queue had no room for") {
  const RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.max_queued_bytes = 4000;
  TestClient client(options);
  REQUIRE(client.Ask({"PING"}).IsReply());
  const detail::Script script("return 1 -- " + std::string(4000, 'x'));
  for (int round = 1; round <= 2; ++round) {
    std::vector<std::future<Answer>> answers(5);
    client.OnLoop([&] {
      for (auto& answer : answers) {
        auto promise = std::make_shared<std::promise<Answer>>();
        answer = promise->get_future();
        client.Core().Commands().RunScript(
            script, std::array<std::string_view, 1>{"k"}, {},
            [promise](Answer its) { promise->set_value(std::move(its)); });
      }
    });
    for (auto& answer : answers) CHECK(answer.get().kind == Answer::Kind::kNotSent);
    CHECK(Calls(server, "evalsha") == 5 * round);
  }
}

TEST_CASE("Redis client: an error of the server is an answer that names the server") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  const Answer answer = client.Run(EchoScript(), "k", "fail");
  CHECK(answer.kind == Answer::Kind::kRefused);
  CHECK(answer.reply.text == "ERR as you wish");
  CHECK(answer.why == server.Socket() + ": ERR as you wish");
  CHECK(client.Ask({"NOSUCH"}).kind == Answer::Kind::kRefused);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: answers come in the order of the commands, from many threads") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  REQUIRE(client.Run(CountScript(), "other").IsReply());  // the server knows the script from now on
  constexpr int kThreads = 4;
  constexpr int kEach = 25'000;
  std::array<std::atomic<int>, kThreads> wrong = {};
  std::array<std::atomic<int>, kThreads> next = {};
  std::vector<JoiningThread> threads;
  for (std::size_t thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kEach; ++i) {
        client.Core().Loop().Post([&, thread, i] {
          const std::string key = "k" + std::to_string(thread);
          client.Core().Commands().RunScript(CountScript(), std::array<std::string_view, 1>{key},
                                             {}, [&, thread, i](Answer its) {
                                               if (its.reply.integer != i + 1 || next[thread] != i)
                                                 ++wrong[thread];
                                               ++next[thread];
                                             });
        });
      }
    });
  }
  threads.clear();
  Await([&] { return std::ranges::all_of(next, [](const auto& n) { return n == kEach; }); });
  for (const auto& count : wrong) CHECK(count == 0);
}

TEST_CASE("Redis client: the commands of one turn of the loop go out in one write") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  REQUIRE(client.Ask({"PING"}).IsReply());
  const long long before = server.Info("total_reads_processed");
  std::atomic<int> answered = 0;
  client.OnLoop([&] {
    const std::array<std::string_view, 2> words = {"GET", "k"};
    for (int i = 0; i < 300; ++i) {
      client.Core().Commands().Run("k", words, [&](const Answer&) { ++answered; });
    }
  });
  Await([&] { return answered == 300; });
  // The helper's own connection makes two reads for each INFO: the command, and its end.
  CHECK(server.Info("total_reads_processed") - before <= 3);
}

TEST_CASE("Redis client: a burst of posts wakes the loop once") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  detail::EventLoop& loop = client.Core().Loop();
  REQUIRE(client.Ask({"PING"}).IsReply());
  std::promise<void> may_go;
  std::promise<void> entered;
  loop.Post([&] {
    entered.set_value();
    may_go.get_future().wait();
  });
  entered.get_future().wait();
  const auto before = loop.WakeUps();
  std::atomic<int> ran = 0;
  for (int i = 0; i < 10'000; ++i) loop.Post([&] { ++ran; });
  may_go.set_value();
  Await([&] { return ran == 10'000; });
  CHECK(loop.WakeUps() == before);
}

TEST_CASE("Redis client: an answer that is too long fails alone, and the connection stays") {
  const RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.max_reply_bytes = 100'000;
  TestClient client(options);
  server.Ask("SET", "long", std::string(100'001, 'x'));
  server.Ask("SET", "fits", std::string(100'000, 'x'));
  for (int i = 0; i < 100'000 / 50; ++i) server.Ask("RPUSH", "list", std::string(60, 'x'));
  std::vector<std::future<Answer>> answers;
  for (const char* key : {"long", "fits", "long", "none"})
    answers.push_back(client.Send({"GET", key}));
  answers.push_back(client.Send({"LRANGE", "list", "0", "-1"}));
  answers.push_back(client.Send({"LLEN", "list"}));
  const Answer refused = answers[0].get();
  CHECK(refused.kind == Answer::Kind::kRefused);
  CHECK(refused.why == server.Socket() + ": the answer is longer than max_reply_bytes");
  CHECK(answers[1].get().reply.text.size() == 100'000);
  CHECK(answers[2].get().kind == Answer::Kind::kRefused);
  CHECK(answers[3].get().reply.type == Reply::Type::kNil);
  CHECK(answers[4].get().kind == Answer::Kind::kRefused);
  CHECK(answers[5].get().reply.integer == 2000);
  CHECK(server.Info("total_connections_received") < 3000);
}

TEST_CASE("Redis client: commands beyond max_queued_bytes fail at once") {
  RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.max_queued_bytes = 1'000'000;
  TestClient client(options);
  REQUIRE(client.Ask({"PING"}).IsReply());
  server.Stop();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 20; ++i)
    answers.push_back(client.Send({"SET", "k", std::string(100'000, 'x')}));
  for (std::size_t i = 9; i < answers.size(); ++i) {
    const Answer answer = answers[i].get();
    CHECK(answer.kind == Answer::Kind::kNotSent);
    CHECK(answer.why == server.Socket() + ": max_queued_bytes of commands wait for their answers");
  }
  server.Continue();
  for (std::size_t i = 0; i < 9; ++i) CHECK(answers[i].get().IsReply());
  CHECK(client.Ask({"SET", "k", std::string(100'000, 'x')}).IsReply());
}

TEST_CASE("Redis client: a command for which there is no memory fails alone") {
  const RedisServer server;
  TestClient client(ClientOptionsFor(server));
  REQUIRE(client.Ask({"SET", "long", std::string(4 << 20, 'x')}).IsReply());
  const std::string no_memory = "there is no memory for a command";
  std::vector<std::future<Answer>> answers;
  const auto send = [&](std::size_t size) {
    const std::string value(size, 'x');
    client.OnLoop([&] {
      const std::array<std::string_view, 3> words = {"SET", "k", value};
      largest_allocation = 1 << 20;
      for (int i = 0; i < 3; ++i) {
        auto promise = std::make_shared<std::promise<Answer>>();
        answers.push_back(promise->get_future());
        client.Core().Commands().Run("k", words,
                                     [promise](Answer its) { promise->set_value(std::move(its)); });
      }
      largest_allocation = std::numeric_limits<std::size_t>::max();
    });
  };
  SECTION("of its own") {
    send(4 << 20);
    for (auto& answer : answers) {
      const Answer its = answer.get();
      CHECK(its.kind == Answer::Kind::kNotSent);
      CHECK(its.why == no_memory);
    }
  }
  SECTION("in what the connection has yet to write") {
    send(600'000);  // twice that is too much
    CHECK(answers[0].get().IsReply());
    for (const int i : {1, 2}) {
      const Answer its = answers[static_cast<std::size_t>(i)].get();
      CHECK(its.kind == Answer::Kind::kNotSent);
      CHECK(its.why == server.Socket() + ": " + no_memory);
    }
  }
  SECTION("for the script's text") {
    const std::string value(1'047'000, 'x');
    const detail::Script script("return 1 -- " + std::string(10'000, 'x'));
    largest_allocation = 1 << 20;
    std::promise<Answer> promise;
    client.OnLoop([&] {
      client.Core().Commands().RunScript(script, std::array<std::string_view, 1>{"k"},
                                         std::array<std::string_view, 1>{value},
                                         [&](Answer its) { promise.set_value(std::move(its)); });
    });
    CHECK(promise.get_future().get().kind == Answer::Kind::kRefused);
  }
  SECTION("for its answer") {
    largest_allocation = 1 << 20;
    CHECK(client.Ask({"GET", "long"}).kind == Answer::Kind::kUnknown);
  }
  largest_allocation = std::numeric_limits<std::size_t>::max();
  CHECK(client.Ask({"GET", "long"}).reply.text.size() == 4 << 20);
}

TEST_CASE("Redis client: a client that is destroyed calls each callback once") {
  RedisServer server;
  auto client = std::make_unique<TestClient>(ClientOptionsFor(server));
  REQUIRE(client->Ask({"PING"}).IsReply());
  server.Stop();
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 100; ++i) answers.push_back(client->Send({"INCR", "k"}));
  client->OnLoop([] {});
  client->OnLoop([] {});  // the turn before has written them
  client = nullptr;
  for (auto& answer : answers) {
    const Answer its = answer.get();
    CHECK(its.kind == Answer::Kind::kUnknown);
    CHECK(its.why == server.Socket() + ": the client is destroyed");
  }
  server.Continue();
}

TEST_CASE("Redis client: a client that was never used has no thread and no connection") {
  const RedisServer server;
  const std::size_t threads = CountThreads();
  const singleflight::redis::Client client(ClientOptionsFor(server));
  CHECK(CountThreads() == threads);
  CHECK(client.Nodes().empty());
  CHECK(server.Info("total_connections_received") == 2);  // those of this test
}

TEST_CASE("Redis client: a client has one thread and one connection, and leaves neither behind") {
  const RedisServer server;
  const std::size_t threads = CountThreads();
  {
    TestClient client(ClientOptionsFor(server));
    std::vector<std::future<Answer>> answers;
    for (int i = 0; i < 1000; ++i) answers.push_back(client.Send({"INCR", "k"}));
    for (auto& answer : answers) REQUIRE(answer.get().IsReply());
    CHECK(CountThreads() == threads + 1);
    CHECK(server.Info("connected_clients") == 2);
  }
  CHECK(CountThreads() == threads);
  Await([&] { return server.Info("connected_clients") == 1; });
}

// SPDX-License-Identifier: MIT

// Tests how a redis::Client looks names up, and what its groups do meanwhile. The test's own
// look-up stands for the system's.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

#include "client_support.hpp"
#include "fake_names.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

TEST_CASE("Redis client: a look-up that hangs delays neither a command nor the destructor") {
  FakeNames names;
  const std::size_t threads = CountThreads();
  TestClient client(NamedOptions(50ms), names.LookUp());
  const Answer answer = client.Ask({"PING"});
  CHECK(answer.kind == Answer::Kind::kNotSent);
  CHECK(answer.why == kName + ": cannot be looked up within connect_timeout"s);
  CHECK(client.Ask({"PING"}).kind == Answer::Kind::kNotSent);
  CHECK(names.Asked() == 1);
  client.Destroy();
  CHECK(CountThreads() == threads + 1);  // the one that hangs
  names.FailWith("too late");
  Await([&] { return CountThreads() == threads; });
}

TEST_CASE("Redis client: a look-up that hangs has one thread, however often it is needed") {
  FakeNames names;
  const std::size_t threads = CountThreads();
  TestClient client(NamedOptions(20ms), names.LookUp());
  Await([&] {  // until it has given up a few times
    const auto node = client.Node(kName);
    return node && node->state == NodeState::kAway;
  });
  for (int i = 0; i < 20; ++i) CHECK(client.Ask({"PING"}).kind == Answer::Kind::kNotSent);
  CHECK(CountThreads() == threads + 2);
  CHECK(names.Asked() == 1);
  const RedisServer server({.tcp = true});
  names.AnswerWith({&server});
  client.AwaitState(kName, NodeState::kUp);
}

TEST_CASE("Redis client: a name that does not resolve is an outage that says so, until it does") {
  FakeNames names;
  names.FailWith("Name or service not known");
  TestClient client(NamedOptions(), names.LookUp());
  CHECK(client.Ask({"PING"}).why == kName + ": cannot be looked up: Name or service not known"s);
  const RedisServer server({.tcp = true});
  names.AnswerWith({&server});
  client.AwaitState(kName, NodeState::kUp);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: all addresses of a name are tried") {
  RedisServer dead({.tcp = true});
  const RedisServer replica({.tcp = true});
  const RedisServer server({.tcp = true});
  dead.Kill();
  replica.Ask("REPLICAOF", "127.0.0.1", std::to_string(server.Port()));
  FakeNames names;
  names.AnswerWith({&dead, &replica, &server});
  TestClient client(NamedOptions(), names.LookUp());
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  CHECK(server.Get("k") == "v");
}

TEST_CASE("Redis client: an address that hangs leaves time for the next one") {
  RedisServer hung({.tcp = true});
  const RedisServer server({.tcp = true});
  FakeNames names;
  names.AnswerWith({&hung, &server});
  hung.Stop();
  TestClient client(NamedOptions(400ms), names.LookUp());
  CHECK(client.Ask({"PING"}).IsReply());
  hung.Continue();
}

TEST_CASE("Redis client: reconnecting needs no look-up to answer, but follows what it says") {
  RedisServer before({.tcp = true});
  const RedisServer after({.tcp = true});
  FakeNames names;
  names.AnswerWith({&before});
  TestClient client(NamedOptions(), names.LookUp());
  REQUIRE(client.Ask({"PING"}).IsReply());
  names.Hang();
  before.Restart();
  client.AwaitState(kName, NodeState::kUp);
  Await([&] { return client.Ask({"PING"}).IsReply(); });
  CHECK(names.Asked() == 2);
  before.Kill();
  names.AnswerWith({&after});
  Await([&] { return client.Ask({"SET", "k", "v"}).IsReply(); });
  CHECK(after.Get("k") == "v");
}

TEST_CASE("Redis client: a look-up that throws is one that fails") {
  TestClient client(NamedOptions(), [](const std::string&, int) -> detail::LookUpResult {
    throw std::runtime_error("no names today");
  });
  CHECK(client.Ask({"PING"}).why == kName + ": cannot be looked up: no names today"s);
}

// ---- As callers see it

TEST_CASE("redis: callers run their functions while their server's name is not looked up") {
  const RedisServer server({.tcp = true});
  FakeNames names;
  NamedProcess process(names, 20ms);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    CHECK(*process.pages.Do("k", [] { return "own"s; }) == "own");
    CHECK(process.pages.GetStats().outages == i);
  }
  CHECK(process.pages.LastOutage() == kName + ": cannot be looked up within connect_timeout"s);
  CHECK(names.Asked() == 1);

  // From the answer on, the server is used.
  names.AnswerWith({&server});
  Await([&] { return process.client.Nodes().at(0).state == NodeState::kUp; });
  const auto load = [&](const singleflight::redis::Lease& lease) {
    CHECK(LeaseField(server, "k", "token") == lease.token());
    return "led"s;
  };
  CHECK(*process.pages.Do("k", load) == "led");
}

TEST_CASE("redis: callers fail with the reason while their server's name is not looked up") {
  FakeNames names;
  NamedProcess process(names, 20ms, {.on_outage = singleflight::redis::OnOutage::kFail});
  CHECK(ErrorOf([&] { return process.pages.Do("k", NeverRun); }) == std::errc::not_connected);
  names.FailWith("no such name");
  Await([&] {
    CHECK(ErrorOf([&] { return process.pages.Do("k", NeverRun); }) == std::errc::not_connected);
    return process.pages.LastOutage() == kName + ": cannot be looked up: no such name"s;
  });
}

TEST_CASE("redis: a group that is destroyed while a name is looked up lands its calls") {
  FakeNames names;
  std::optional<NamedProcess> process(std::in_place, names, 1h);
  singleflight::Future<std::string> future = DoAsync(process->pages, "k", NeverRun);
  process.reset();
  CHECK(ErrorOf([&] { return future.Get(); }) == std::errc::operation_canceled);
  names.FailWith("too late");
}

// SPDX-License-Identifier: MIT

// Tests a redis::Client that knows several servers, by itself or from Redis Sentinels.

#include <chrono>
#include <future>
#include <memory>
#include <string>
#include <vector>

#include "client_support.hpp"
#include "sentinel.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

ClientOptions SeedOptions(const std::vector<const RedisServer*>& servers) {
  ClientOptions options;
  for (const RedisServer* server : servers) options.seeds.push_back({"127.0.0.1", server->Port()});
  options.connect_timeout = options.command_timeout = 1min;
  return options;
}

}  // namespace

TEST_CASE("Redis client: a dead first seed costs nothing") {
  RedisServer dead({.tcp = true});
  RedisServer hung({.tcp = true});
  const RedisServer server({.tcp = true});
  dead.Kill();
  hung.Stop();
  TestClient client(SeedOptions({&dead, &hung, &server}));  // its timeouts are a minute
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  CHECK(server.Get("k") == "v");
  hung.Continue();
}

TEST_CASE("Redis client: of several seeds, the master is used, and the others are left alone") {
  const RedisServer master({.tcp = true});
  const RedisServer replica({.tcp = true});
  Follow(replica, master);
  TestClient client(SeedOptions({&replica, &master}));
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  client.AwaitState(At(master), NodeState::kUp);
  client.AwaitState(At(replica), NodeState::kIdle);
  Await([&] { return replica.Info("connected_clients") == 2; });  // the master, and this
}

TEST_CASE("Redis client: if all seeds are away, a command says why for each") {
  RedisServer first({.tcp = true});
  RedisServer second({.tcp = true});
  first.Kill();
  second.Kill();
  TestClient client(SeedOptions({&first, &second}));
  const std::string why = client.Ask({"PING"}).why;
  CHECK(why.find(At(first) + ": Connection refused") != std::string::npos);
  CHECK(why.find(At(second) + ": Connection refused") != std::string::npos);
  second.Start();
  client.AwaitState(At(second), NodeState::kUp);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: the next seed is used when the master is lost") {
  RedisServer first({.tcp = true});
  const RedisServer second({.tcp = true});
  Follow(second, first);
  TestClient client(SeedOptions({&first, &second}));
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  first.Kill();
  second.Ask("REPLICAOF NO ONE");
  client.AwaitState(At(second), NodeState::kUp);
  CHECK(client.Ask({"SET", "k", "w"}).IsReply());
  CHECK(second.Get("k") == "w");
}

TEST_CASE("Redis client: a master that becomes a replica is left for the new one, with no error") {
  const RedisServer first({.tcp = true});
  const RedisServer second({.tcp = true});
  Follow(second, first);
  TestClient client(SeedOptions({&first, &second}));
  REQUIRE(client.Run(CountScript(), "k").reply.integer == 1);
  Await([&] { return second.Get("k") == "1"; });
  second.Ask("REPLICAOF NO ONE");
  first.Ask("REPLICAOF", "127.0.0.1", Port(second));
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 100; ++i) answers.push_back(client.SendScript(CountScript(), "k"));
  for (auto& answer : answers) CHECK(answer.get().why == "");
  CHECK(second.Get("k").value() == "101");
}

TEST_CASE(
    "Redis client: the Sentinels say which server is the master, before and after a failover") {
  RedisServer first({.tcp = true});
  const RedisServer second({.tcp = true});
  Follow(second, first);
  std::vector<std::unique_ptr<Sentinel>> sentinels;
  for (int i = 0; i < 3; ++i) sentinels.push_back(std::make_unique<Sentinel>(first, 2));
  for (const auto& sentinel : sentinels) {
    Await([&] {
      return sentinel->Number("num-other-sentinels") == 2 && sentinel->Number("num-slaves") == 1;
    });
  }
  ClientOptions options;
  for (const auto& sentinel : sentinels) {
    options.sentinels.push_back({"127.0.0.1", sentinel->Server().Port()});
  }
  options.master = "shop";
  options.command_timeout = 500ms;
  TestClient client(options);
  CHECK(client.Ask({"SET", "k", "v"}).IsReply());
  CHECK(first.Get("k") == "v");
  std::atomic<int> subscribed = 0;
  client.OnLoop([&] { client.Core().Subscriptions().Subscribe("c", {{}, [&] { ++subscribed; }}); });
  Await([&] { return subscribed == 1; });

  sentinels[0]->Server().Kill();  // two of them suffice
  first.Kill();
  Await([&] { return client.Ask({"SET", "k", "w"}).IsReply(); });
  CHECK(second.Get("k") == "w");
  Await([&] { return subscribed == 2; });
  CHECK(second.Ask("PUBLISH", "c", "x").number == 1);
  client.AwaitState(At(first), NodeState::kIdle);
}

TEST_CASE("Redis client: a failover that the Sentinels are asked for loses no command") {
  const RedisServer first({.tcp = true});
  const RedisServer second({.tcp = true});
  Follow(second, first);
  const Sentinel sentinel(first, 1);
  Await([&] { return sentinel.Number("num-slaves") == 1; });
  ClientOptions options;
  options.sentinels = {{"127.0.0.1", sentinel.Server().Port()}};
  options.master = "shop";
  options.connect_timeout = options.command_timeout = 1min;
  TestClient client(options);
  REQUIRE(client.Run(CountScript(), "k").reply.integer == 1);
  Await([&] {  // until the Sentinel knows enough about the replica
    try {
      return sentinel.Server().Ask("SENTINEL FAILOVER shop").text == "OK";
    } catch (const std::runtime_error&) {
      return false;
    }
  });
  client.AwaitState(At(second), NodeState::kUp);
  CHECK(client.Run(CountScript(), "k").IsReply());
}

TEST_CASE("Redis client: Sentinels may have a password of their own") {
  const RedisServer server({.tcp = true, .password = "data"});
  const Sentinel sentinel(server, 1, "watch");
  ClientOptions options;
  options.sentinels = {{"127.0.0.1", sentinel.Server().Port()}};
  options.master = "shop";
  options.connect_timeout = options.command_timeout = 1min;
  options.password = "data";
  {
    TestClient client(options);
    CHECK(client.Ask({"PING"}).why.find("answered HELLO with: NOAUTH") != std::string::npos);
  }
  options.sentinel_password = "watch";
  TestClient client(options);
  CHECK(client.Ask({"PING"}).IsReply());
}

TEST_CASE("Redis client: Sentinels that know no such master are the reason of each failure") {
  const RedisServer server({.tcp = true});
  const Sentinel sentinel(server, 1);
  ClientOptions options;
  options.sentinels = {{"127.0.0.1", sentinel.Server().Port()}};
  options.master = "other";
  options.connect_timeout = options.command_timeout = 1min;
  TestClient client(options);
  CHECK(client.Ask({"PING"}).why == At(sentinel.Server()) + ": knows no master 'other'");
}

// SPDX-License-Identifier: MIT

// Tests a redis::Client whose server is a Redis Cluster, which moves slots between its nodes.

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <future>
#include <string>
#include <vector>

#include "client_support.hpp"
#include "cluster.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

std::string At(const RedisServer& server) { return "127.0.0.1:" + std::to_string(server.Port()); }

ClientOptions OptionsAt(const RedisServer& node) {
  ClientOptions options;
  options.port = node.Port();
  options.connect_timeout = options.command_timeout = 1min;
  return options;
}

// Returns the first key, counting up from 0, that is on that node.
std::string KeyOn(const RedisCluster& cluster, std::size_t node) {
  int key = 0;
  while (cluster.NodeOf(std::to_string(key)) != node) ++key;
  return std::to_string(key);
}

std::string SlotOf(const std::string& key) { return std::to_string(detail::HashSlot(key)); }
std::string IdOf(const RedisServer& node) { return node.Ask("CLUSTER", "MYID").text; }

void SetSlot(RedisServer& node, const std::string& key, const std::string& state,
             const std::string& id) {
  node.Ask("CLUSTER", "SETSLOT", SlotOf(key), state, id);
}

}  // namespace

TEST_CASE("Redis client in a cluster: the slot of a key is what the servers say") {
  const RedisServer server({.tcp = true, .cluster_enabled = true});
  for (const std::string& key : {""s, "a"s, "123456789"s, "{a}b"s, "x{a}b"s, "{}a"s, "{"s, "}{a}"s,
                                 "a{b"s, "{{a}}"s, "\xff\0{\0}"s}) {
    CHECK(server.Ask("CLUSTER", "KEYSLOT", key).number == detail::HashSlot(key));
  }
  CHECK(detail::HashSlot("123456789") == 0x31C3);  // from the specification
}

TEST_CASE("Redis client in a cluster: each command goes to the node that has its key, at once") {
  const RedisCluster cluster;
  TestClient client(OptionsAt(cluster.Node(1)));
  REQUIRE(client.Ask({"PING"}).IsReply());
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    client.AwaitState(At(cluster.Node(node)), NodeState::kUp);
  }
  std::vector<std::future<Answer>> answers;
  for (int i = 0; i < 300; ++i) {
    answers.push_back(client.SendScript(CountScript(), std::to_string(i)));
  }
  for (auto& answer : answers) CHECK(answer.get().reply.integer == 1);
  long long calls = 0;
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    calls += Calls(cluster.Node(node), "incr");
    CHECK(cluster.Node(node).Ask("INFO", "errorstats").text.find("MOVED") == std::string::npos);
    CHECK(cluster.Node(node).Info("connected_clients") == 2);  // the client's, and this
  }
  CHECK(calls == 300);
}

TEST_CASE("Redis client in a cluster: a slot that has moved is found, and then known") {
  RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  TestClient client(OptionsAt(cluster.Node(0)));
  REQUIRE(client.Run(CountScript(), key).reply.integer == 1);
  const std::string owner = IdOf(cluster.Node(2));
  cluster.Node(1).Ask("DEL", key);
  for (const std::size_t node : {2UL, 1UL, 0UL}) SetSlot(cluster.Node(node), key, "NODE", owner);
  CHECK(client.Run(CountScript(), key).reply.integer == 1);
  const auto moved = [&] { return cluster.Node(1).Ask("INFO", "errorstats").text; };
  const std::string before = moved();
  CHECK(before.find("errorstat_MOVED:count=1") != std::string::npos);
  CHECK(client.Run(CountScript(), key).reply.integer == 2);
  CHECK(moved() == before);
}

TEST_CASE(
    "Redis client in a cluster: the first slot found elsewhere makes it learn of the others") {
  RedisCluster cluster;
  std::vector<std::string> keys;
  for (int key = 0; keys.size() < 10; ++key) {
    if (cluster.NodeOf(std::to_string(key)) == 1) keys.push_back(std::to_string(key));
  }
  TestClient client(OptionsAt(cluster.Node(0)));
  REQUIRE(client.Run(CountScript(), KeyOn(cluster, 0)).IsReply());
  const std::string owner = IdOf(cluster.Node(2));
  for (const std::string& key : keys) {
    for (const std::size_t node : {2UL, 1UL, 0UL}) SetSlot(cluster.Node(node), key, "NODE", owner);
  }
  const auto questions = [&] {
    long long count = 0;
    for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
      count += Calls(cluster.Node(node), "cluster|slots");
    }
    return count;
  };
  const long long before = questions();
  CHECK(client.Run(CountScript(), keys[0]).reply.integer == 1);
  Await([&] { return questions() == before + 1; });
  REQUIRE(client.Ask({"PING"}).IsReply());  // of the same node, behind that answer
  for (const std::string& key : keys) CHECK(client.Run(CountScript(), key).IsReply());
  const std::string errors = cluster.Node(1).Ask("INFO", "errorstats").text;
  CHECK(errors.find("errorstat_MOVED:count=1\r\n") != std::string::npos);
}

TEST_CASE("Redis client in a cluster: a key is found on either side while its slot is moving") {
  RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  TestClient client(OptionsAt(cluster.Node(0)));
  REQUIRE(client.Run(CountScript(), key).reply.integer == 1);
  const std::string from = IdOf(cluster.Node(1));
  const std::string to = IdOf(cluster.Node(2));
  SetSlot(cluster.Node(2), key, "IMPORTING", from);
  SetSlot(cluster.Node(1), key, "MIGRATING", to);
  CHECK(client.Run(CountScript(), key).reply.integer == 2);  // it is there still
  cluster.Node(1).Ask("MIGRATE", "127.0.0.1", std::to_string(cluster.Node(2).Port()), key, "0",
                      "5000");
  for (int i = 3; i <= 5; ++i) CHECK(client.Run(CountScript(), key).reply.integer == i);  // ASK
  CHECK(cluster.Node(1).Ask("INFO", "errorstats").text.find("ASK:count=3") != std::string::npos);
  SetSlot(cluster.Node(2), key, "NODE", to);
  SetSlot(cluster.Node(1), key, "NODE", to);
  CHECK(client.Run(CountScript(), key).reply.integer == 6);
}

TEST_CASE("Redis client in a cluster: keys that are on two nodes for a while are waited for") {
  RedisCluster cluster;
  const std::string tag = "{" + KeyOn(cluster, 1) + "}";
  TestClient client(OptionsAt(cluster.Node(0)));
  REQUIRE(client.Ask({"MSET", tag + "a", "1", tag + "b", "2"}, tag).IsReply());
  const std::string from = IdOf(cluster.Node(1));
  const std::string to = IdOf(cluster.Node(2));
  SetSlot(cluster.Node(2), tag, "IMPORTING", from);
  SetSlot(cluster.Node(1), tag, "MIGRATING", to);
  const auto migrate = [&](const std::string& key) {
    cluster.Node(1).Ask("MIGRATE", "127.0.0.1", std::to_string(cluster.Node(2).Port()), key, "0",
                        "5000");
  };
  migrate(tag + "a");
  std::future<Answer> answer = client.Send({"MGET", tag + "a", tag + "b"}, tag);
  Await([&] {
    return cluster.Node(1).Ask("INFO", "errorstats").text.find("TRYAGAIN") != std::string::npos;
  });
  migrate(tag + "b");
  const Answer its = answer.get();
  REQUIRE(its.reply.elements.size() == 2);
  CHECK(its.reply.elements[0].text == "1");
  CHECK(its.reply.elements[1].text == "2");
}

TEST_CASE(
    "Redis client in a cluster: a slot that nobody has is an error, after the command's time") {
  RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    cluster.Node(node).Ask("CONFIG", "SET", "cluster-require-full-coverage", "no");
    cluster.Node(node).Ask("CLUSTER", "DELSLOTS", SlotOf(key));
  }
  ClientOptions options = OptionsAt(cluster.Node(0));
  options.connect_timeout = options.command_timeout = 200ms;
  TestClient client(options);
  const Answer answer = client.Run(CountScript(), key);
  CHECK(answer.kind == Answer::Kind::kRefused);
  CHECK(answer.reply.text.starts_with("CLUSTERDOWN"));
}

TEST_CASE("Redis client in a cluster: a node that is down fails its own keys only") {
  RedisCluster cluster;
  TestClient client(OptionsAt(cluster.Node(0)));
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    REQUIRE(client.Run(CountScript(), KeyOn(cluster, node)).IsReply());
  }
  std::atomic<int> subscribed = 0;
  client.OnLoop([&] { client.Core().Subscriptions().Subscribe("c", {{}, [&] { ++subscribed; }}); });
  Await([&] { return subscribed == 1; });
  const std::array<std::string, 3> keys = {KeyOn(cluster, 0), KeyOn(cluster, 1), KeyOn(cluster, 2)};
  const std::string& kept = keys[1];
  for (const std::size_t node : {2UL, 0UL}) {  // the second one has been the seed
    const std::string& key = keys[node];
    cluster.Node(node).Kill();
    client.AwaitState(At(cluster.Node(node)), NodeState::kAway);
    const Answer answer = client.Run(CountScript(), key);
    CHECK(answer.kind == Answer::Kind::kNotSent);
    CHECK(answer.why.starts_with(At(cluster.Node(node)) + ": "));
    CHECK(client.Run(CountScript(), kept).IsReply());
  }
  // Whichever node had the subscription, one that is up has it now.
  Await([&] { return cluster.Node(1).Ask("PUBSUB", "NUMSUB", "c").elements.at(1).number == 1; });
}

TEST_CASE("Redis client in a cluster: a message published on any node arrives once") {
  const RedisCluster cluster;
  TestClient client(OptionsAt(cluster.Node(0)));
  std::atomic<int> subscribed = 0;
  std::atomic<int> messages = 0;
  client.OnLoop([&] {
    client.Core().Subscriptions().Subscribe(
        "c", {[&](std::string_view) { ++messages; }, [&] { ++subscribed; }});
  });
  Await([&] { return subscribed == 1; });
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    cluster.Node(node).Ask("PUBLISH", "c", "x");
    Await([&] { return messages == static_cast<int>(node) + 1; });
  }
  CHECK(client.Ask({"PING"}).IsReply());
  CHECK(messages == 3);
}

TEST_CASE("Redis client in a cluster: a replica that is promoted is found") {
  RedisCluster cluster;
  const RedisServer replica({.tcp = true, .cluster_enabled = true});
  cluster.AddReplica(replica, 1);
  const std::string key = KeyOn(cluster, 1);
  TestClient client(OptionsAt(cluster.Node(0)));
  REQUIRE(client.Run(CountScript(), key).reply.integer == 1);
  Await([&] { return replica.Ask("DBSIZE").number == 1; });  // it has the key
  cluster.Node(1).Kill();
  client.AwaitState(At(cluster.Node(1)), NodeState::kAway);
  Await([&] {
    try {
      return replica.Ask("CLUSTER FAILOVER TAKEOVER").text == "OK";
    } catch (const std::runtime_error&) {
      return false;
    }
  });
  Await([&] { return client.Run(CountScript(), key).IsReply(); });
  CHECK(replica.Get(key) == "2");
  client.AwaitState(At(cluster.Node(1)), NodeState::kIdle);
}

TEST_CASE(
    "Redis client in a cluster: a user who may not ask for the slots learns them one by one") {
  const RedisCluster cluster;
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    cluster.Node(node).Ask("ACL SETUSER few on >secret ~* &* -@all +eval +evalsha +incr +ping");
  }
  ClientOptions options = OptionsAt(cluster.Node(0));
  options.user = "few";
  options.password = "secret";
  TestClient client(options);
  for (int round = 1; round <= 3; ++round) {
    for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
      CHECK(client.Run(CountScript(), KeyOn(cluster, node)).reply.integer == round);
    }
  }
  long long moved = 0;  // whichever node was asked
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    const std::string errors = cluster.Node(node).Ask("INFO", "errorstats").text;
    const std::size_t count = errors.find("errorstat_MOVED:count=");
    if (count != std::string::npos) moved += std::stoll(errors.substr(count + 22));
  }
  // Node 0 has answered for its own slot, which is not learned from that.
  CHECK(moved >= 2);
  CHECK(moved <= 3);
}

TEST_CASE("Redis client in a cluster: what a redirection may look like, and what not") {
  const detail::Address asked{"10.0.0.1", 7000};
  const auto read = [&](const char* error) { return detail::ParseRedirect(error, asked); };
  CHECK(read("MOVED 3999 10.0.0.2:6381")->to == detail::Address{"10.0.0.2", 6381});
  CHECK(read("MOVED 3999 10.0.0.2:6381")->slot == 3999);
  CHECK_FALSE(read("MOVED 3999 10.0.0.2:6381")->is_ask);
  CHECK(read("ASK 1 ::1:6381")->to == detail::Address{"::1", 6381});
  CHECK(read("ASK 1 ::1:6381")->is_ask);
  CHECK(read("MOVED 1 :6381")->to == detail::Address{"10.0.0.1", 6381});
  CHECK(read("MOVED 1 ?:6381")->to == detail::Address{"10.0.0.1", 6381});
  CHECK(detail::ParseRedirect("MOVED 1 :6381", {{}, 0, "/s"})->to.host == "127.0.0.1");
  for (const char* error :
       {"", "MOVED", "MOVED ", "MOVED x", "MOVED 1", "MOVED 1 ", "MOVED 1 :", "MOVED x a:1",
        "MOVED 16384 a:1", "MOVED -1 a:1", "MOVED 1 a:x", "MOVED 1 a:1x", "MOVED 1 a:0",
        "MOVED 1 a:65536", "MOVED 99999999999 a:1", "MOVED a:1", "ASK", "ERR MOVED 1 a:1"}) {
    INFO(error);
    CHECK_FALSE(read(error).has_value());
  }
}

// SPDX-License-Identifier: MIT

// Tests a redis::Group whose keys are spread over the nodes of a Redis Cluster.

#include "cluster.hpp"

#include <cstddef>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "outages.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

Options ClusterOptions(const RedisCluster& cluster, std::size_t node) {
  Options options = LongTimeouts("", OnOutage::kFail);
  options.port = cluster.Node(node).Port();
  return options;
}

long long BlockedClients(const RedisCluster& cluster) {
  long long blocked = 0;
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    blocked += cluster.Node(node).BlockedClients();
  }
  return blocked;
}

// Returns the first key, counting up from 0, whose lease is on that node.
std::string KeyOn(const RedisCluster& cluster, std::size_t node) {
  int key = 0;
  while (cluster.NodeOf(LeaseOf(std::to_string(key))) != node) ++key;
  return std::to_string(key);
}

}  // namespace

TEST_CASE("Redis Cluster: processes that start at different nodes share a call, whatever the key") {
  const RedisCluster cluster;
  // These keys have braces, which could be taken for a tag or close one, and other odd bytes.
  std::vector<std::string> keys = {
      ""s,        "}"s,        "}x"s,         "}}"s,   "{"s,
      "{}"s,      "a}"s,       "a{b"s,        "{a}b"s, "}{a}"s,
      "\0}\r\n"s, "\xff{\0}"s, "a\r\nlease"s, ":"s,    std::string(10'000, '{')};
  for (int i = 0; i < 40; ++i) keys.push_back("key " + std::to_string(i));
  RedisPages followers(ClusterOptions(cluster, 1));
  for (const std::string& key : keys) {
    INFO(key);
    RedisPages elsewhere(ClusterOptions(cluster, 0));
    RedisLeader leader(elsewhere, key, "for " + key);
    Caller follower([&] { return followers.Do(key, NeverRun); });
    Await([&] { return BlockedClients(cluster) == 1; });
    CHECK(leader.Finish().value == "for " + key);
    CHECK(follower.Join().value == "for " + key);
  }
  CHECK(followers.GetStats().remote == keys.size());
  CHECK(followers.GetStats().outages == 0);
}

TEST_CASE("Redis Cluster: the lease of a key is on the node that has the key") {
  const RedisCluster cluster;
  RedisPages group(ClusterOptions(cluster, 0));
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    const std::string key = KeyOn(cluster, node);
    std::optional<std::string> lease;
    const auto load = [&] {
      lease = cluster.Node(node).Get(LeaseOf(key));
      return "own"s;
    };
    CHECK(*group.Do(key, load) == "own");
    CHECK(lease.has_value());
  }
}

TEST_CASE("Redis Cluster: a node that is down is an outage for its own keys only") {
  RedisCluster cluster;
  Options options = ClusterOptions(cluster, 0);
  options.retry_after = 1h;
  RedisPages group(options);
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    CHECK(AskFor(group, KeyOn(cluster, node)).value == "own");
  }
  const std::string lost = KeyOn(cluster, 2);
  cluster.Node(2).Kill();
  CheckOutage(AskFor(group, lost), OnOutage::kFail, std::errc::not_connected);
  CHECK(AskFor(group, KeyOn(cluster, 0)).value == "own");
  CHECK(AskFor(group, KeyOn(cluster, 1)).value == "own");
  CheckOutage(AskFor(group, lost), OnOutage::kFail, std::errc::not_connected);
  CHECK(AskFor(group, KeyOn(cluster, 0)).value == "own");
  CHECK(group.GetStats().outages == 2);
}

TEST_CASE("Redis Cluster: a group finds a slot that has moved to another node") {
  const RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  const std::string slot =
      std::to_string(cluster.Node(0).Ask("CLUSTER", "KEYSLOT", LeaseOf(key)).number);
  RedisPages group(ClusterOptions(cluster, 0));
  CHECK(AskFor(group, key).value == "own");
  const std::string owner = cluster.Node(2).Ask("CLUSTER", "MYID").text;
  for (const std::size_t node : {2UL, 1UL, 0UL}) {
    cluster.Node(node).Ask("CLUSTER", "SETSLOT", slot, "NODE", owner);
  }
  std::optional<std::string> lease;
  const auto load = [&] {
    lease = cluster.Node(2).Get(LeaseOf(key));
    return "own"s;
  };
  CHECK(*group.Do(key, load) == "own");
  CHECK(lease.has_value());
  CHECK(group.GetStats().outages == 0);
}

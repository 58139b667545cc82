// SPDX-License-Identifier: MIT
#pragma once

// RedisCluster runs a real Redis Cluster: three servers that divide the keys among themselves.

#include <array>
#include <cstddef>
#include <stdexcept>
#include <string>
#include <string_view>

#include "server.hpp"
#include "support/support.hpp"

namespace test {

class RedisCluster {
 public:
  static constexpr std::size_t kNodes = 3;

  // Returns when each node knows all others and which keys they have.
  RedisCluster() {
    for (std::size_t i = 0; i < kNodes; ++i) {
      const auto slot = [](std::size_t node) { return kSlots * node / kNodes; };
      nodes_[i].Ask("CLUSTER", "SET-CONFIG-EPOCH", std::to_string(i + 1));
      nodes_[i].Ask("CLUSTER", "ADDSLOTSRANGE", std::to_string(slot(i)),
                    std::to_string(slot(i + 1) - 1));
    }
    // Each node meets all others. Otherwise gossip takes seconds to introduce the third one.
    for (const RedisServer& node : nodes_) {
      for (const RedisServer& other : nodes_) {
        if (&node == &other) continue;
        node.Ask("CLUSTER", "MEET", "127.0.0.1", std::to_string(other.Port()),
                 std::to_string(other.ClusterPort()));
      }
    }
    for (const RedisServer& node : nodes_) Await([&] { return IsReady(node); });
  }

  RedisServer& Node(std::size_t number) { return nodes_.at(number); }
  const RedisServer& Node(std::size_t number) const { return nodes_.at(number); }

  // Makes a server, which has cluster_enabled, a replica of a node. Returns when it has the node's
  // data and all nodes know it: else they would not vote for it, nor hear of it.
  void AddReplica(const RedisServer& replica, std::size_t of) const {
    for (const RedisServer& node : nodes_) {
      replica.Ask("CLUSTER", "MEET", "127.0.0.1", std::to_string(node.Port()),
                  std::to_string(node.ClusterPort()));
    }
    const std::string master = nodes_.at(of).Ask("CLUSTER", "MYID").text;
    Await([&] {
      try {
        return replica.Ask("CLUSTER", "REPLICATE", master).text == "OK";
      } catch (const std::runtime_error&) {  // it does not know the node so far
        return false;
      }
    });
    Await([&] {
      return replica.Ask("INFO", "replication").text.find("link_status:up") != std::string::npos;
    });
    for (const RedisServer& node : nodes_) {
      Await([&] {
        const std::string nodes = node.Ask("CLUSTER NODES").text;
        const std::size_t at = nodes.find(":" + std::to_string(replica.Port()) + "@");
        if (at == std::string::npos) return false;
        const std::string line = nodes.substr(at, nodes.find('\n', at) - at);
        return line.find(" slave ") != std::string::npos &&
               line.find(" connected") != std::string::npos;
      });
    }
  }

  // Returns the number of the node that `key` belongs to.
  std::size_t NodeOf(std::string_view key) const {
    const auto slot = static_cast<std::size_t>(nodes_[0].Ask("CLUSTER", "KEYSLOT", key).number);
    std::size_t node = kNodes - 1;
    while (slot < kSlots * node / kNodes) --node;
    return node;
  }

 private:
  static constexpr std::size_t kSlots = 16384;

  static RedisServerOptions Options() {
    // A node counts as failed only after a long silence, since the machine may be busy.
    return {.tcp = true,
            .cluster_enabled = true,
            .arguments = {"--cluster-node-timeout", "60000", "--repl-diskless-sync-delay", "0"}};
  }

  static bool IsReady(const RedisServer& node) {
    const std::string info = node.Ask("CLUSTER", "INFO").text;
    const auto says = [&](std::string_view line) { return info.find(line) != std::string::npos; };
    return says("cluster_state:ok\r\n") && says("cluster_size:3\r\n") &&
           says("cluster_slots_ok:16384\r\n");
  }

  std::array<RedisServer, kNodes> nodes_{RedisServer(Options()), RedisServer(Options()),
                                         RedisServer(Options())};
};

}  // namespace test

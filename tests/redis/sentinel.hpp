// SPDX-License-Identifier: MIT
#pragma once

// Sentinel runs a real Redis Sentinel, which watches a master and its replicas.

#include <fstream>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server.hpp"
#include "support/support.hpp"
#include "support/temporary_directory.hpp"

namespace test {

inline std::string Port(const RedisServer& server) { return std::to_string(server.Port()); }
inline std::string At(const RedisServer& server) { return "127.0.0.1:" + Port(server); }

inline void Follow(const RedisServer& replica, const RedisServer& master) {
  replica.Ask("REPLICAOF", "127.0.0.1", Port(master));
  Await([&] {
    return replica.Ask("INFO", "replication").text.find("link_status:up") != std::string::npos;
  });
}

// A Redis Sentinel that watches `master` under the name "shop". One of `quorum` can fail it over.
class Sentinel {
 public:
  Sentinel(const RedisServer& master, int quorum, const std::string& password = {})
      : file_(WriteFile(directory_.Path() + "/sentinel.conf", password)),
        server_({.tcp = true, .password = password, .file = file_, .arguments = {"--sentinel"}}) {
    server_.Ask("SENTINEL", "MONITOR", "shop", "127.0.0.1", Port(master), std::to_string(quorum));
    server_.Ask("SENTINEL SET shop down-after-milliseconds 500");
    server_.Ask("SENTINEL SET shop failover-timeout 3000");
  }

  RedisServer& Server() { return server_; }
  const RedisServer& Server() const { return server_; }
  int Number(std::string_view name) const {
    const std::vector<RedisAnswer> state = server_.Ask("SENTINEL", "MASTER", "shop").elements;
    for (std::size_t i = 0; i + 1 < state.size(); i += 2) {
      if (state[i].text == name) return std::stoi(state[i + 1].text);
    }
    return -1;
  }

 private:
  static std::string WriteFile(const std::string& path, const std::string& password) {
    std::ofstream(path) << (password.empty() ? "\n" : "requirepass " + password + '\n');
    return path;
  }

  TemporaryDirectory directory_;
  std::string file_;
  RedisServer server_;
};

}  // namespace test

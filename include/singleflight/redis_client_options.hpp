// SPDX-License-Identifier: MIT
#pragma once

// ClientOptions says where a redis::Client finds its server, or its servers. NodeInfo is what the
// client says about one of them.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "detail/requirements.hpp"

namespace singleflight::redis {

// Configures TLS. All files are in PEM format. The server's certificate must be signed by a CA that
// you trust, and for the host that was asked for.
struct Tls {
  std::string ca_file = {};           // the CAs that you trust, unless ca_directory is set
  std::string ca_directory = {};      // a directory of such files, unless ca_file is set
  std::string certificate_file = {};  // this client's certificate, if the server asks for one
  std::string key_file = {};          // the private key of certificate_file
  std::string server_name = {};       // the server to ask for, if one address has several
};

// Where a server listens.
struct Endpoint {
  std::string host = "127.0.0.1";  // a name or an IP address
  int port = 6379;

  bool operator==(const Endpoint&) const = default;
};

// Client's constructor throws std::invalid_argument for an option out of its range. Durations are
// in milliseconds, and at most a year.
//
// A Redis Cluster needs no option: a server says that it belongs to one, and which others do. Its
// `seeds` are some of its nodes.
struct ClientOptions {
  std::string host = "127.0.0.1";  // a name or an IP address
  int port = 6379;
  std::string unix_socket = {};  // a path, with which `host` and `port` are not used

  // Several servers, with which `host` and `port` are not used. All are tried at the same time. The
  // first one that answers and is no replica is used, until it is lost.
  //
  // **Warning:** name one master and its replicas, or nodes of one cluster. With two masters, the
  // processes of a fleet could use different ones, and would not know of each other.
  std::vector<Endpoint> seeds = {};

  // The Sentinels that know which server is the master, and that master's name. With these, no
  // other place is used.
  std::vector<Endpoint> sentinels = {};
  std::string master = {};
  std::string sentinel_user = {};      // needs a password
  std::string sentinel_password = {};  // of the Sentinels themselves. Empty: no authentication

  std::string user = {};         // needs a password. Empty: the server's default user
  std::string password = {};     // empty: no authentication
  int database = 0;              // selected on every connection
  std::string client_name = {};  // shown by CLIENT LIST. Empty: none. No spaces

  // Not set: no encryption. A server is accepted if its certificate is for the host by which it is
  // connected to, or for `server_name` if that is set. Without `ca_file` and `ca_directory`, the
  // CAs of the system are trusted.
  std::optional<Tls> tls = {};

  // Limits connecting: a name's look-up, then the connection, TLS and the first answer, for all of
  // the addresses that the name has. At least 1 ms.
  std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(500);

  // A server that sends nothing for this long, while a command waits for its answer, is away. A
  // connection that only waits for messages is asked for a sign of life within that time. At least
  // 1 ms.
  std::chrono::milliseconds command_timeout = std::chrono::seconds(1);

  // Limits the memory of the commands that wait for their answers, for each server. A command
  // beyond it fails at once.
  std::size_t max_queued_bytes = std::size_t{64} << 20;

  // An answer longer than this is not kept, and its command fails. Other commands do not notice.
  std::size_t max_reply_bytes = std::size_t{16} << 20;
};

enum class NodeState : std::uint8_t {
  kIdle,        // it is not needed at present
  kConnecting,  // commands wait for it, for at most connect_timeout
  kUp,
  kAway,  // commands fail at once, and the client connects again by itself
};

// What a Client knows about a server.
struct NodeInfo {
  std::string address;  // "host:port", "[::1]:port" or a path
  NodeState state = NodeState::kIdle;
  std::chrono::system_clock::time_point since = {};  // when that state began
  std::string why = {};                              // in one line. Empty if all is well
  bool is_sentinel = false;
};

// Visits what is known of a server: the labels `server` and `kind` say which.
template <class Visitor>
void ForEachStat(const NodeInfo& node, Visitor&& visit) {
  auto&& visit_node =
      visit.With("server", node.address).With("kind", node.is_sentinel ? "sentinel" : "server");
  const auto is = [&node](NodeState state) { return node.state == state ? 1U : 0U; };
  visit_node.Gauge("redis_server_up", "Whether a server answers.", is(NodeState::kUp));
  visit_node.Gauge("redis_server_away", "Whether commands fail at once because a server is away.",
                   is(NodeState::kAway));
  visit_node.Gauge("redis_server_changed_timestamp", "When a server's state began, since 1970.",
                   node.since.time_since_epoch());
}

}  // namespace singleflight::redis

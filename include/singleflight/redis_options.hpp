// SPDX-License-Identifier: MIT
#pragma once

// What a user can set for a redis::Group, and read of its work.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "options.hpp"

namespace singleflight::redis {

// What a caller gets while the server cannot be used.
enum class OnOutage : unsigned char {
  kRunLocally,  // the process's own call goes on: one execution a process
  kFail,        // a std::system_error: `not_connected` or `protocol_error`
};

// Transport security, where hiredis has it (see redis.hpp). Files are in PEM format. hiredis makes
// sure that the certificate was signed by whom you trust, but not whose it is.
struct Tls {
  std::string ca_file = {};           // who may have signed the server's certificate: this,
  std::string ca_directory = {};      // or those in here; one of the two is needed
  std::string certificate_file = {};  // this client's, if the server asks for one
  std::string key_file = {};
  std::string server_name = {};  // to ask for, where one address has several
};

struct Options {
  std::string host = "127.0.0.1";  // a name is looked up whenever a connection is made
  int port = 6379;
  std::string unix_socket = {};  // a path; if there is one, `host` and `port` are not used
  std::string user = {};         // with a password only; empty: the server's default user
  std::string password = {};
  int database = 0;
  std::optional<Tls> tls = {};

  // Of all names on the server. Groups with one prefix share calls, so give each Value, and each
  // format of it, a prefix of its own. No braces: those are for the key, see redis.hpp.
  std::string prefix = "singleflight";
  // How long others wait for a leader of whom nothing is heard. Renewed while `fn` runs. A leader
  // whose process stalls for longer than half of it may be overtaken. Let it be several times the
  // timeouts below.
  std::chrono::milliseconds lease = std::chrono::seconds(10);
  // How long the server keeps an outcome that somebody waits for; a follower that stalls for longer
  // asks anew. Also how often a follower makes sure that its leader lives.
  std::chrono::milliseconds linger = std::chrono::seconds(2);
  std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(500);  // for each address
  std::chrono::milliseconds command_timeout = std::chrono::seconds(1);  // with what it carries
  // For that long after an outage no new call asks the server, so that not each waits for the
  // timeouts. Zero: each tries for itself.
  std::chrono::milliseconds retry_after = std::chrono::seconds(1);
  std::size_t max_idle_connections = 16;  // kept open; there are as many as callers that need one
  OnOutage on_outage = OnOutage::kRunLocally;
  // Of the process's own group. `max_age` also ends the renewal of a lease, so that a stuck leader
  // is overtaken everywhere.
  GroupOptions group = {};
};

// Exact counts since a Group was made, of this process.
struct Stats {
  std::uint64_t executions = 0;  // of `fn`
  std::uint64_t remote = 0;      // the group's calls that another process ran `fn` for
  std::uint64_t takeovers = 0;   // leases taken after waiting for one that gave no outcome
  // Executions that others could not be told of: the lease was lost. (Also one that nobody
  // followed, if the server's answer was lost when it was given back.)
  std::uint64_t unpublished = 0;
  std::uint64_t undecodable = 0;  // outcomes of others that did not decode
  std::uint64_t outages = 0;      // the group's calls, and Forgets, that met no working server
  // Of the process's own group. A caller that leaves while it alone asks the server ends that call
  // for those who joined it: they ask again, and are counted again.
  singleflight::Stats calls = {};

  bool operator==(const Stats&) const = default;
};

}  // namespace singleflight::redis

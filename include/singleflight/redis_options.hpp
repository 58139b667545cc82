// SPDX-License-Identifier: MIT
#pragma once

// Options configures a redis::Group, with OnOutage and Tls. Stats says what a Group has done.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

#include "options.hpp"

namespace singleflight::redis {

// Says what a caller gets while the server cannot be used.
enum class OnOutage : unsigned char {
  kRunLocally,  // the process's own call continues: one execution a process
  kFail,        // a std::system_error: `not_connected` or `protocol_error`
};

// Configures TLS, which has needs of its own (see redis.hpp). All files are in PEM format.
//
// Warning: hiredis checks who signed the server's certificate, but not whose certificate it is. Any
// certificate of a CA that you name here is accepted, so name one that signs only for your servers.
struct Tls {
  std::string ca_file = {};           // the CAs that you trust, unless ca_directory is set
  std::string ca_directory = {};      // a directory of such files, unless ca_file is set
  std::string certificate_file = {};  // this client's certificate, if the server asks for one
  std::string key_file = {};          // the private key of certificate_file
  std::string server_name = {};       // the server to ask for, if one address has several
};

// Group's constructor throws std::invalid_argument for an option out of its range. Durations are in
// milliseconds, and at most a year.
struct Options {
  std::string host = "127.0.0.1";  // a name is looked up whenever a connection is made
  int port = 6379;
  std::string unix_socket = {};  // a path, with which `host` and `port` are not used
  std::string user = {};         // needs a password. Empty: the server's default user
  std::string password = {};     // empty: no authentication
  int database = 0;              // selected on every connection
  std::optional<Tls> tls = {};   // not set: no encryption

  // All names of the group on the server begin with this. Groups with the same prefix share calls,
  // so give each Value, and each format of it, a prefix of its own. It must not contain braces:
  // those mark the key, see redis.hpp.
  std::string prefix = "singleflight";

  // How long the others wait for a leader that has gone silent. The lease is renewed while `fn`
  // runs. A leader whose process stalls for longer than half of it may be overtaken. Make it
  // several times the timeouts below, as the default is. At least 10 ms.
  std::chrono::milliseconds lease = std::chrono::seconds(10);

  // How long the server keeps an outcome that a follower waits for. A follower that stalls for
  // longer asks again. It is also how often a follower checks that its leader is alive, so a longer
  // one delays the notice of an outage. At least 1 ms.
  std::chrono::milliseconds linger = std::chrono::seconds(2);

  // Limits connecting, for each address of the host, and after that AUTH and SELECT. A caller that
  // reaches it meets an outage. At least 1 ms.
  std::chrono::milliseconds connect_timeout = std::chrono::milliseconds(500);

  // Limits a command, including the transfer of its arguments. A caller that reaches it meets an
  // outage. At least 1 ms.
  std::chrono::milliseconds command_timeout = std::chrono::seconds(1);

  // After an outage, new calls skip the server for this long, so that they do not all wait for the
  // timeouts (a circuit breaker). Zero: every call tries.
  std::chrono::milliseconds retry_after = std::chrono::seconds(1);

  // How many idle connections the pool keeps open. Others are closed after their use. The number of
  // connections in use is not limited: each caller that talks to the server has its own.
  std::size_t max_idle_connections = 16;

  OnOutage on_outage = OnOutage::kRunLocally;

  // The limits of the process's own group. The lease of a call older than `max_age` is not renewed
  // any more, so that a stuck leader is overtaken everywhere.
  GroupOptions group = {};
};

// Counts exactly what a Group has done in this process since it was made.
struct Stats {
  std::uint64_t executions = 0;  // runs of `fn`
  std::uint64_t remote = 0;      // calls of this process that another process ran `fn` for
  std::uint64_t takeovers = 0;   // leases taken after waiting for one that gave no outcome
  // Executions whose outcome could not be published: the lease was lost, or the server could not be
  // used. One that nobody followed counts too if the server's answer to its publishing was lost.
  std::uint64_t unpublished = 0;
  std::uint64_t undecodable = 0;  // outcomes of other processes that did not decode
  std::uint64_t outages = 0;      // calls, and Forgets, that met no working server
  // Counts of the process's own group. If a leader leaves while it waits for the server, its call
  // lands for the callers that joined it. They ask again, and are counted again.
  singleflight::Stats calls = {};

  bool operator==(const Stats&) const = default;
};

}  // namespace singleflight::redis

// SPDX-License-Identifier: MIT
#pragma once

// ClientOptionsFor returns options for a client of a test's own server.

#include <chrono>
#include <singleflight/redis_client_options.hpp>

#include "server.hpp"

namespace test {

// The timeouts never pass: a late answer is not an outage on a busy machine.
inline singleflight::redis::ClientOptions ClientOptionsFor(const RedisServer& server) {
  singleflight::redis::ClientOptions options;
  options.unix_socket = server.Socket();
  options.connect_timeout = options.command_timeout = std::chrono::minutes(1);
  return options;
}

}  // namespace test

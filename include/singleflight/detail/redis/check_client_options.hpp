// SPDX-License-Identifier: MIT
#pragma once

// CheckClientOptions: refuses options that a redis::Client cannot work with. SettingsOf and
// PlacesOf: what they mean for its connections.

#include <sys/un.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../redis_client_options.hpp"
#include "address.hpp"
#include "command.hpp"
#include "tls.hpp"
#include "topology.hpp"

namespace singleflight::redis::detail {

// Throws std::invalid_argument for the first option that is out of range.
inline void CheckClientOptions(const ClientOptions& options) {
  const auto demand = [](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(std::string("singleflight::redis: ") + what);
  };
  const auto is_place = [](const std::string& host, int port) {
    return !host.empty() && port > 0 && port < 65536;
  };
  const auto are_places = [&](const std::vector<singleflight::redis::Endpoint>& places) {
    return std::ranges::all_of(places,
                               [&](const auto& place) { return is_place(place.host, place.port); });
  };
  const auto in_range = [](std::chrono::milliseconds time) {
    return time >= std::chrono::milliseconds(1) && time <= std::chrono::hours(24 * 365);
  };
  const bool uses_host =
      options.unix_socket.empty() && options.seeds.empty() && options.sentinels.empty();
  demand(!uses_host || is_place(options.host, options.port),
         "set host and port, unix_socket, seeds or sentinels");
  demand(are_places(options.seeds) && are_places(options.sentinels),
         "each of seeds and sentinels needs a host and a port");
  demand(!options.unix_socket.empty() + !options.seeds.empty() + !options.sentinels.empty() <= 1,
         "set only one of unix_socket, seeds and sentinels");
  demand(options.sentinels.empty() == options.master.empty(),
         "sentinels need the name of their master, and a master needs sentinels");
  demand(options.unix_socket.size() < sizeof(sockaddr_un::sun_path), "unix_socket is too long");
  demand(options.database >= 0, "database must not be negative");
  demand(options.user.empty() || !options.password.empty(), "user needs a password");
  demand(options.sentinel_user.empty() || !options.sentinel_password.empty(),
         "sentinel_user needs a password");
  demand(std::ranges::all_of(options.client_name, [](char c) { return c > ' ' && c <= '~'; }),
         "client_name must have no spaces, and only ASCII characters");
  demand(in_range(options.connect_timeout) && in_range(options.command_timeout),
         "connect_timeout and command_timeout must be between 1 ms and one year");
  demand(options.max_queued_bytes > 0, "max_queued_bytes must be positive");
  demand(options.max_reply_bytes >= 1024, "max_reply_bytes must be at least 1024");
  demand(!options.tls || options.unix_socket.empty(), "tls needs a host: not over a unix_socket");
}

// Errors: std::invalid_argument if TLS cannot be used.
inline Settings SettingsOf(const ClientOptions& options) {
  Settings settings;
  settings.user = options.user;
  settings.password = options.password;
  settings.database = options.database;
  settings.client_name = options.client_name;
  settings.connect_timeout = options.connect_timeout;
  settings.command_timeout = options.command_timeout;
  settings.max_queued_bytes = options.max_queued_bytes;
  settings.max_reply_bytes = options.max_reply_bytes;
  if (options.tls) settings.tls = std::make_shared<const TlsContext>(*options.tls);
  return settings;
}

inline Places PlacesOf(const ClientOptions& options) {
  Places places;
  for (const auto& seed : options.seeds) places.seeds.push_back({seed.host, seed.port});
  for (const auto& sentinel : options.sentinels) {
    places.sentinels.push_back({sentinel.host, sentinel.port});
  }
  places.master = options.master;
  places.sentinel_user = options.sentinel_user;
  places.sentinel_password = options.sentinel_password;
  if (!places.seeds.empty() || !places.sentinels.empty()) return places;
  if (options.unix_socket.empty()) {
    places.seeds.push_back({options.host, options.port});
  } else {
    places.seeds.push_back({{}, 0, options.unix_socket});
  }
  return places;
}

}  // namespace singleflight::redis::detail

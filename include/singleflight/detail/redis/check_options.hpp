// SPDX-License-Identifier: MIT
#pragma once

// CheckOptions: refuses options that a redis::Group cannot work with.

#include <sys/un.h>

#include <chrono>
#include <stdexcept>
#include <string>

#include "../../redis_options.hpp"

namespace singleflight::redis::detail {

// Throws std::invalid_argument for the first option that is out of range.
inline void CheckOptions(const Options& options) {
  const auto demand = [](bool condition, const char* what) {
    if (!condition) throw std::invalid_argument(what);
  };
  const auto in_range = [](std::chrono::milliseconds time, int least) {
    return time >= std::chrono::milliseconds(least) && time <= std::chrono::hours(24 * 365);
  };
  demand(options.unix_socket.empty()
             ? !options.host.empty() && options.port > 0 && options.port < 65536
             : true,
         "singleflight::redis: set host and port, or unix_socket");
  demand(options.unix_socket.size() < sizeof(sockaddr_un::sun_path),
         "singleflight::redis: unix_socket is too long");
  demand(options.database >= 0, "singleflight::redis: database must not be negative");
  demand(options.user.empty() || !options.password.empty(),
         "singleflight::redis: user needs a password");
  demand(options.prefix.find_first_of("{}") == std::string::npos,
         "singleflight::redis: prefix must not contain braces");
  demand(in_range(options.lease, 10),
         "singleflight::redis: lease must be between 10 ms and one year");
  demand(in_range(options.linger, 1),
         "singleflight::redis: linger must be between 1 ms and one year");
  demand(
      in_range(options.connect_timeout, 1) && in_range(options.command_timeout, 1),
      "singleflight::redis: connect_timeout and command_timeout must be between 1 ms and one year");
  demand(in_range(options.retry_after, 0),
         "singleflight::redis: retry_after must be between 0 and one year");
#ifdef SINGLEFLIGHT_REDIS_TLS
  demand(!options.tls || !options.tls->ca_file.empty() || !options.tls->ca_directory.empty(),
         "singleflight::redis: tls needs ca_file or ca_directory");
#else
  demand(
      !options.tls,
      "singleflight::redis: this program was built without TLS: link hiredis_ssl (hiredis 1.0 or "
      "newer) and define SINGLEFLIGHT_REDIS_TLS, as the CMake target does if it finds that");
#endif
}

}  // namespace singleflight::redis::detail

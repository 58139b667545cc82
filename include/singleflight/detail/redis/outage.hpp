// SPDX-License-Identifier: MIT
#pragma once

// Outage: the exception for a server that cannot be used.

#include <string>
#include <system_error>

namespace singleflight::redis::detail {

// The code is `not_connected` if the server cannot be reached, does not answer in time or has
// closed the connection. It is `protocol_error` if the server's answer cannot be used.
class Outage : public std::system_error {
 public:
  Outage(std::errc code, const std::string& what)
      : std::system_error(std::make_error_code(code), "singleflight::redis: " + what) {}
};

}  // namespace singleflight::redis::detail

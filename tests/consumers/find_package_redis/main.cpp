// SPDX-License-Identifier: MIT

// A user's program whose server is unreachable.

#include <cstdlib>
#include <singleflight/redis.hpp>
#include <string>

int main() {
  singleflight::redis::Group<std::string> names({.unix_socket = "/nowhere"});
  auto [name, shared] = names.Do("user:42", [] { return std::string("Ada"); });
  return name == "Ada" && !shared && names.GetStats().outages == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

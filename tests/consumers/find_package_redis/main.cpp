// SPDX-License-Identifier: MIT

// A user's program whose server is unreachable.

#include <cstdlib>
#include <singleflight/redis.hpp>
#include <string>

int main() {
  singleflight::redis::Client client({.unix_socket = "/nowhere"});
  singleflight::redis::Group<std::string> names(client, "names");
  auto [name, shared] = names.Do("user:42", [] { return std::string("Ada"); });
  return name == "Ada" && !shared && names.GetStats().outages == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}

// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <optional>
#include <singleflight/redis.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::optional<const char*>> names(client, "values");
}

// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <array>
#include <singleflight/redis.hpp>
#include <string_view>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::array<std::string_view, 2>> names(client, "values");
}

// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <singleflight/redis.hpp>
#include <string_view>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::string_view> views(client, "values");
  static_cast<void>(views.Do("k", [] { return std::string_view("v"); }));
}

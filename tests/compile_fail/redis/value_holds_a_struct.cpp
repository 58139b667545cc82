// SPDX-License-Identifier: MIT
// error: this Value has no Codec

#include <optional>
#include <singleflight/redis.hpp>

struct Point {
  int x;
  const char* label;
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::optional<Point>> points(client, "values");
}

// SPDX-License-Identifier: MIT
// error: this Value has no Codec

#include <singleflight/redis.hpp>

struct Point {  // trivially copyable, but nobody has said that its bytes are its value
  int x;
  const char* label;
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<Point> points(client, "values");
}

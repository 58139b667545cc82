// SPDX-License-Identifier: MIT
// error: fn must be callable as fn(), fn(singleflight::StopToken) or fn(const redis::Lease&)

#include <singleflight/redis.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int> group(client, "values");
  static_cast<void>(group.Do("k", [](int argument) { return argument; }));
}

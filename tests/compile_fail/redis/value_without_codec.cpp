// SPDX-License-Identifier: MIT
// error: this Value has no Codec

#include <map>
#include <singleflight/redis.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::map<int, int>> maps(client, "values");
}

// SPDX-License-Identifier: MIT
// error: this Listener has no default constructor: give one to the constructor

#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string_view>

struct Named {
  explicit Named(int) {}
  void OnLead(std::string_view) {}
};
struct Traced : singleflight::GroupTraits {
  using Listener = Named;
};

int main() {
  using namespace std::chrono_literals;
  singleflight::redis::Client client;
  const singleflight::redis::ReadThrough<int, singleflight::redis::Codec<int>, Traced> values(
      client, "values", {.ttl = 1s});
}

// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <chrono>
#include <memory>
#include <singleflight/redis_read_through.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::ReadThrough<int> numbers(client, "numbers",
                                                {.ttl = std::chrono::seconds(1)});
  // It may refresh the value later, in the background.
  const auto load = [one = std::make_unique<int>(1)] { return *one; };
  static_cast<void>(numbers.Get("key", load));
}

// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/coro.hpp>
#include <singleflight/redis.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int> group(client, "values");
  const auto load = [number = std::make_unique<int>(1)] { return *number; };
  static_cast<void>(CoDo(group, "k", load));  // whether it leads is known later
}

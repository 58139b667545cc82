// SPDX-License-Identifier: MIT
// error: this group keeps fn, and may need it again: pass one that can be copied

#include <memory>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <string>
#include <vector>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int> group(client, "values");
  const std::vector<std::string> keys = {"a", "b"};
  auto load = [number = std::make_unique<int>(1)](std::span<const std::string> missing) {
    return std::vector<int>(missing.size(), *number);
  };
  static_cast<void>(DoManyAsync(group, keys, std::move(load)));
}

// SPDX-License-Identifier: MIT
// error: this group keeps executor: pass one that can be copied, or std::move it

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
  const auto load = [](std::span<const std::string> missing) {
    return std::vector<int>(missing.size(), 1);
  };
  auto executor = [number = std::make_unique<int>(1)](const auto& task) { task(); };
  static_cast<void>(DoManyAsync(group, keys, load, executor));
}

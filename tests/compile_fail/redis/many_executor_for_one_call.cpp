// SPDX-License-Identifier: MIT
// error: this group keeps executor, and may need it again: pass one that can be called more than

#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <string>
#include <vector>

struct Executor {
  void operator()(const auto& task) && { task(); }
};

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int> group(client, "values");
  const std::vector<std::string> keys = {"a", "b"};
  const auto load = [](std::span<const std::string> missing) {
    return std::vector<int>(missing.size(), 1);
  };
  static_cast<void>(DoManyAsync(group, keys, load, Executor()));
}

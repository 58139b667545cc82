// SPDX-License-Identifier: MIT
// error: keeps executor: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<int> group(client, "values");
  auto executor = [number = std::make_unique<int>(1)](const auto& task) { task(); };
  static_cast<void>(DoAsync(
      group, "key", [] { return 1; }, executor));
}

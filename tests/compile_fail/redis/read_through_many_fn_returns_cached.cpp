// SPDX-License-Identifier: MIT
// error: the fn of a batch cannot return Cached

#include <singleflight/many.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <string>
#include <vector>

using Numbers = singleflight::redis::ReadThrough<int>;

void Look(Numbers& numbers) {
  const auto load = [](std::span<const std::string> keys) {
    return std::vector<singleflight::Cached<int>>(keys.size(), singleflight::Cached(1));
  };
  static_cast<void>(singleflight::DoMany(numbers, {"one"}, load));
}

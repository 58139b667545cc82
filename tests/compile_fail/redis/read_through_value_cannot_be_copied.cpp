// SPDX-License-Identifier: MIT
// error: a value that the server or the local cache has is copied for its callers

#include <memory>
#include <optional>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <string_view>

struct Numbers {
  static std::string Encode(const std::unique_ptr<int>& value) { return std::to_string(*value); }
  static std::optional<std::unique_ptr<int>> Decode(std::string_view) { return std::nullopt; }
};
using Cache = singleflight::redis::ReadThrough<std::unique_ptr<int>, Numbers>;

int main() { static_cast<void>(sizeof(Cache)); }

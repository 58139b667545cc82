// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <optional>
#include <singleflight/redis_codec.hpp>
#include <string_view>

struct Value {
  int id;
  std::optional<std::string_view> name;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <array>
#include <singleflight/redis_codec.hpp>
#include <variant>

struct Value {
  int id;
  std::variant<int, std::array<int*, 2>> other;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

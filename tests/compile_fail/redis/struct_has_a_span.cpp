// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <singleflight/redis_codec.hpp>
#include <span>

struct Value {
  int id;
  std::span<const int> ids;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

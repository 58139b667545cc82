// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <singleflight/redis_codec.hpp>

struct Value {
  int id;
  const char* names[2];
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: because it has an anonymous union member

#include <singleflight/redis_codec.hpp>

struct Value {
  int kind;
  union {
    int number;
    const char* name;
  };
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

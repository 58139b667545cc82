// SPDX-License-Identifier: MIT
// error: nobody can tell which member a union holds

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

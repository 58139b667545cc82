// SPDX-License-Identifier: MIT
// error: nobody can tell which member a union holds

#include <singleflight/redis_codec.hpp>

union Number {
  int whole;
  float real;
};
struct Value {
  int kind;
  Number numbers[2];
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

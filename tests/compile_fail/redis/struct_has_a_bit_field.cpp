// SPDX-License-Identifier: MIT
// error: bit-field

#include <singleflight/redis_codec.hpp>

struct Value {
  unsigned id : 3;
  unsigned kind : 5;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

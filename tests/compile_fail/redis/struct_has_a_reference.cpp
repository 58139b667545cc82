// SPDX-License-Identifier: MIT
// error: a class that cannot be assigned may have a reference

#include <singleflight/redis_codec.hpp>

struct Value {
  int id;
  const int& other;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

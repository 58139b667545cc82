// SPDX-License-Identifier: MIT
// error: CopyBytes cannot see the members of this struct

#include <singleflight/redis_codec.hpp>

struct Base {
  const char* name;
};
struct Value : Base {
  int id;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

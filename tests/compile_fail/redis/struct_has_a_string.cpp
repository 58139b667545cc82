// SPDX-License-Identifier: MIT
// error: a member of this struct is of a class that does not copy its bytes

#include <singleflight/redis_codec.hpp>
#include <string>

struct Value {
  std::string name;
  int count;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

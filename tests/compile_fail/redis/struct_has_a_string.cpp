// SPDX-License-Identifier: MIT
// error: which a std::string or a container needs

#include <singleflight/redis_codec.hpp>
#include <string>

struct Value {
  std::string name;
  int count;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

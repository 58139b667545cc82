// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <array>
#include <singleflight/redis_codec.hpp>

struct Value {
  std::array<int*, 0> numbers;
  int count;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <functional>
#include <singleflight/redis_codec.hpp>
#include <utility>

struct Value {
  int id;
  std::pair<int, std::reference_wrapper<int>> other;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

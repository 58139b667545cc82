// SPDX-License-Identifier: MIT
// error: a member of this struct is of a class that does not copy its bytes

#include <memory>
#include <singleflight/redis_codec.hpp>

struct Value {
  int id;
  std::unique_ptr<int> other;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: a member of this struct is of a class that does not copy its bytes

#include <chrono>
#include <singleflight/redis_codec.hpp>

struct SinceStart {};
struct Value {
  int id;
  std::chrono::time_point<SinceStart, std::chrono::seconds> started;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: each machine counts the time of a steady clock from another moment

#include <chrono>
#include <singleflight/redis_codec.hpp>

struct Value {
  int id;
  std::chrono::steady_clock::time_point since;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

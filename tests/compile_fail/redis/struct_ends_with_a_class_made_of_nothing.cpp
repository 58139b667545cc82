// SPDX-License-Identifier: MIT
// error: CopyBytes cannot see the members of this struct

#include <singleflight/redis_codec.hpp>

struct Money {
  Money() = default;
  Money(const Money&) = default;
  Money& operator=(const Money&) = default;
  template <class Number>
  Money(Number) = delete;
  long long cents = 0;
};
template <>
struct singleflight::redis::Codec<Money> : singleflight::redis::CopyBytes<Money> {};
struct Value {
  int count;
  Money price;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

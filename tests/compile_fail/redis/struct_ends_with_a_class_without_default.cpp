// SPDX-License-Identifier: MIT
// error: CopyBytes cannot see the members of this struct

#include <singleflight/redis_codec.hpp>

struct Money {
  template <class Number>
  Money(Number number) : cents(number) {}
  long long cents = 0;
};
template <>
struct singleflight::redis::Codec<Money> : singleflight::redis::CopyBytes<Money> {};
struct Value {
  int count;
  Money price = Money(1);
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: CopyBytes cannot see the members of this struct

#include <singleflight/redis_codec.hpp>

struct Money {
  Money(int units, int hundredths) : cents(100 * units + hundredths) {}
  Money(const Money&) = default;
  Money& operator=(const Money&) = default;
  template <class Number>
  Money(Number) = delete;
  long long cents = 0;
};
template <>
struct singleflight::redis::Codec<Money> : singleflight::redis::CopyBytes<Money> {};
struct Value {
  Money price = Money(1, 50);
  int* count;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

// SPDX-License-Identifier: MIT
// error: the Rep of this duration does not convert to a long double

#include <chrono>
#include <singleflight/timeout.hpp>

struct Number {
  long long value = 0;
  explicit operator long long() const { return value; }
};

int main() { singleflight::Timeout timeout(std::chrono::duration<Number>(Number{5})); }

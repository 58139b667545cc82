// SPDX-License-Identifier: MIT
// error: this class hides its members, and there may be padding between them

#include <singleflight/redis_codec.hpp>

class Value {
 public:
  Value() = default;

 private:
  char kind_ = 0;
  double number_ = 0;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

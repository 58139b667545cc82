// SPDX-License-Identifier: MIT
// error: the bytes of a class that is not trivially copyable are not its value

#include <singleflight/redis_codec.hpp>

class Value {
 public:
  Value() = default;
  Value(const Value&) {}
  Value& operator=(const Value&) { return *this; }

 private:
  int* owned_ = nullptr;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

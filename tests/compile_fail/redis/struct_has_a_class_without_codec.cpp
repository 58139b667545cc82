// SPDX-License-Identifier: MIT
// error: a member of this struct is of a class that does not copy its bytes

#include <singleflight/redis_codec.hpp>

class Name {
 public:
  Name() = default;

 private:
  const char* name_ = nullptr;
};
struct Value {
  int id;
  Name name;
};

template <>
struct singleflight::redis::Codec<Value> : singleflight::redis::CopyBytes<Value> {};

int main() {}

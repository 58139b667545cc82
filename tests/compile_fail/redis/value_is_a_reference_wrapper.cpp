// SPDX-License-Identifier: MIT
// error: a pointer or a view means nothing in another process

#include <functional>
#include <singleflight/redis.hpp>

int number = 1;

int main() {
  singleflight::redis::Client client;
  singleflight::redis::Group<std::reference_wrapper<int>> references(client, "values");
  static_cast<void>(references.Do("k", [] { return std::ref(number); }));
}

// SPDX-License-Identifier: MIT
// error: the load must return the Value, something that converts to it, or Cached of that

#include <singleflight/read_through.hpp>
#include <string>

int main() {
  singleflight::ReadThrough<int, int> numbers;
  static_cast<void>(numbers.Get(1, [] { return singleflight::Cached(std::string("one")); }));
}

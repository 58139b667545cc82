// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/read_through.hpp>

int main() {
  singleflight::ReadThrough<int, int> numbers;
  // It may refresh the value later, in the background.
  const auto load = [one = std::make_unique<int>(1)] { return *one; };
  static_cast<void>(numbers.Get(1, load));
}

// SPDX-License-Identifier: MIT
// error: predicate must be callable as predicate(const Key&) and return bool

#include <singleflight/read_through.hpp>

int main() {
  singleflight::ReadThrough<int, int> numbers;
  numbers.InvalidateIf([](int, int value) { return value == 0; });
}

// SPDX-License-Identifier: MIT
// error: fn must return the group's Value or something that converts to it

#include <singleflight/group.hpp>
#include <singleflight/read_through_options.hpp>

int main() {
  singleflight::Group<int, int> numbers;  // it has no cache
  static_cast<void>(numbers.Do(1, [] { return singleflight::Cached(1); }));
}

// SPDX-License-Identifier: MIT
// error: fn must be callable as fn() or fn(singleflight::StopToken)

#include <singleflight/group.hpp>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(1, [](int argument) { return argument; }));
}

// SPDX-License-Identifier: MIT
// error: fn must be callable as fn() or fn(singleflight::StopToken)

#include <singleflight/async.hpp>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::DoAsync(group, 1, [](int id) { return id; }));
}

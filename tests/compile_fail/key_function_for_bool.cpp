// SPDX-License-Identifier: MIT
// error: it is not clear which number this is

#include <singleflight/group.hpp>

int main() {
  singleflight::Group<bool, int> group;
  const auto is_admin = [] { return false; };  // converts to a pointer, and so to `true`
  static_cast<void>(group.Do(is_admin, [] { return 1; }));
}

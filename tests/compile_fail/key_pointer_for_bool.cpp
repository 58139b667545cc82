// SPDX-License-Identifier: MIT
// error: a pointer is not a number, and every pointer would become the key `true`

#include <singleflight/group.hpp>

int main() {
  singleflight::Group<bool, int> group;
  static_cast<void>(group.Do("yes", [] { return 1; }));
}

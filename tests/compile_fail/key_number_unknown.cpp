// SPDX-License-Identifier: MIT
// error: a number of this type cannot be checked

#include <singleflight/group.hpp>

#ifndef __SIZEOF_FLOAT128__
#error a number of this type cannot be checked, because this compiler does not have it
#endif

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(static_cast<__float128>(1.5), [] { return 1; }));
}

// SPDX-License-Identifier: MIT
// error: it is not clear which number this is

#include <singleflight/group.hpp>

struct Size {
  operator double() const { return 1.5; }
  operator short() const { return 1; }
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(Size(), [] { return 1; }));
}

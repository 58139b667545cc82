// SPDX-License-Identifier: MIT
// error: this is not a key of the group: pass a Key or something that converts to one

#include <singleflight/group.hpp>
#include <string>

int main() {
  singleflight::Group<std::string, int> group;
  static_cast<void>(group.Do(42, [] { return 1; }));
}

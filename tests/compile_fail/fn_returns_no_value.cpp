// SPDX-License-Identifier: MIT
// error: fn must return the group's Value or something that converts to it

#include <singleflight/group.hpp>
#include <string>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(1, [] { return std::string("not a number"); }));
}

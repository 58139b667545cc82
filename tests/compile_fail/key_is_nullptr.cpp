// SPDX-License-Identifier: MIT
// error: nullptr is not a string

#include <singleflight/group.hpp>
#include <string>

int main() {
  singleflight::Group<std::string, int> group;
  static_cast<void>(group.Do(nullptr, [] { return 1; }));
}

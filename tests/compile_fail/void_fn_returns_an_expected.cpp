// SPDX-License-Identifier: MIT
// error: the group's Value is void, so the error that fn may return would be dropped

#include <singleflight/group.hpp>

struct Expected {
  bool has_value() const { return false; }
  int error() const { return 7; }
};

int main() {
  singleflight::Group<int, void> group;
  group.Do(1, [](singleflight::StopToken) { return Expected(); });
}

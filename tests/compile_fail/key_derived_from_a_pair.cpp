// SPDX-License-Identifier: MIT
// error: this Key's base class would convert what it holds, and the Key cannot be made of its base

#include <cstddef>
#include <singleflight/group.hpp>
#include <utility>

struct Point : std::pair<int, int> {
  template <class X>
  Point(const std::pair<X, int>& point) requires(sizeof(X) > sizeof(int)) : pair(point) {}
};
struct Hash {
  std::size_t operator()(const Point&) const { return 0; }
};

int main() {
  singleflight::Group<Point, int, Hash> group;
  static_cast<void>(group.Do(std::pair<long long, int>(1, 0), [] { return 1; }));
}

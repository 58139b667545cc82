// SPDX-License-Identifier: MIT
// error: KeyEqual compares another type than the Key, so different keys could be equal

#include <functional>
#include <singleflight/group.hpp>

struct Equal {
  using is_transparent = void;
  bool operator()(int a, int b) const { return a == b; }
};

int main() {
  singleflight::Group<long long, int, std::hash<long long>, Equal> group;
  static_cast<void>(group.Do(1LL, [] { return 1; }));
}

// SPDX-License-Identifier: MIT
// error: this Listener has none of the hooks

#include <functional>
#include <singleflight/group.hpp>

struct Listener {
  void Onlead(int) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

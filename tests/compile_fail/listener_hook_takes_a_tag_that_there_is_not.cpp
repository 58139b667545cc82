// SPDX-License-Identifier: MIT
// error: OnLand must be callable as OnLand(key, const Tag&, const Landing&)

#include <functional>
#include <singleflight/group.hpp>

struct Listener {
  void OnLand(int, int, const singleflight::Landing&) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

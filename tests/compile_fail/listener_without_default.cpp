// SPDX-License-Identifier: MIT
// error: this Listener has no default constructor: give one to the constructor

#include <functional>
#include <singleflight/group.hpp>

struct Listener {
  explicit Listener(int) {}
  void OnLead(int) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

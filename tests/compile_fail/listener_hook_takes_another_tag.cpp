// SPDX-License-Identifier: MIT
// error: OnFollow must be callable as OnFollow(key, const Tag&)

#include <functional>
#include <singleflight/group.hpp>
#include <string>

struct Listener {
  int OnLead(int key) { return key; }
  void OnFollow(int, const std::string&) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

// SPDX-License-Identifier: MIT
// error: OnLeave must be callable as OnLeave(key, const Tag&, LeaveReason)

#include <functional>
#include <singleflight/group.hpp>

struct Listener {
  void OnLeave(int) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

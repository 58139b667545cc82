// SPDX-License-Identifier: MIT
// error: Traits::Listener must be a class that is not final

#include <functional>
#include <singleflight/group.hpp>

struct Listener final {
  void OnLead(int) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

// SPDX-License-Identifier: MIT
// error: the tag that OnLead returns must be a type whose default construction and copying throw

#include <functional>
#include <singleflight/group.hpp>
#include <string>

struct Listener {
  std::string OnLead(int) { return "span"; }
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

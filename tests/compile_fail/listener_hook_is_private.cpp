// SPDX-License-Identifier: MIT
// error: OnRefuse must be callable as OnRefuse(key, std::error_code)

#include <functional>
#include <singleflight/group.hpp>
#include <system_error>

class Listener {
  void OnRefuse(int, std::error_code) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() { singleflight::Group<int, int, std::hash<int>, std::equal_to<int>, Traits> group; }

// SPDX-License-Identifier: MIT
// error: OnLead must be callable as OnLead(key), with a std::string_view for a string

#include <functional>
#include <singleflight/group.hpp>
#include <string>

struct Listener {
  void OnLead(const std::string&) {}
};
struct Traits : singleflight::GroupTraits {
  using Listener = ::Listener;
};

int main() {
  singleflight::Group<std::string, int, singleflight::DefaultHash<std::string>,
                      singleflight::DefaultEqual<std::string>, Traits>
      group;
}

// SPDX-License-Identifier: MIT
// error: the group's Value is void, so the error that fn may return would be dropped

#include <singleflight/async.hpp>
#include <system_error>

int main() {
  singleflight::Group<int, void> group;
  static_cast<void>(DoAsync(group, 1, [] { return std::error_code(); }));
}

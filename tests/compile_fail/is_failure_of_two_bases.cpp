// SPDX-License-Identifier: MIT
// error: IsFailure or IsNotFound is declared for this Value and cannot be asked

#include <singleflight/group.hpp>

namespace shop {
struct Status {
  int status;
};
struct Body {};
struct Reply : Status, Body {};
inline bool IsFailure(const Status& status) { return status.status >= 500; }
inline bool IsFailure(const Body&) { return false; }
}  // namespace shop

int main() {
  singleflight::Group<int, shop::Reply> group;
  static_cast<void>(group.Do(1, [] { return shop::Reply{{500}, {}}; }));
}

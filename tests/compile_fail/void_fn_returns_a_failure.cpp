// SPDX-License-Identifier: MIT
// error: the group's Value is void, so the error that fn may return would be dropped

#include <singleflight/group.hpp>

namespace shop {
struct Status {
  int code;
};
inline bool IsFailure(const Status& status) { return status.code != 0; }
}  // namespace shop

int main() {
  singleflight::Group<int, void> group;
  group.Do(1, [] { return shop::Status{7}; });
}

// SPDX-License-Identifier: MIT
// error: IsFailure or IsNotFound is declared for this Value and cannot be asked

#include <singleflight/group.hpp>

namespace shop {
struct Reply {
  explicit Reply(int its_status) : status(its_status) {}
  Reply(Reply&&) = default;
  int status;
};
inline bool IsFailure(Reply reply) { return reply.status >= 500; }
}  // namespace shop

int main() {
  singleflight::Group<int, shop::Reply> group;
  static_cast<void>(group.Do(1, [] { return shop::Reply(500); }));
}

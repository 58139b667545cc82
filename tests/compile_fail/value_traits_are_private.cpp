// SPDX-License-Identifier: MIT
// error: the specialization of ValueTraits declares an IsFailure or IsNotFound that cannot

#include <singleflight/group.hpp>

struct Reply {
  int status;
};

template <>
class singleflight::ValueTraits<Reply> {
  static bool IsFailure(const Reply& reply) { return reply.status >= 500; }
};

int main() {
  singleflight::Group<int, Reply> group;
  static_cast<void>(group.Do(1, [] { return Reply{500}; }));
}

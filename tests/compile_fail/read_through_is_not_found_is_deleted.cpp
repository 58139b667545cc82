// SPDX-License-Identifier: MIT
// error: IsFailure or IsNotFound is declared for this Value and cannot be asked

#include <optional>
#include <singleflight/read_through.hpp>

namespace shop {
struct Reply {
  int status;
};
bool IsNotFound(const Reply&) = delete;
}  // namespace shop

struct Cache {
  std::optional<shop::Reply> Get(int) { return std::nullopt; }
  void Put(int, const shop::Reply&) {}
};

int main() {
  singleflight::ReadThrough<int, shop::Reply, Cache> replies{Cache()};
  static_cast<void>(replies.Get(1, [] { return shop::Reply{404}; }));
}

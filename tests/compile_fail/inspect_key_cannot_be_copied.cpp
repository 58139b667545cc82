// SPDX-License-Identifier: MIT
// error: Inspect copies the keys of the calls in flight, and this Key cannot be copied

#include <cstddef>
#include <memory>
#include <singleflight/group.hpp>

struct Hash {
  std::size_t operator()(const std::unique_ptr<int>& key) const {
    return static_cast<std::size_t>(*key);
  }
};

int main() {
  singleflight::Group<std::unique_ptr<int>, int, Hash> group;
  static_cast<void>(group.Inspect());
}

// SPDX-License-Identifier: MIT
// error: an asynchronous call keeps a copy of its key, and this Key cannot be copied

#include <cstddef>
#include <memory>
#include <singleflight/async.hpp>

struct Hash {
  std::size_t operator()(const std::unique_ptr<int>& key) const {
    return static_cast<std::size_t>(*key);
  }
};

int main() {
  singleflight::Group<std::unique_ptr<int>, int, Hash> group;
  static_cast<void>(singleflight::DoAsync(group, std::make_unique<int>(1), [] { return 1; }));
}

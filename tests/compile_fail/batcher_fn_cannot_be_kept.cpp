// SPDX-License-Identifier: MIT
// error: the Batcher keeps fn: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/batcher.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, int> group;
  const auto load = [owned = std::make_unique<int>(1)](std::span<const int> keys) {
    return std::vector<int>(keys.size(), *owned);
  };
  const singleflight::Batcher batcher(group, load);
}

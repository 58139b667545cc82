// SPDX-License-Identifier: MIT
// error: a ReadThrough may keep fn to refresh values in the background: pass one that can be

#include <memory>
#include <singleflight/many.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::ReadThrough<int, int> numbers;
  const auto load = [one = std::make_unique<int>(1)](std::span<const int> keys) {
    return std::vector<int>(keys.size(), *one);
  };
  static_cast<void>(singleflight::DoMany(numbers, {1, 2}, load));
}

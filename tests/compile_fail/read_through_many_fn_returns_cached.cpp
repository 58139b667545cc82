// SPDX-License-Identifier: MIT
// error: the fn of a batch cannot return Cached

#include <singleflight/many.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::ReadThrough<int, int> numbers;
  const auto load = [](std::span<const int>) {
    return std::vector<singleflight::Cached<int>>{singleflight::Cached(1)};
  };
  static_cast<void>(singleflight::DoMany(numbers, {1}, load));
}

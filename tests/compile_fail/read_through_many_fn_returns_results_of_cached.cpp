// SPDX-License-Identifier: MIT
// error: the fn of a batch cannot return Cached

#include <singleflight/many.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <vector>

// As std::expected is.
struct Expected {
  bool has_value() const { return true; }
  singleflight::Cached<int> value() const { return singleflight::Cached(1); }
  int error() const { return 0; }
};

int main() {
  singleflight::ReadThrough<int, int> numbers;
  const auto load = [](std::span<const int> keys) { return std::vector<Expected>(keys.size()); };
  static_cast<void>(singleflight::DoMany(numbers, {1}, load));
}

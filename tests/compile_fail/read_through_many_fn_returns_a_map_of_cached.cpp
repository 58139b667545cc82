// SPDX-License-Identifier: MIT
// error: the fn of a batch cannot return Cached

#include <any>
#include <singleflight/many.hpp>
#include <singleflight/read_through.hpp>
#include <span>
#include <unordered_map>

int main() {
  singleflight::ReadThrough<int, std::any> anything;  // it could hold the Cached as a whole
  const auto load = [](std::span<const int>) {
    return std::unordered_map<int, singleflight::Cached<int>>();
  };
  static_cast<void>(singleflight::DoMany(anything, {1}, load));
}

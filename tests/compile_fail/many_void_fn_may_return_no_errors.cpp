// SPDX-License-Identifier: MIT
// error: fn must return nothing, or for each key what may hold an error

#include <exception>
#include <optional>
#include <singleflight/many.hpp>
#include <span>
#include <vector>

int main() {
  singleflight::Group<int, void> group;
  static_cast<void>(singleflight::DoMany(group, {2, 1}, [](std::span<const int>) {
    return std::optional<std::vector<std::exception_ptr>>();
  }));
}

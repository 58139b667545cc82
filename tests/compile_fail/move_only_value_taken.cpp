// SPDX-License-Identifier: MIT
// error: Result::value() && copies a value that is shared, and this Value cannot be copied

#include <memory>
#include <singleflight/group.hpp>
#include <utility>

int main() {
  singleflight::Group<int, std::unique_ptr<int>> group;
  auto result = group.Do(1, [] { return std::make_unique<int>(1); });
  const std::unique_ptr<int> mine = std::move(result).value();
}

// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <memory>
#include <singleflight/coro.hpp>

int main() {
  singleflight::Group<int, int> group;
  const auto fn = [one = std::make_unique<int>(1)] { return *one; };
  static_cast<void>(singleflight::CoDo(group, 1, fn, [](const auto& task) { task(); }));
}

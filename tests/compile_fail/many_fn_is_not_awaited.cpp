// SPDX-License-Identifier: MIT
// error: fn returned an awaitable, and nobody would await it

#include <coroutine>
#include <singleflight/many.hpp>
#include <span>

int main() {
  singleflight::Group<int, void> group;
  static_cast<void>(singleflight::DoMany(
      group, {2, 1}, [](std::span<const int>) { return std::suspend_never(); }));
}

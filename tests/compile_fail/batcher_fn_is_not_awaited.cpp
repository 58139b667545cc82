// SPDX-License-Identifier: MIT
// error: fn returned an awaitable, and nobody would await it

#include <coroutine>
#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, void> group;
  const singleflight::Batcher batcher(group,
                                      [](std::span<const int>) { return std::suspend_never(); });
}

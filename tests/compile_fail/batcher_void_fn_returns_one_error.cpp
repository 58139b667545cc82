// SPDX-License-Identifier: MIT
// error: fn must return nothing, or for each key what may hold an error

#include <exception>
#include <singleflight/batcher.hpp>
#include <span>

int main() {
  singleflight::Group<int, void> group;
  const singleflight::Batcher batcher(group,
                                      [](std::span<const int>) { return std::exception_ptr(); });
}

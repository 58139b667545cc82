// SPDX-License-Identifier: MIT
// says: write {.timeout = 50ms, .stop = token}

#include <chrono>
#include <singleflight/group.hpp>

void Use(singleflight::Group<int, int>& group) {
  using namespace std::chrono_literals;
  static_cast<void>(group.Do(
      1, [] { return 1; }, 50ms));
}

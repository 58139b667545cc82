// SPDX-License-Identifier: MIT
// error: this conversion rounds, so different durations could become the same key

#include <chrono>
#include <ratio>
#include <singleflight/group.hpp>

using Seconds = std::chrono::duration<double>;
using Milliseconds = std::chrono::duration<double, std::milli>;
struct SecondsHash {
  std::size_t operator()(const Seconds&) const { return 0; }
};

int main() {
  singleflight::Group<Seconds, int, SecondsHash> group;
  static_cast<void>(group.Do(Milliseconds(0.1), [] { return 1; }));
}

// SPDX-License-Identifier: MIT
// error: executor must be callable as executor(task)

#include <singleflight/async.hpp>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::DoAsync(
      group, 1, [] { return 1; }, [] {}));
}

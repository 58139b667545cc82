// SPDX-License-Identifier: MIT
// error: executor must be callable as executor(task), where task is copyable and callable without

#include <singleflight/coro.hpp>

int main() {
  singleflight::Group<int, int> group;
  singleflight::StopSource stop;  // pass stop.get_token()
  static_cast<void>(singleflight::CoDo(
      group, 1, [] { return 1; }, stop));
}

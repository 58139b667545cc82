// SPDX-License-Identifier: MIT
// error: resume_on must be callable as resume_on(std::coroutine_handle<>)

#include <singleflight/coro.hpp>

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::CoDo(
      group, 1, [] { return 1; }, {}, [] {}));
}

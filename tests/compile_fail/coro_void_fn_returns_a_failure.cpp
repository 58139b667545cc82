// SPDX-License-Identifier: MIT
// error: the group's Value is void, so the error that fn may return would be dropped

#include <coroutine>
#include <singleflight/coro.hpp>
#include <system_error>

struct Awaited : std::suspend_never {
  std::error_code await_resume() const { return {}; }
};

int main() {
  singleflight::Group<int, void> group;
  static_cast<void>(singleflight::CoDo(group, 1, [] { return Awaited(); }));
}

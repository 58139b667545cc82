// SPDX-License-Identifier: MIT
// error: fn must return the group's Value or something that converts to it

#include <coroutine>
#include <singleflight/coro.hpp>

struct Awaitable : std::suspend_never {
  const char* await_resume() const noexcept { return "text"; }
};

int main() {
  singleflight::Group<int, int> group;
  static_cast<void>(singleflight::CoDo(group, 1, [] { return Awaitable(); }));
}

// SPDX-License-Identifier: MIT
// error: the call keeps fn: pass one that can be copied, or std::move it

#include <coroutine>
#include <memory>
#include <singleflight/coro.hpp>

struct Awaitable : std::suspend_never {
  int await_resume() const noexcept { return 1; }
};

int main() {
  singleflight::Group<int, int> group;
  const auto fn = [one = std::make_unique<int>(1)] { return Awaitable(); };
  static_cast<void>(singleflight::CoDo(group, 1, fn));
}

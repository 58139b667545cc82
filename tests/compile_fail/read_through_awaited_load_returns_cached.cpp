// SPDX-License-Identifier: MIT
// error: a load that is awaited cannot return Cached

#include <any>
#include <coroutine>
#include <singleflight/coro.hpp>
#include <singleflight/read_through.hpp>

struct Awaitable : std::suspend_never {
  singleflight::Cached<int> await_resume() const { return singleflight::Cached(1, {.ttl = {}}); }
};

int main() {
  singleflight::ReadThrough<int, std::any> anything;  // it could hold the Cached as a whole
  static_cast<void>(singleflight::CoDo(anything, 1, [] { return Awaitable(); }));
}

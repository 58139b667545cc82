// SPDX-License-Identifier: MIT
// error: a load that is awaited cannot return Cached

#define ASIO_HAS_CO_AWAIT 1  // Asio 1.22 does not find out that Clang has coroutines
#define ASIO_HAS_STD_COROUTINE 1
#include <asio/awaitable.hpp>
#include <asio/detached.hpp>
#include <singleflight/asio.hpp>
#include <singleflight/read_through.hpp>

asio::awaitable<singleflight::Cached<int>> Load() { co_return singleflight::Cached(1); }

int main() {
  singleflight::ReadThrough<int, int> numbers;
  singleflight::AsyncDo(
      numbers, 1, [] { return Load(); }, asio::detached);
}

// SPDX-License-Identifier: MIT

// AsyncDo terminates if there is no memory to notify its handler that the call has landed. It
// starts no threads: not even for a handler whose executor cannot post.

#include "process.hpp"

#if defined(TEST_ASIO)

#include <unistd.h>

#include <asio/awaitable.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/dispatch.hpp>
#include <asio/io_context.hpp>
#if __has_include(<asio/any_completion_handler.hpp>)
#include <asio/any_completion_handler.hpp>
#endif
#include <cstddef>
#include <exception>
#include <filesystem>
#include <iterator>
#include <memory>
#include <new>
#include <optional>
#include <singleflight/asio.hpp>

namespace {

using IntGroup = singleflight::Group<int, int>;

bool no_memory = false;

template <class T>
struct HandlerMemory {
  using value_type = T;
  HandlerMemory() = default;
  template <class U>
  // NOLINTNEXTLINE(google-explicit-constructor): allocators convert implicitly
  HandlerMemory(const HandlerMemory<U>&) noexcept {}
  bool operator==(const HandlerMemory&) const = default;
  T* allocate(std::size_t count) const {
    if (no_memory) throw std::bad_alloc();
    return std::allocator<T>().allocate(count);
  }
  void deallocate(T* memory, std::size_t count) const noexcept {
    std::allocator<T>().deallocate(memory, count);
  }
};

const process::Add landing(
    "AsyncDo terminates the process if its call lands without memory to post the completion",
    [] {
      std::set_terminate([] { _exit(12); });
      IntGroup group;
      std::optional<IntGroup::Lead> lead;
      auto first = group.Join(1, [&](IntGroup::Lead its_lead) { lead = std::move(its_lead); });
      asio::io_context io;
      const auto handler = [](const std::exception_ptr&, const singleflight::Result<int>&) {};
      AsyncDo(
          group, 1, [] { return 1; },
          asio::bind_allocator(HandlerMemory<char>(), asio::bind_executor(io, handler)));
      no_memory = true;
      lead->Succeed(1);
    },
    {.exit_code = 12});

// A minimal executor: it cannot be told to post.
struct MinimalExecutor {
  asio::io_context* loop;
  template <class Function>
  void execute(Function function) const {
    asio::dispatch(*loop, [function = std::move(function)]() mutable { function(); });
  }
  bool operator==(const MinimalExecutor&) const noexcept = default;
};

auto Threads() { return std::distance(std::filesystem::directory_iterator("/proc/self/task"), {}); }

const process::Add one_thread(
    "A program of one thread stays one while AsyncDo completes handlers whose executor cannot post",
    [] {
      const auto before = Threads();
      IntGroup group;
      asio::io_context io;
      int sum = 0;
      const auto handler = [&](const std::exception_ptr&, const singleflight::Result<int>& result) {
        sum += *result;
      };
      const auto awaitable = []() -> asio::awaitable<int> { co_return 10; };
      AsyncDo(group, 1, asio::bind_executor(io, [] { return 1; }),
              asio::bind_executor(MinimalExecutor{&io}, handler));
      AsyncDo(group, 2, asio::bind_executor(io, awaitable),
              asio::bind_executor(MinimalExecutor{&io}, handler));
#if __has_include(<asio/any_completion_handler.hpp>)
      using Handler =
          asio::any_completion_handler<void(std::exception_ptr, singleflight::Result<int>)>;
      AsyncDo(group, 1, asio::bind_executor(io, [] { return 1; }),
              Handler(asio::bind_executor(io, handler)));
      sum -= 1;
#endif
      io.run();
      MUST(sum == 11);
      MUST(Threads() == before);
    });

}  // namespace

#endif

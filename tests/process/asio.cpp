// SPDX-License-Identifier: MIT

// AsyncDo terminates if there is no memory to notify its handler that the call has landed.

#include "process.hpp"

#if defined(TEST_ASIO)

#include <unistd.h>

#include <asio/bind_allocator.hpp>
#include <asio/bind_executor.hpp>
#include <asio/io_context.hpp>
#include <exception>
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

}  // namespace

#endif

// SPDX-License-Identifier: MIT

#include "allocations.hpp"

#include <cstdlib>
#include <limits>
#include <new>

namespace {

void* Allocate(std::size_t size) noexcept {
  ++test::allocations;
  if (test::allocations_until_failure != std::numeric_limits<std::size_t>::max()) {
    if (test::allocations_until_failure == 0) return nullptr;
    --test::allocations_until_failure;
  }
  return std::malloc(size == 0 ? 1 : size);
}

}  // namespace

void* operator new(std::size_t size) {
  if (void* memory = Allocate(size)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept { return Allocate(size); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

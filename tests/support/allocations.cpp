// SPDX-License-Identifier: MIT

#include "allocations.hpp"

#include <cstdlib>
#include <limits>
#include <new>

namespace {

void* Allocate(std::size_t size, bool throws) noexcept {
  ++test::allocations;
  if (test::allocations_until_failure != std::numeric_limits<std::size_t>::max()) {
    if (test::allocations_until_failure == 0) return nullptr;
    --test::allocations_until_failure;
  }
  if (size > test::largest_allocation.load(std::memory_order_relaxed)) return nullptr;
  if (test::allocation_fails != nullptr && test::allocation_fails(throws)) return nullptr;
  void* const memory = std::malloc(size == 0 ? 1 : size);
  if (memory != nullptr) test::live_allocations.fetch_add(1, std::memory_order_relaxed);
  return memory;
}

void Free(void* memory) noexcept {
  if (memory != nullptr) test::live_allocations.fetch_sub(1, std::memory_order_relaxed);
  std::free(memory);
}

}  // namespace

void* operator new(std::size_t size) {
  if (void* memory = Allocate(size, true)) return memory;
  throw std::bad_alloc();
}
void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, false);
}
void* operator new[](std::size_t size) { return operator new(size); }
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  return Allocate(size, false);
}
void operator delete(void* memory) noexcept { Free(memory); }
void operator delete(void* memory, std::size_t) noexcept { Free(memory); }
void operator delete[](void* memory) noexcept { Free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { Free(memory); }

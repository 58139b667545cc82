// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <limits>

// The tests' operator new counts, and can be told to fail.
namespace test {

// Per thread.
inline thread_local std::size_t allocations = 0;
inline thread_local std::size_t allocations_until_failure = std::numeric_limits<std::size_t>::max();

// If set: asked at each allocation on this thread, and true makes it fail. `throws`: it then throws
// std::bad_alloc, instead of returning null.
inline thread_local bool (*allocation_fails)(bool throws) noexcept = nullptr;

// Of all threads: what was allocated and not yet freed.
inline std::atomic<std::ptrdiff_t> live_allocations = 0;

// While it lives, the allocation number `index` (from 0) on this thread, and all after it, fail.
class FailAllocations {
 public:
  explicit FailAllocations(std::size_t index) { allocations_until_failure = index; }
  ~FailAllocations() { allocations_until_failure = std::numeric_limits<std::size_t>::max(); }
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

}  // namespace test

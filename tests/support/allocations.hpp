// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <limits>

// The tests' operator new counts its calls and can be made to fail.
namespace test {

// Both are per thread.
inline thread_local std::size_t allocations = 0;
inline thread_local std::size_t allocations_until_failure = std::numeric_limits<std::size_t>::max();

// If set, each allocation on this thread calls this and fails if it returns true. `throws` says
// that the failure throws std::bad_alloc instead of returning null.
inline thread_local bool (*allocation_fails)(bool throws) noexcept = nullptr;

// Larger allocations fail, on all threads.
inline std::atomic<std::size_t> largest_allocation = std::numeric_limits<std::size_t>::max();

// The number of allocations, on all threads, that are not freed yet.
inline std::atomic<std::ptrdiff_t> live_allocations = 0;

// While it lives, allocation number `index` (from 0) and all later ones fail on this thread.
class FailAllocations {
 public:
  explicit FailAllocations(std::size_t index) { allocations_until_failure = index; }
  ~FailAllocations() { allocations_until_failure = std::numeric_limits<std::size_t>::max(); }
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

}  // namespace test

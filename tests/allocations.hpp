// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>
#include <limits>

// The tests' operator new counts, per thread, and can be told to fail.
namespace test {

inline thread_local std::size_t allocations = 0;
inline thread_local std::size_t allocations_until_failure = std::numeric_limits<std::size_t>::max();

// While it lives, the allocation number `index` (from 0) on this thread, and all after it, fail.
class FailAllocations {
 public:
  explicit FailAllocations(std::size_t index) { allocations_until_failure = index; }
  ~FailAllocations() { allocations_until_failure = std::numeric_limits<std::size_t>::max(); }
  FailAllocations(const FailAllocations&) = delete;
  FailAllocations& operator=(const FailAllocations&) = delete;
};

}  // namespace test

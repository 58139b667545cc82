// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

// Counts this thread's calls of operator new, which main.cpp replaces. Each thread has a count of
// its own, since a shared one would slow down exactly the code that allocates.
inline constinit thread_local std::uint64_t allocations_of_this_thread = 0;
inline constinit thread_local std::uint64_t allocated_bytes_of_this_thread = 0;

// Counts those of all threads that ask for at least kLarge bytes.
inline constexpr std::size_t kLarge = std::size_t{1} << 20;
inline constinit std::atomic<std::uint64_t> large_allocations = 0;

// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// Counts this thread's calls of operator new, which main.cpp replaces. Each thread has a count of
// its own, since a shared one would slow down exactly the code that allocates.
inline constinit thread_local std::uint64_t allocations_of_this_thread = 0;

// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>

// How often this thread has called operator new, which main.cpp replaces. A count for each thread,
// since a shared one would slow down just those that allocate.
inline constinit thread_local std::uint64_t allocations_of_this_thread = 0;

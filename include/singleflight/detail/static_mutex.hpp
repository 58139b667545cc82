// SPDX-License-Identifier: MIT
#pragma once

// StaticMutex: a mutex for a constinit variable.

#if defined(_WIN32)
#include "adaptive_mutex.hpp"
#else
#include <mutex>
#endif

namespace singleflight::detail {

#if defined(_WIN32)
using StaticMutex = AdaptiveMutex;  // std::mutex would be initialized when the program starts
#else
using StaticMutex = std::mutex;
#endif

}  // namespace singleflight::detail

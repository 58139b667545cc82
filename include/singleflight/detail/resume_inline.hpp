// SPDX-License-Identifier: MIT
#pragma once

#include "requirements.hpp"  // first: <coroutine> reports an older standard misleadingly

// ResumeInline: what every way of waiting in a coroutine does unless it is told otherwise.

#include <coroutine>

namespace singleflight {

// Resumes the coroutine at once, on the current thread.
struct ResumeInline {
  void operator()(std::coroutine_handle<> handle) const { handle.resume(); }
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// ThreadMark: says which thread this is, and whether it leads a call.

#include <cstddef>

namespace singleflight::detail {

// Identifies a thread by the address of its mark, which is unique among living threads.
struct ThreadMark {
  // How many calls' `fn` this thread is inside. Accessed by this thread only.
  std::size_t leading = 0;
};

inline constinit thread_local ThreadMark this_thread_mark;

// Marks this thread as one that leads a call, while it runs the call's `fn`.
class LeadingScope {
 public:
  LeadingScope() noexcept { ++this_thread_mark.leading; }
  ~LeadingScope() { --this_thread_mark.leading; }
  LeadingScope(const LeadingScope&) = delete;
  LeadingScope& operator=(const LeadingScope&) = delete;
};

}  // namespace singleflight::detail

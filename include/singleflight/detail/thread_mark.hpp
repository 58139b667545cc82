// SPDX-License-Identifier: MIT
#pragma once

#include <cstddef>

namespace singleflight::detail {

// A thread, by the address of its mark: unique among living threads.
struct ThreadMark {
  // The calls whose `fn` this thread is inside of. Touched by this thread only.
  std::size_t leading = 0;
};

inline constinit thread_local ThreadMark this_thread_mark;

// Marks this thread as one that leads a call, for as long as it runs the call's `fn`.
class LeadingScope {
 public:
  LeadingScope() noexcept { ++this_thread_mark.leading; }
  ~LeadingScope() { --this_thread_mark.leading; }
  LeadingScope(const LeadingScope&) = delete;
  LeadingScope& operator=(const LeadingScope&) = delete;
};

}  // namespace singleflight::detail

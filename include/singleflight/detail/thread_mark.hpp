// SPDX-License-Identifier: MIT
#pragma once

// ThreadId says which thread this is. ThreadMark says whether it leads a call.

#include <cerrno>
#include <cstddef>
#include <cstdint>

namespace singleflight::detail {

// Identifies a thread among those that are alive.
using ThreadId = std::uintptr_t;

struct ThreadMark {
  ThreadId id = 0;  // 0: not looked up so far
  // How many calls' `fn` this thread is inside.
  std::size_t leading = 0;
  // Hands over what others expect from this thread, which is about to wait for a call. Null: they
  // expect nothing.
  void (*hand_over)() noexcept = nullptr;
};

// Accessed by its own thread only.
inline constinit thread_local ThreadMark this_thread_mark;

// Returns the address of this thread's errno. Plugins and shared libraries may have copies of this
// library's variables, but they have the same errno.
inline ThreadId ThisThread() noexcept {
  ThreadMark& mark = this_thread_mark;
  if (mark.id == 0) [[unlikely]] {
    mark.id = reinterpret_cast<ThreadId>(&errno);
  }
  return mark.id;
}

// Call it before this thread waits for a call, with no lock held.
inline void BeforeBlocking() noexcept {
  if (this_thread_mark.hand_over != nullptr) [[unlikely]] {
    this_thread_mark.hand_over();
  }
}

// Marks this thread as one that leads a call, while it runs the call's `fn`.
class LeadingScope {
 public:
  LeadingScope() noexcept { ++this_thread_mark.leading; }
  ~LeadingScope() { --this_thread_mark.leading; }
  LeadingScope(const LeadingScope&) = delete;
  LeadingScope& operator=(const LeadingScope&) = delete;
};

}  // namespace singleflight::detail

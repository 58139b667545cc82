// SPDX-License-Identifier: MIT
#pragma once

// AdaptiveMutex: a mutex for short critical sections. A group locks its map with it.
//
// It costs one atomic read-modify-write to lock it and one store to unlock it, half of what
// std::mutex costs. Unlocking wakes nobody: a thread that waits spins for about a microsecond, in
// which a critical section of this library is over, and then sleeps for longer and longer. So a
// thread that waits leaves the processor to the owner, whatever their priorities are, and where
// there are more threads than processors.
//
// The store is the last thing that unlocking does to the mutex, so whoever locks it next may
// destroy it.
//
// Not fair, as std::mutex is not. Not for critical sections that may block.
//
// Helgrind does not know this mutex by itself. If SINGLEFLIGHT_HELGRIND is defined, and Valgrind's
// headers are there, it is told.

#include <atomic>

#include "backoff.hpp"

#if defined(SINGLEFLIGHT_HELGRIND)
#include <valgrind/helgrind.h>
#endif

namespace singleflight::detail {

class AdaptiveMutex {
 public:
  // These two are inlined also where the compiler thinks that a program is large enough: a call
  // would cost as much as they do.
  [[gnu::always_inline]] void lock() noexcept {
    if (locked_.test_and_set(std::memory_order_acquire)) [[unlikely]] {
      Wait();
    }
    Tell(Event::kLocked);
  }
  [[gnu::always_inline]] void unlock() noexcept {
    Tell(Event::kUnlocks);
    locked_.clear(std::memory_order_release);
  }

#if defined(SINGLEFLIGHT_HELGRIND)
  AdaptiveMutex() noexcept {
    VALGRIND_HG_DISABLE_CHECKING(&locked_, sizeof locked_);
    ANNOTATE_RWLOCK_CREATE(this);
  }
  ~AdaptiveMutex() {
    ANNOTATE_RWLOCK_DESTROY(this);
    VALGRIND_HG_ENABLE_CHECKING(&locked_, sizeof locked_);
  }
  AdaptiveMutex(const AdaptiveMutex&) = delete;
  AdaptiveMutex& operator=(const AdaptiveMutex&) = delete;
#endif

 private:
  enum class Event { kLocked, kUnlocks };

  [[gnu::noinline]] void Wait() noexcept {
    Backoff backoff;
    do {  // looks before it tries, so that the owner's cache line is left alone
      while (locked_.test(std::memory_order_relaxed)) backoff.Pause();
    } while (locked_.test_and_set(std::memory_order_acquire));
  }

  void Tell([[maybe_unused]] Event event) noexcept {
#if defined(SINGLEFLIGHT_HELGRIND)
    if (event == Event::kLocked) {
      ANNOTATE_RWLOCK_ACQUIRED(this, 1);
    } else {
      ANNOTATE_RWLOCK_RELEASED(this, 1);
    }
#endif
  }

  // Set: locked. The release in unlock pairs with the acquires in lock and in Wait.
  std::atomic_flag locked_;
};

}  // namespace singleflight::detail

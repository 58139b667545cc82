// SPDX-License-Identifier: MIT
#pragma once

// Backoff: how a thread waits for what another thread does in a few instructions.

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include <algorithm>
#include <chrono>
#include <ctime>
#include <thread>

namespace singleflight::detail {

// Tells the processor that this thread waits for another one.
inline void RelaxProcessor() noexcept {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("isb");  // as long as a pause there, unlike "yield", which does nothing
#endif
}

// Pause between two looks. The first pauses spin, for about a microsecond altogether. If the other
// thread has still not got there, the system has taken the processor from it. All other pauses
// sleep, each twice as long as the one before, up to a millisecond.
//
// A yield would not do. It lets only threads of the same priority run, and a scheduler may take the
// rest of its time slice from a thread that yields, however short it was.
//
// It is not a cancellation point, so it may be used where nothing may throw. A cancelled thread is
// unwound at its next cancellation point instead.
class Backoff {
 public:
  void Pause() noexcept {
    if (spins_ < kSpins) {
      ++spins_;
      RelaxProcessor();
    } else {
      Sleep(sleep_);
      sleep_ = (std::min)(2 * sleep_, kLongestSleep);
    }
  }

 private:
  using Microseconds = std::chrono::microseconds;
  static constexpr int kSpins = 20;
  static constexpr Microseconds kLongestSleep{1000};

  // A signal ends it early. std::this_thread::sleep_for would sleep again for the rest, and for the
  // slack of the system's timers each time: while signals come fast enough, it does not return.
  static void Sleep(Microseconds time) noexcept {
#if defined(PTHREAD_CANCEL_DISABLE) && !defined(_WIN32)
    int state = 0;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    const std::chrono::duration<long, std::nano> nanoseconds(time);
    const timespec once{.tv_sec = 0, .tv_nsec = nanoseconds.count()};
    nanosleep(&once, nullptr);
    pthread_setcancelstate(state, &state);
#else
    std::this_thread::sleep_for(time);
#endif
  }

  int spins_ = 0;
  Microseconds sleep_{50};  // less is hardly possible: Linux wakes a thread so much later
};

}  // namespace singleflight::detail

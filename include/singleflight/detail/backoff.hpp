// SPDX-License-Identifier: MIT
#pragma once

// Backoff: how a thread spins for what another thread does in a few instructions.

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include <chrono>
#include <thread>

namespace singleflight::detail {

// Pause between two looks. It yields most times, and sleeps at every hundredth. A thread with a
// higher real-time priority than the other would otherwise keep the processor to itself, because a
// yield lets only threads of its own priority run.
//
// It is not a cancellation point, so it may be used where nothing may throw. A cancelled thread is
// unwound at its next cancellation point instead.
class Backoff {
 public:
  void Pause() noexcept {
    if (++pauses_ % 100 != 0) {
      std::this_thread::yield();
    } else {
      Sleep();
    }
  }

 private:
  static void Sleep() noexcept {
    constexpr std::chrono::microseconds kTime(100);
#if defined(PTHREAD_CANCEL_DISABLE)
    int state = 0;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &state);
    std::this_thread::sleep_for(kTime);
    pthread_setcancelstate(state, &state);
#else
    std::this_thread::sleep_for(kTime);
#endif
  }

  unsigned pauses_ = 0;
};

}  // namespace singleflight::detail

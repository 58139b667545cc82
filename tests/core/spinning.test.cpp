// SPDX-License-Identifier: MIT

// Spinning: a thread that spins for another one lets it run, and is not a cancellation point.

#include <pthread.h>

#include <atomic>
#include <latch>
#include <singleflight/detail/backoff.hpp>
#include <singleflight/detail/spin_mutex.hpp>

#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/real_time.hpp"
#include "support/support.hpp"

using namespace test;

#if TEST_HAS_REAL_TIME_THREADS
TEST_CASE("Spinning: a thread with a real-time priority gets a mutex that a lower one holds") {
  if (!MayHaveRealTimeThreads()) {
    WARN("skipped, because this process may not have real-time priorities");
    return;
  }
  singleflight::detail::SpinMutex mutex;
  std::latch locked(1);
  int order = 0;
  int got = 0;
  {
    const RealTimeThread high(2, [&] {
      locked.wait();
      mutex.lock();
      got = ++order;
      mutex.unlock();
    });
    const RealTimeThread low(1, [&] {
      mutex.lock();
      locked.count_down();  // `high` takes the processor, and has it until it sleeps
      ++order;
      mutex.unlock();
    });
  }
  CHECK(got == 2);
}
#endif

#if TEST_UNWINDS_CANCELLED_THREADS
TEST_CASE("Promise 6: a thread that is cancelled while it spins is unwound later") {
  std::atomic<bool> cancelled = false;
  std::atomic<int> pauses = 0;
  CancellableThread spins([&] {
    Await([&] { return cancelled.load(); });
    singleflight::detail::Backoff backoff;
    while (pauses < 1000) {
      backoff.Pause();
      ++pauses;
    }
    pthread_testcancel();
  });
  spins.Cancel();
  cancelled = true;
  CHECK(spins.JoinWasUnwound());
  CHECK(pauses == 1000);
}
#endif

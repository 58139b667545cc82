// SPDX-License-Identifier: MIT

// Spinning: a thread that spins for another one lets it run, sleeps if that takes long, is not kept
// by signals, and is not a cancellation point.

#include <pthread.h>
#include <sys/types.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <fstream>
#include <latch>
#include <mutex>
#include <singleflight/detail/adaptive_mutex.hpp>
#include <singleflight/detail/backoff.hpp>
#include <string>
#include <vector>

#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/platform.hpp"
#include "support/real_time.hpp"
#include "support/support.hpp"

using namespace test;

#if defined(__linux__)
namespace {

// Returns how often a thread of this process has gone to sleep by itself.
long SleepsOf(pid_t thread) {
  std::ifstream status("/proc/self/task/" + std::to_string(thread) + "/status");
  long sleeps = -1;
  for (std::string word; status >> word;) {
    if (word == "voluntary_ctxt_switches:") status >> sleeps;
  }
  return sleeps;
}

}  // namespace

TEST_CASE("Spinning: threads that wait for a mutex sleep while its owner is not running") {
  constexpr std::size_t kThreads = 64;  // for two processors, 32 times as many
  singleflight::detail::AdaptiveMutex mutex;
  std::size_t sections = 0;  // guarded by the mutex
  std::vector<std::atomic<pid_t>> ids(kThreads);
  {
    std::vector<JoiningThread> threads;
    const std::lock_guard lock(mutex);
    for (std::atomic<pid_t>& id : ids) {
      threads.emplace_back([&] {
        id = gettid();
        const std::lock_guard inner(mutex);
        ++sections;
      });
    }
    for (const std::atomic<pid_t>& id : ids) {
      Await([&] { return id != 0 && SleepsOf(id) > 10; });
    }
  }
  CHECK(sections == kThreads);
}

TEST_CASE("Spinning: in a storm of signals, a thread that waits for a mutex gets it") {
  struct sigaction handled = {};  // sa_flags is 0: system calls see EINTR
  struct sigaction before = {};
  handled.sa_handler = [](int) {};
  REQUIRE(sigaction(SIGUSR1, &handled, &before) == 0);
  singleflight::detail::AdaptiveMutex mutex;
  std::atomic<bool> locked = false;
  std::atomic<pid_t> id = 0;
  mutex.lock();
  JoiningThread waiter([&] {
    id = gettid();
    const std::lock_guard lock(mutex);
    locked = true;
  });
  Await([&] { return id != 0 && SleepsOf(id) > 10; });  // between two looks
  mutex.unlock();
  const auto begun = std::chrono::steady_clock::now();
  const auto storm = [&] {
    while (!locked && std::chrono::steady_clock::now() - begun < 10s) {
      pthread_kill(waiter.native_handle(), SIGUSR1);
      std::this_thread::yield();
    }
  };
  {
    const JoiningThread second(storm);  // one alone may be too slow
    storm();
  }
  CHECK(locked);
  waiter.join();
  sigaction(SIGUSR1, &before, nullptr);
}

#endif

#if TEST_HAS_REAL_TIME_THREADS
TEST_CASE("Spinning: a thread with a real-time priority gets a mutex that a lower one holds") {
  if (!MayHaveRealTimeThreads()) {
    WARN("skipped, because this process may not have real-time priorities");
    return;
  }
  singleflight::detail::AdaptiveMutex mutex;
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
    while (pauses < 100) {
      backoff.Pause();
      ++pauses;
    }
    pthread_testcancel();
  });
  spins.Cancel();
  cancelled = true;
  CHECK(spins.JoinWasUnwound());
  CHECK(pauses == 100);
}
#endif

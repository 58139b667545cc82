// SPDX-License-Identifier: MIT

// A storm of signals, without SA_RESTART, hits threads that wait for calls. No wait is cut short,
// and none is mistaken for another.

#include <pthread.h>
#include <sys/time.h>

#include <atomic>
#include <chrono>
#include <latch>
#include <vector>

#include "process.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Group;
using singleflight::Stats;

namespace {

std::atomic<int> handled = 0;

void HandleSignals() {
  struct sigaction action = {};
  action.sa_handler = [](int) { ++handled; };
  MUST(sigaction(SIGUSR1, &action, nullptr) == 0);  // sa_flags is 0: system calls see EINTR
  MUST(sigaction(SIGALRM, &action, nullptr) == 0);
}

// Sends the process a signal every 100 us while it exists. Any thread may get it.
struct Timer {
  Timer() { Set(100); }
  ~Timer() { Set(0); }
  static void Set(int microseconds) {
    const itimerval every{.it_interval = {.tv_sec = 0, .tv_usec = microseconds},
                          .it_value = {.tv_sec = 0, .tv_usec = microseconds}};
    setitimer(ITIMER_REAL, &every, nullptr);
  }
};

const process::Add storm(
    "in a storm of signals, no caller returns before the call lands, whichever way it waits", [] {
      constexpr int kRounds = 1000;
      HandleSignals();
      Group<int, int> group;
      const StopSource stop;
      std::latch finish(1);
      std::atomic<int> returned = 0;
      std::atomic<int> got_1 = 0;
      std::vector<std::thread> threads;
      const auto start = [&](auto ask) {
        threads.emplace_back([&, ask] {
          got_1 += ask() == 1;
          ++returned;
        });
        AwaitCallers(group, 1, threads.size());
      };
      start([&] {
        return *group.Do(1, [&] {
          finish.wait();
          return 1;
        });
      });
      start([&] { return *group.Do(1, [] { return 2; }); });
      start([&] { return *group.Do(1, [] { return 2; }, {.timeout = 1h}); });
      start([&] { return *group.Do(1, [] { return 2; }, {.stop = stop.get_token()}); });
      start([&] { return *DoAsync(group, 1, [] { return 2; }).Get(); });
      start([&] {
        auto future = DoAsync(group, 1, [] { return 2; });
        MUST(future.WaitFor(1h) == std::future_status::ready);
        return *future.Get();
      });
      const auto fn = [](std::span<const int>) { return std::vector{2}; };
      start([&] { return **DoMany(group, {1}, fn).begin(); });
      start([&] { return **DoMany(group, {1}, fn, {.timeout = 1h}).begin(); });
      {
        const Timer timer;
        for (int i = 0; i < kRounds; ++i) {
          for (auto& thread : threads) pthread_kill(thread.native_handle(), SIGUSR1);
          if (i % 10 == 0) std::this_thread::yield();
        }
#if !defined(UNDER_THREAD_SANITIZER)  // it holds signals back while a thread waits in libstdc++
        Await([] { return handled > kRounds; });
#endif
        MUST(returned == 0);
        MUST(group.Callers(1) == threads.size());
        finish.count_down();
        for (auto& thread : threads) thread.join();
      }
      MUST(got_1 == 8);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = 7}));
    });

const process::Add timeouts(
    "in a storm of signals, a timeout still passes, and it does not pass too early", [] {
      HandleSignals();
      Group<int, int> group;
      HeldCall held(group, 1);
      std::atomic<bool> early = false;
      std::atomic<int> timed_out = 0;
      std::vector<std::thread> threads;
      const auto start = [&](auto ask) {
        threads.emplace_back([&, ask] {
          const auto began = std::chrono::steady_clock::now();
          timed_out += ask();
          if (std::chrono::steady_clock::now() - began < 50ms) early = true;
        });
      };
      start([&] {
        return ErrorOf([&] { return group.Do(1, [] { return 2; }, {.timeout = 50ms}); }) ==
               std::errc::timed_out;
      });
      start([&] {
        const auto fn = [](std::span<const int>) { return std::vector{2}; };
        const auto results = DoMany(group, {1}, fn, {.timeout = 50ms});
        return ErrorOf([&] { return results[0].result(); }) == std::errc::timed_out;
      });
      start([&] {
        return DoAsync(group, 1, [] { return 2; }).WaitFor(50ms) == std::future_status::timeout;
      });
      {
        const Timer timer;
        while (timed_out < 3) {
          for (auto& thread : threads) pthread_kill(thread.native_handle(), SIGUSR1);
          std::this_thread::yield();
        }
        for (auto& thread : threads) thread.join();
      }
      MUST(!early);
      MUST(group.Callers(1) == 1);
      MUST(held.Finish().value == 1);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = 3, .left = 3}));
    });

}  // namespace

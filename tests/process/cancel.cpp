// SPDX-License-Identifier: MIT

// Promise 6 (thread cancellation): a thread that is cancelled in a call does not take others, or
// the process, down with it. AddressSanitizer needs detect_stack_use_after_return=1 here. Otherwise
// AddressSanitizer itself fails when a thread is unwound out of a condition variable.

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <latch>
#include <stdexcept>

#include "process.hpp"
#include "support/cancellable_thread.hpp"
#include "support/platform.hpp"

using namespace test;
using singleflight::DoAsync;
using singleflight::Group;
using singleflight::Stats;

#if TEST_UNWINDS_CANCELLED_THREADS

namespace {

// Waits until this thread is cancelled. Never returns.
[[noreturn]] void SitInCancellationPoint() {
  for (;;) {
#if defined(UNDER_THREAD_SANITIZER)  // its pause() does not see the unwinding
    pthread_testcancel();
#else
    pause();
#endif
  }
}

class PosixThread {
 public:
  explicit PosixThread(std::function<void()> body) : body_(std::move(body)) {
    const auto run = [](void* self) -> void* {
      static_cast<PosixThread*>(self)->body_();
      return nullptr;
    };
    pthread_create(&thread_, nullptr, run, this);
  }
  void Cancel() { pthread_cancel(thread_); }
  bool JoinWasCancelled() {
    void* result = nullptr;
    pthread_join(thread_, &result);
    return result == PTHREAD_CANCELED;
  }

 private:
  std::function<void()> body_;
  pthread_t thread_;
};

const process::Add leader(
    "when the leader is cancelled, all its followers get owner_dead and the process continues", [] {
      Group<int, int> group;
      PosixThread cancelled(
          [&] { static_cast<void>(group.Do(1, []() -> int { SitInCancellationPoint(); })); });
      AwaitCallers(group, 1, 1);
      const StopSource stop;
      Caller plain([&] { return group.Do(1, [] { return 1; }); });
      Caller patient([&] { return group.Do(1, [] { return 1; }, {.timeout = 1h}); });
      Caller stoppable([&] { return group.Do(1, [] { return 1; }, {.stop = stop.get_token()}); });
      AwaitCallers(group, 1, 4);
      auto future = DoAsync(group, 1, [] { return 1; });
      cancelled.Cancel();
      MUST(cancelled.JoinWasCancelled());
      MUST(plain.Join().error == std::errc::owner_dead);
      MUST(patient.Join().error == std::errc::owner_dead);
      MUST(stoppable.Join().error == std::errc::owner_dead);
      MUST(ErrorOf([&] { return future.Get(); }) == std::errc::owner_dead);
      MUST(*group.Do(1, [] { return 2; }) == 2);
      MUST((group.GetStats() == Stats{.executions = 2, .followers = 4, .failures = 1}));
    });

void CancelFollower(const singleflight::CallOptions& options) {
  Group<int, int> group;
  HeldCall held(group, 1);
  Caller other([&] { return group.Do(1, [] { return 2; }); });
  AwaitCallers(group, 1, 2);
  PosixThread cancelled([&] {
    static_cast<void>(group.Do(
        1, [] { return 3; }, options));
  });
  AwaitCallers(group, 1, 3);
  cancelled.Cancel();
  MUST(cancelled.JoinWasCancelled());
  MUST(group.Callers(1) == 2);
  MUST(held.Finish().value == 1);
  MUST(other.Join().value == 1);
  MUST((group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 1}));
}

const process::Add with_timeout(
    "a follower with a timeout leaves when it is cancelled, and the call continues",
    [] { CancelFollower({.timeout = 1h}); });
const process::Add with_stop(
    "a follower with a stop token leaves when it is cancelled, and the call continues", [] {
      const StopSource stop;
      CancelFollower({.stop = stop.get_token()});
    });

const process::Add without(
    "a cancelled follower without a timeout or stop token stays until the call lands, gets the "
    "result, and is cancelled then",
    [] {
      Group<int, int> group;
      HeldCall held(group, 1);
      std::atomic<int> got = 0;
      PosixThread cancelled([&] {
        got = *group.Do(1, [] { return 3; });
        SitInCancellationPoint();
      });
      AwaitCallers(group, 1, 2);
      cancelled.Cancel();
      for (int i = 0; i < 100; ++i) {
        MUST(group.Callers(1) == 2);
        std::this_thread::yield();
      }
      MUST(got == 0);
      MUST(held.Finish().value == 1);
      MUST(cancelled.JoinWasCancelled());
      MUST(got == 1);
      MUST((group.GetStats() == Stats{.executions = 1, .followers = 1}));
    });

const process::Add in_handler(
    "when a leader that called Do in a catch block is cancelled, libstdc++ terminates, as "
    "promise 6 says",
    [] {
      Group<int, int> group;
      PosixThread cancelled([&] {
        try {
          throw std::runtime_error("first");
        } catch (const std::runtime_error&) {
          static_cast<void>(group.Do(1, []() -> int { SitInCancellationPoint(); }));
        }
      });
      AwaitCallers(group, 1, 1);
      cancelled.Cancel();
      cancelled.JoinWasCancelled();
    },
    {.signal = SIGABRT});

}  // namespace

#endif  // TEST_UNWINDS_CANCELLED_THREADS

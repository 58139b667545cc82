// SPDX-License-Identifier: MIT

// What terminates a program that uses coroutines: see CoDo.

#include <pthread.h>
#include <unistd.h>

#include <coroutine>
#include <csignal>
#include <stdexcept>

#include "process.hpp"
#include "support/cancellable_thread.hpp"
#include "support/coroutines.hpp"
#include "support/platform.hpp"

using namespace test;
using singleflight::CoDo;
using singleflight::Group;

namespace {

// A coroutine out of which exceptions pass to whoever resumes it.
struct Throwing {
  struct promise_type : FireAndForget::promise_type {
    Throwing get_return_object() noexcept { return {}; }
    void unhandled_exception() const { throw; }
  };
};

const process::Add escaping("an exception that escapes a resumed coroutine terminates the program",
                            [] {
                              Group<int, int> group;
                              Signal signal;
                              const auto fn = [&]() -> Task<int> {
                                co_await signal;
                                co_return 7;
                              };
                              const auto ask = [&]() -> Throwing {
                                MUST(*co_await CoDo(group, 1, fn) == 7);
                                throw std::runtime_error("nobody catches this");
                              };
                              ask();
                              MUST(group.Callers(1) == 1);
                              try {
                                signal.Fire();
                              } catch (...) {
                                _exit(99);
                              }
                            },
                            {.signal = SIGABRT});

#if TEST_UNWINDS_CANCELLED_THREADS
const process::Add cancelled(
    "cancelling a thread inside an awaitable function terminates the program",
    [] {
      Group<int, int> group;
      const auto fn = []() -> Task<int> {
        for (;;) pthread_testcancel();
        co_return 7;
      };
      const auto ask = [&]() -> FireAndForget { static_cast<void>(co_await CoDo(group, 1, fn)); };
      CancellableThread thread([&] { ask(); });
      AwaitCallers(group, 1, 1);
      thread.Cancel();
      thread.JoinWasUnwound();
    },
    {.signal = SIGABRT});
#endif

}  // namespace

// SPDX-License-Identifier: MIT

// Tests of AsyncDo: the timeouts that asio.hpp recommends. A failure, a result and a timeout each
// reach the caller at once. This file is built with the standalone Asio and with Boost's.

#include <exception>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <variant>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

// Runs what is ready, but waits for no timer.
void RunWithoutWaiting(asio::io_context& io) {
  io.restart();
  while (io.poll() > 0) continue;
}

// What a caller has heard. It is still waiting if that is nothing.
struct Heard {
  std::optional<int> value;
  std::string failure;
  bool timed_out = false;
};

// The idiom for any Asio: as_tuple makes `||` end with the call, even if that fails.
template <class Fn>
asio::awaitable<void> AskWithTimer(IntGroup& group, const Fn& fn, asio::steady_timer& timer,
                                   Heard& heard) {
  auto first = co_await (AsyncDo(group, "key", fn, as_tuple(use_awaitable)) ||
                         timer.async_wait(use_awaitable));
  if (first.index() == 1) {
    heard.timed_out = true;
    co_return;
  }
  auto& [error, result] = std::get<0>(first);
  if (error == nullptr) {
    heard.value = *result;
  } else {
    const auto outcome = Keep([&e = error]() -> Result<int> { std::rethrow_exception(e); });
    heard.failure = outcome.message;
  }
}

constexpr auto kFails = []() -> int { throw std::runtime_error("down"); };

}  // namespace

ASIO_TEST_CASE("with as_tuple, 'AsyncDo or timer' reports a failure at once, not as a timeout") {
  IntGroup group;
  asio::io_context io;
  asio::steady_timer timer(io, 1h);
  const auto awaitable = []() -> asio::awaitable<int> {
    kFails();
    co_return 1;
  };
  Heard plain;
  Spawn(io, AskWithTimer(group, kFails, timer, plain));
  RunWithoutWaiting(io);
  CHECK(plain.failure == "down");
  Heard coroutine;
  Spawn(io, AskWithTimer(group, awaitable, timer, coroutine));
  RunWithoutWaiting(io);
  CHECK(coroutine.failure == "down");
  CHECK(group.GetStats().left == 0);
}

ASIO_TEST_CASE("with as_tuple, 'AsyncDo or timer' reports a result at once") {
  IntGroup group;
  asio::io_context io;
  asio::steady_timer timer(io, 1h);
  const auto one = [] { return 1; };
  Heard heard;
  Spawn(io, AskWithTimer(group, one, timer, heard));
  RunWithoutWaiting(io);
  CHECK(heard.value == 1);
}

ASIO_TEST_CASE("with as_tuple, 'AsyncDo or timer' reports a timeout, and the caller has left") {
  IntGroup group;
  asio::io_context io;
  asio::steady_timer timer(io, 0s);
  HeldCall leader(group, "key");
  Heard heard;
  Spawn(io, AskWithTimer(group, MustNotRun, timer, heard));
  io.run();
  CHECK(heard.timed_out);
  CHECK(group.Callers("key") == 1);
  CHECK(group.GetStats().left == 1);
}

#if defined(TEST_CANCEL_AFTER)

ASIO_TEST_CASE("with cancel_after, a failure and a result are reported at once") {
  IntGroup group;
  asio::io_context io;
  Answer answers[2];
  AsyncDo(group, "fails", asio::bind_executor(io, kFails),
          asio::cancel_after(1h, Into(answers[0], io)));
  AsyncDo(group, "key", asio::bind_executor(io, [] { return 1; }),
          asio::cancel_after(1h, Into(answers[1], io)));
  RunWithoutWaiting(io);
  CHECK(answers[0].outcome.message == "down");
  CHECK(answers[1].outcome.value == 1);
}

ASIO_TEST_CASE("with cancel_after, a timeout is reported as operation_aborted") {
  IntGroup group;
  asio::io_context io;
  HeldCall leader(group, "key");
  asio::steady_timer timer(io);
  int aborted = 0;
  const auto caller = [&](auto token) -> asio::awaitable<void> {
    try {
      static_cast<void>(co_await AsyncDo(group, "key", MustNotRun, token));
    } catch (const SystemError& error) {
      aborted += error.code() == asio::error::operation_aborted;
    }
  };
  Spawn(io, caller(asio::cancel_after(1ms, use_awaitable)));
  Spawn(io, caller(asio::cancel_after(timer, 1ms, use_awaitable)));
  io.run();
  CHECK(aborted == 2);
  CHECK(group.Callers("key") == 1);
}

ASIO_TEST_CASE("the timer of cancel_after runs where fn is bound") {
  IntGroup group;
  asio::io_context io;
  asio::io_context fn_io;
  HeldCall leader(group, "key");
  Answer answer;
  AsyncDo(group, "key", asio::bind_executor(fn_io, MustNotRun),
          asio::cancel_after(0s, Into(answer, io)));
  CHECK(fn_io.run_one() == 1);  // the timer
  CHECK(io.run_one() == 1);     // cancels the operation
  CHECK(io.run_one() == 1);     // completes it
  CHECK(answer.aborted);
}

#endif

// SPDX-License-Identifier: MIT

// Tests of AsyncDo: callers that are cancelled, and work that nobody wants any more (promises 10 to
// 12). This file is built with the standalone Asio and with Boost's.

#include <array>
#include <atomic>
#include <variant>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

ASIO_TEST_CASE("Promise 10: a caller that is cancelled leaves promptly and disturbs nobody") {
  for (const auto type : {asio::cancellation_type::terminal, asio::cancellation_type::partial,
                          asio::cancellation_type::total}) {
    IntGroup group;
    asio::io_context io;
    asio::cancellation_signal signal;
    HeldCall leader(group, "key");
    Answer leaves;
    Answer stays;
    AsyncDo(group, "key", MustNotRun, Into(leaves, io, signal));
    AsyncDo(group, "key", MustNotRun, Into(stays, io));
    signal.emit(asio::cancellation_type::none);
    CHECK(group.Callers("key") == 3);
    signal.emit(type);
    CHECK(leaves.calls == 0);  // emit does not call the handler
    CHECK(group.Callers("key") == 2);
    signal.emit(type);
    io.poll();
    CHECK(leaves.calls == 1);
    CHECK(leaves.aborted);
    CHECK(stays.calls == 0);
    CHECK(leader.Finish().value == 1);
    io.run();
    signal.emit(type);
    CHECK(leaves.calls == 1);
    CHECK(stays.outcome.value == 1);
    CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .left = 1});
  }
}

ASIO_TEST_CASE("Promise 10: the leader may be cancelled, and the call continues for the others") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signal;
  Answer leaves;
  Answer stays;
  const auto load = [&]() -> asio::awaitable<int> {
    co_await gate.Wait();
    co_return 7;
  };
  AsyncDo(group, "key", load, Into(leaves, io, signal));
  AsyncDo(group, "key", load, Into(stays, io));
  io.poll();
  signal.emit(asio::cancellation_type::terminal);
  io.poll();
  CHECK(leaves.aborted);
  CHECK(gate.waiting == 1);
  gate.Open();
  io.run();
  CHECK(stays.outcome.value == 7);
  CHECK(stays.outcome.role == Role::kFollower);
  CHECK_FALSE(stays.outcome.shared);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

ASIO_TEST_CASE("Promise 10: a cancellation after landing comes too late") {
  IntGroup group;
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer answer;
  HeldCall leader(group, "key");
  AsyncDo(group, "key", MustNotRun, Into(answer, io, signal));
  leader.Finish();
  signal.emit(asio::cancellation_type::terminal);
  io.run();
  CHECK(answer.calls == 1);
  CHECK_FALSE(answer.aborted);
  CHECK(answer.outcome.value == 1);
}

ASIO_TEST_CASE("Promise 10: when a cancellation races with landing, the caller gets one of them") {
  constexpr int kRounds = 3000;
  IntGroup group;
  asio::io_context io;
  std::size_t aborted = 0;
  std::size_t landed = 0;
  for (int round = 0; round < kRounds; ++round) {
    asio::cancellation_signal signal;
    Answer answer;
    OpenCall call(group);
    AsyncDo(group, "key", MustNotRun, Into(answer, io, signal));
    RunConcurrently([&] { call.Land(round); },
                    [&] {
                      asio::post(io, [&] { signal.emit(asio::cancellation_type::terminal); });
                      io.run();
                    });
    io.restart();
    CHECK(answer.calls == 1);
    aborted += answer.aborted;
    landed += answer.outcome.value == round;
  }
  CHECK(aborted + landed == kRounds);
  CHECK(group.GetStats() == Stats{.executions = kRounds, .followers = kRounds, .left = aborted});
}

ASIO_TEST_CASE("Promise 10: in 'AsyncDo or timer', the first to complete cancels the other") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  const auto never = [&](test::StopToken) -> asio::awaitable<int> {
    co_await gate.Wait();
    co_return -1;
  };
  const auto soon = [] { return 1; };
  int checks = 0;
  const auto caller = [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(io, 1h);
    auto first =
        co_await (AsyncDo(group, "key", soon, use_awaitable) || timer.async_wait(use_awaitable));
    CHECK(first.index() == 0);
    CHECK(**std::get_if<0>(&first) == 1);

    timer.expires_after(0s);
    auto second =
        co_await (AsyncDo(group, "key", never, use_awaitable) || timer.async_wait(use_awaitable));
    CHECK(second.index() == 1);
    CHECK(group.Callers("key") == 0);
    ++checks;
  };
  Spawn(io, caller());
  io.run();
  CHECK(checks == 1);
  CHECK(gate.waiting == 0);
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 1, .left = 1});
}

ASIO_TEST_CASE("Promise 10: an operation in a parallel group is cancelled when another completes") {
  IntGroup group;
  asio::io_context io;
  HeldCall leader(group, "key");
  asio::steady_timer timer(io, 0s);
  std::size_t first = 9;
  bool aborted = false;
  asio::experimental::make_parallel_group(
      AsyncDo(group, "key", asio::bind_executor(io, MustNotRun), deferred),
      timer.async_wait(deferred))
      .async_wait(asio::experimental::wait_for_one(),
                  asio::bind_executor(
                      io, [&](std::array<std::size_t, 2> order, const std::exception_ptr& error,
                              const Result<int>&, ErrorCode) {
                        first = order[0];
                        aborted = IsAborted(error);
                      }));
  io.run();
  CHECK(first == 1);
  CHECK(aborted);
  CHECK(group.Callers("key") == 1);
}

ASIO_TEST_CASE("Promise 11: when the last caller leaves, the coroutine of fn is cancelled") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signals[2];
  Answer answers[2];
  int cancelled = 0;
  const auto load = [&](test::StopToken stop) -> asio::awaitable<int> {
    try {
      co_await gate.Wait();
    } catch (const SystemError& error) {
      cancelled += stop.stop_requested() && error.code() == asio::error::operation_aborted;
      throw;
    }
    co_return 7;
  };
  for (int i = 0; i < 2; ++i) AsyncDo(group, "key", load, Into(answers[i], io, signals[i]));
  io.poll();
  signals[0].emit(asio::cancellation_type::total);
  io.poll();
  CHECK(gate.waiting == 1);
  CHECK(cancelled == 0);
  signals[1].emit(asio::cancellation_type::total);
  CHECK(group.Callers("key") == 0);
  io.run();
  CHECK(gate.waiting == 0);
  CHECK(cancelled == 1);
  for (const Answer& answer : answers) CHECK(answer.aborted);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .failures = 1, .left = 2});
}

ASIO_TEST_CASE(
    "Promise 11: an awaitable fn that takes no stop token continues, and a newcomer joins it") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signal;
  Answer leaves;
  Answer newcomer;
  int runs = 0;
  const auto load = [&]() -> asio::awaitable<int> {
    const int mine = ++runs;
    co_await gate.Wait();
    co_return mine;
  };
  AsyncDo(group, "key", load, Into(leaves, io, signal));
  io.poll();
  signal.emit(asio::cancellation_type::terminal);
  io.poll();
  CHECK(leaves.aborted);
  CHECK(gate.waiting == 1);
  AsyncDo(group, "key", load, Into(newcomer, io));
  gate.Open();
  io.run();
  CHECK(newcomer.outcome.value == 1);
  CHECK(newcomer.outcome.role == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1, .left = 1});
}

ASIO_TEST_CASE("Promise 11: a newcomer starts a new call beside one that was asked to stop") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signal;
  Answer leaves;
  Answer newcomer;
  int runs = 0;
  const auto stubborn = [&](test::StopToken) -> asio::awaitable<int> {
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    const int mine = ++runs;
    co_await gate.Wait();
    co_return mine;
  };
  AsyncDo(group, "key", stubborn, Into(leaves, io, signal));
  io.poll();
  signal.emit(asio::cancellation_type::terminal);
  AsyncDo(group, "key", stubborn, Into(newcomer, io));
  io.poll();
  CHECK(runs == 2);
  CHECK(gate.waiting == 2);  // the first ignores its cancellation
  CHECK(leaves.aborted);
  gate.Open();
  io.run();
  CHECK(newcomer.outcome.value == 2);
  CHECK(newcomer.outcome.role == Role::kLeader);
  CHECK(leaves.calls == 1);
}

ASIO_TEST_CASE("Promise 11: work is asked to stop even if all callers left before it began") {
  IntGroup group;
  asio::io_context io;
  asio::cancellation_signal signals[2];
  Answer answers[2];
  bool stopped = false;
  bool went_on = false;
  const auto plain = [&](const test::StopToken& stop) {
    stopped = stop.stop_requested();
    return 1;
  };
  const auto awaitable = [&](test::StopToken) -> asio::awaitable<int> {
    went_on = true;
    co_return 1;
  };
  AsyncDo(group, "plain", plain, Into(answers[0], io, signals[0]));
  AsyncDo(group, "awaitable", awaitable, Into(answers[1], io, signals[1]));
  for (auto& signal : signals) signal.emit(asio::cancellation_type::terminal);
  io.run();
  CHECK(stopped);
  for (const Answer& answer : answers) CHECK(answer.aborted);
  CHECK_FALSE(went_on);
}

ASIO_TEST_CASE(
    "Promise 12: a caller that a limit refuses gets the error through its completion token") {
  IntGroup group({.max_callers_per_call = 1});
  asio::io_context io;
  HeldCall leader(group, "key");
  Answer refused;
  AsyncDo(group, "key", MustNotRun, Into(refused, io));
  CHECK(refused.calls == 0);
  io.run();
  CHECK(refused.calls == 1);
  CHECK(refused.outcome.error == std::errc::resource_unavailable_try_again);
  CHECK(group.GetStats().refused == 1);
}

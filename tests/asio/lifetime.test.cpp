// SPDX-License-Identifier: MIT

// Tests of AsyncDo: groups and execution contexts that are destroyed (promise 14). This file is
// built with the standalone Asio and with Boost's.

#if defined(__linux__)
#endif

#include <atomic>
#include <fstream>
#include <latch>
#include <memory>
#include <string>
#include <utility>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

ASIO_TEST_CASE(
    "Promise 14: the destructor cancels the coroutine of fn, and waits until fn is destroyed") {
  asio::io_context io;
  auto work = asio::make_work_guard(io);
  AsyncEvent gate(io);
  Answer answer;
  test::JoiningThread runs([&] { io.run(); });
  auto captured = std::make_shared<int>(7);
  const std::weak_ptr<int> watch = captured;
  {
    IntGroup group;
    auto load = [&gate, captured = std::move(captured)]() -> asio::awaitable<int> {
      co_await gate.Wait();
      co_return *captured;
    };
    AsyncDo(group, "key", std::move(load), Into(answer, io));
    Await([&] { return gate.waiting == 1; });
  }
  CHECK(watch.expired());
  CHECK(gate.waiting == 0);
  work.reset();
  runs.join();
  CHECK(answer.calls == 1);
  CHECK(answer.aborted);  // its fn failed with operation_aborted
}

ASIO_TEST_CASE(
    "Promise 14: a context that is destroyed lands its calls and destroys its operations") {
  IntGroup group;
  const auto alive = std::make_shared<int>(0);
  int told = 0;
  {
    asio::io_context io;
    AsyncEvent gate(io);
    const auto load = [&gate, alive]() -> asio::awaitable<int> {
      co_await gate.Wait();
      co_return 7;
    };
    const auto caller = [&group, &load, &told, alive]() -> asio::awaitable<void> {
      static_cast<void>(co_await AsyncDo(group, "key", load, use_awaitable));
      ++told;
    };
    const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) { ++told; };
    Spawn(io, caller());
    AsyncDo(group, "key", load, asio::bind_executor(io, handler));
    AsyncDo(
        group, "never begun", [alive] { return 1; }, asio::bind_executor(io, handler));
    io.poll_one();
    AsyncDo(group, "key", load, asio::bind_executor(asio::make_strand(io), handler));
    CHECK(group.GetStats().in_flight == 2);
  }
  CHECK(told == 0);
  CHECK(alive.use_count() == 1);
  CHECK(group.GetStats().in_flight == 0);
}

ASIO_TEST_CASE("Promise 14: operations of a destroyed context leave calls that are led elsewhere") {
  IntGroup group;
  HeldCall leader(group, "key");
  const auto alive = std::make_shared<int>(0);
  int told = 0;
  {
    asio::io_context io;
    const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) { ++told; };
    for (int i = 0; i < 3; ++i) {
      AsyncDo(group, "key", MustNotRun, asio::bind_executor(io, handler));
    }
    AsyncDo(group, "key", MustNotRun, asio::bind_executor(asio::make_strand(io), handler));
    CHECK(group.Callers("key") == 5);
  }
  CHECK(alive.use_count() == 1);
  CHECK(group.Callers("key") == 1);
  CHECK_FALSE(leader.Finish().shared);
  CHECK(told == 0);
}

ASIO_TEST_CASE(
    "Promise 14: callers elsewhere get owner_dead if their leader's context is destroyed") {
  IntGroup group;
  asio::io_context io;
  Answer answers[2];
  {
    asio::io_context other;
    AsyncEvent gate(other);
    const auto load = [&gate]() -> asio::awaitable<int> {
      co_await gate.Wait();
      co_return 7;
    };
    AsyncDo(group, "coroutine", asio::bind_executor(other, load), Into(answers[0], io));
    AsyncDo(group, "plain", asio::bind_executor(other, MustNotRun), Into(answers[1], io));
    other.run_one();
  }
  io.run();
  for (const Answer& answer : answers) CHECK(answer.outcome.error == std::errc::owner_dead);
}

ASIO_TEST_CASE("Promise 14: an operation may outlive its group once the call has landed") {
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer answer;
  {
    IntGroup group;
    HeldCall leader(group, "key");
    AsyncDo(group, "key", MustNotRun, Into(answer, io, signal));
    leader.Finish();
  }
  signal.emit(asio::cancellation_type::terminal);
  io.run();
  CHECK(answer.outcome.value == 1);
}

ASIO_TEST_CASE("Promise 14: a context may be destroyed while a call lands") {
  constexpr int kRounds = 1500;
  IntGroup group;
  int told = 0;
  int leaked = 0;
  for (int round = 0; round < kRounds; ++round) {
    const auto alive = std::make_shared<int>(0);
    auto io = std::make_unique<asio::io_context>(1);
    OpenCall call(group);
    const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) { ++told; };
    AsyncDo(group, "key", MustNotRun, asio::bind_executor(*io, handler));
    AsyncDo(group, "key", MustNotRun, asio::bind_executor(asio::make_strand(*io), handler));
    RunConcurrently([&] { call.Land(1); }, [&] { io.reset(); });
    leaked += alive.use_count() != 2;  // `alive` and `handler` still hold it
  }
  CHECK(told == 0);
  CHECK(leaked == 0);
}

ASIO_TEST_CASE("Promise 14: a context that leads may be destroyed while the last caller leaves") {
  constexpr int kRounds = 1500;
  IntGroup group;
  asio::io_context io;
  int answered = 0;
  for (int round = 0; round < kRounds; ++round) {
    auto leads = std::make_unique<asio::io_context>(1);
    asio::cancellation_signal signal;
    Answer answer;
    {
      bool waits = false;
      const auto load = [&waits]() -> asio::awaitable<int> {
        asio::steady_timer timer(co_await asio::this_coro::executor, 1h);
        waits = true;
        co_await timer.async_wait(use_awaitable);
        co_return 7;
      };
      AsyncDo(group, "key", asio::bind_executor(*leads, load), Into(answer, io, signal));
      while (!waits) leads->poll();
      RunConcurrently([&] { leads.reset(); },
                      [&] {
                        signal.emit(asio::cancellation_type::terminal);
                        io.run();
                      });
    }
    io.restart();
    answered += answer.aborted || answer.outcome.error == std::errc::owner_dead;
  }
  CHECK(answered == kRounds);
}

// SPDX-License-Identifier: MIT

// Traits::Listener: what a group tells it of callers in AsyncDo. This file is built with the
// standalone Asio and with Boost's.

#include <stdexcept>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

namespace {

// Fails, once the event is set.
auto FailAfter(AsyncEvent& gate) {
  return [&gate]() -> asio::awaitable<int> {
    co_await gate.Wait();
    throw std::runtime_error("down");
  };
}
auto ReturnAfter(AsyncEvent& gate) {
  return [&gate]() -> asio::awaitable<int> {
    co_await gate.Wait();
    co_return 7;
  };
}

}  // namespace

ASIO_TEST_CASE("AsyncDo: a listener is told of operations that lead and follow and are cancelled") {
  RecordedGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signal;
  Answer leads, follows, cancelled;
  AsyncDo(group, "key", ReturnAfter(gate), Into(leads, io));
  AsyncDo(group, "key", MustNotRun, Into(follows, io));
  AsyncDo(group, "key", MustNotRun, Into(cancelled, io, signal));
  io.poll();
  signal.emit(asio::cancellation_type::terminal);
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "follow key #1", "follow key #1", "leave key #1: stop"});
  gate.Open();
  io.run();
  CHECK(leads.outcome.value == 7);
  CHECK(follows.outcome.value == 7);
  CHECK(cancelled.aborted);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1", "follow key #1",
                                            "leave key #1: stop", "land key #1: 2"});
}

ASIO_TEST_CASE("AsyncDo: a listener is told of the second try") {
  RecordedGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  Answer fails, retries;
  AsyncDo(group, "key", FailAfter(gate), Into(fails, io));
  AsyncDo(
      group, "key", [] { return 8; }, OnFailure::kRetry, Into(retries, io));
  io.poll();
  gate.Open();
  io.run();
  CHECK(fails.outcome.message == "down");
  CHECK(retries.outcome.value == 8);
  CHECK(group.GetListener().Told() == Lines{"lead key #1", "follow key #1",
                                            "land key #1: 2, failed", "lead key #2",
                                            "land key #2: 1"});
}

ASIO_TEST_CASE("AsyncDo: a listener is told that the context was destroyed") {
  RecordedGroup group;
  Answer answer;
  {
    asio::io_context io;
    AsyncDo(
        group, "key", [] { return 1; }, Into(answer, io));
  }
  CHECK(answer.calls == 0);
  CHECK(group.GetListener().Told() ==
        Lines{"lead key #1", "leave key #1", "land key #1: 0, failed"});
}

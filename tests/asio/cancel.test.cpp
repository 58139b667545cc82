// SPDX-License-Identifier: MIT

// Tests of AsyncDo: the callers of a call that Group::Cancel takes from them, and its work. This
// file is built with the standalone Asio.

#include <functional>
#include <string>
#include <string_view>
#include <thread>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/recorder.hpp"
#include "support/support.hpp"

ASIO_TEST_CASE("Cancel: the handlers of all callers get the error while the work is stuck") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  Answer leader;
  Answer follower;
  Answer retrier;
  const auto load = [&]() -> asio::awaitable<int> {
    co_await asio::this_coro::reset_cancellation_state(asio::disable_cancellation());
    co_await gate.Wait();
    co_return 7;
  };
  AsyncDo(group, "key", load, Into(leader, io));
  AsyncDo(group, "key", MustNotRun, Into(follower, io));
  AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(retrier, io));
  io.poll();
  CHECK(gate.waiting == 1);
  CHECK(group.Cancel("key"));
  CHECK(leader.calls == 0);  // Cancel posts the handlers
  io.poll();
  for (const Answer* answer : {&leader, &follower, &retrier}) {
    CHECK(answer->calls == 1);
    CHECK(answer->outcome.error == std::errc::operation_canceled);
    CHECK_FALSE(answer->in_catch_block);
  }
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .failures = 1, .in_flight = 1});
  CHECK(gate.waiting == 1);
  gate.Open();
  io.run();
  CHECK(leader.calls == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 2, .failures = 1});
}

ASIO_TEST_CASE("Cancel: an awaitable that takes the stop token is asked to stop") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  Answer answer;
  bool stopped = false;
  const auto load = [&](test::StopToken stop) -> asio::awaitable<int> {
    ErrorCode error;
    try {
      co_await gate.Wait();
    } catch (const SystemError& aborted) {
      error = aborted.code();
    }
    stopped = stop.stop_requested() && error == asio::error::operation_aborted;
    co_return 7;
  };
  AsyncDo(group, "key", load, Into(answer, io));
  io.poll();
  CHECK(group.Cancel("key"));
  io.run();
  CHECK(stopped);
  CHECK(answer.calls == 1);
  CHECK(answer.outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

ASIO_TEST_CASE(
    "Cancel: the operations of an awaitable are cancelled as when the group is destroyed") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent never(io);
  Answer answer;
  const auto load = [&]() -> asio::awaitable<int> {
    co_await never.Wait();
    co_return 7;
  };
  AsyncDo(group, "key", load, Into(answer, io));
  io.poll();
  CHECK(group.Cancel("key"));
  io.run();  // returns
  CHECK(answer.outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

ASIO_TEST_CASE("Cancel: a plain function that has not begun does not run") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  AsyncDo(group, "key", MustNotRun, Into(answer, io));
  CHECK(group.Cancel("key"));
  io.run();
  CHECK(answer.outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

ASIO_TEST_CASE("Cancel: an awaitable that has not begun does not run") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  bool ran = false;
  const auto begin = []() -> asio::awaitable<int> { co_return 1; };
  const auto load = [&] {
    ran = true;
    return begin();
  };
  AsyncDo(group, "key", load, Into(answer, io));
  CHECK(group.Cancel("key"));
  io.run();
  CHECK_FALSE(ran);
  CHECK(answer.outcome.error == std::errc::operation_canceled);
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

namespace {

// Cancels each call at once, on another thread, and lets the handlers run.
struct Canceler {
  void OnLead(std::string_view key) const {
    std::thread([&] { cancel(std::string(key)); }).join();
  }
  std::function<void(const std::string&)> cancel;
};

}  // namespace

ASIO_TEST_CASE("Cancel: an operation that is cancelled before its launch is not destroyed there") {
  test::GroupWith<Canceler> group;
  asio::io_context io;
  group.GetListener().cancel = [&](const std::string& key) {
    group.Cancel(key);
    io.poll();
    io.restart();
  };
  const std::string text(100, 'x');  // is copied to the heap, so that its use can be seen
  Answer shares, retries;
  const auto load = [text] { return MustNotRun() + static_cast<int>(text.size()); };
  AsyncDo(group, "key", load, Into(shares, io));
  AsyncDo(group, "key", load, OnFailure::kRetry, Into(retries, io));
  io.run();
  for (const Answer* answer : {&shares, &retries}) {
    CHECK(answer->calls == 1);
    CHECK(answer->outcome.error == std::errc::operation_canceled);
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .failures = 2});
}

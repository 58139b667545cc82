// SPDX-License-Identifier: MIT

// Tests AsyncDo on a redis::Group, with the standalone Asio.

#if defined(TEST_ASIO)  // Asio was found

#include <atomic>
#include <future>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>

#include "asio/asio_support.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace singleflight;
using namespace std::string_literals;

namespace {

using Numbers = RedisProcess<int, redis::CopyBytes<int>>;

auto Gives(int number) {
  return [number] { return number; };
}

}  // namespace

TEST_CASE("fleet AsyncDo: an operation that is alone leads, and fn runs on its executor") {
  const RedisServer server;
  asio::thread_pool pool(1);
  Numbers numbers(server);
  asio::io_context io;
  std::thread::id ran_on;
  const auto fn = asio::bind_executor(pool.get_executor(), [&] {
    ran_on = std::this_thread::get_id();
    return 7;
  });
  Answer answer;
  AsyncDo(numbers, "k", fn, Into(answer, io));
  CHECK(answer.calls == 0);
  io.run();
  CHECK(answer.calls == 1);
  CHECK(answer.on == std::this_thread::get_id());
  CHECK(answer.outcome.value == 7);
  CHECK_FALSE(answer.outcome.shared);
  CHECK(answer.outcome.role == Role::kLeader);
  CHECK(ran_on ==
        asio::post(pool, asio::use_future([] { return std::this_thread::get_id(); })).get());
  AwaitNothingOn(server);
}

TEST_CASE("fleet AsyncDo: without an executor of its own, fn runs where the handler does") {
  const RedisServer server;
  Numbers numbers(server);
  asio::io_context io;
  std::thread::id ran_on;
  Answer answer;
  AsyncDo(
      numbers, "k",
      [&] {
        ran_on = std::this_thread::get_id();
        return 7;
      },
      Into(answer, io));
  io.run();
  CHECK(answer.outcome.value == 7);
  CHECK(ran_on == std::this_thread::get_id());
}

TEST_CASE("fleet AsyncDo: operations of two processes share the execution of an awaitable fn") {
  const RedisServer server;
  Numbers here(server), there(server);
  asio::io_context io;
  AsyncEvent gate(io);
  const auto load = [&]() -> asio::awaitable<int> {
    co_await gate.Wait();
    co_return 7;
  };
  Answer leads, beside, elsewhere;
  AsyncDo(here, "k", load, Into(leads, io));
  while (gate.waiting == 0) io.run_one();
  AsyncDo(here, "k", MustNotRun, Into(beside, io));
  AsyncDo(there, "k", MustNotRun, Into(elsewhere, io));
  AwaitFollower(server, "k");
  gate.Open();
  io.run();
  CHECK(leads.outcome.role == Role::kLeader);
  for (const Answer* each : {&beside, &elsewhere}) {
    CHECK(each->outcome.value == 7);
    CHECK(each->outcome.role == Role::kFollower);
    CHECK(each->outcome.shared);
  }
  CHECK(there.GetStats().remote == 1);
}

TEST_CASE("fleet AsyncDo: what fn throws reaches the operations of each process") {
  const RedisServer server;
  Numbers here(server), there(server);
  asio::io_context io;
  RedisLeader<Numbers> leader(here, "k", [](const auto&) -> int {
    throw std::system_error(std::make_error_code(std::errc::io_error));
  });
  Answer answer;
  AsyncDo(there, "k", MustNotRun, Into(answer, io));
  AwaitFollower(server, "k");
  CHECK(leader.Finish().error == std::errc::io_error);
  io.run();
  CHECK(answer.outcome.error == std::errc::io_error);
}

TEST_CASE("fleet AsyncDo: an operation that is cancelled leaves, whatever it waits for") {
  RedisServer server;
  Numbers here(server), there(server);
  CHECK(*there.Do("other", Gives(1)) == 1);
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer answer;
  SECTION("for the server") {
    server.Stop();
    AsyncDo(there, "k", MustNotRun, Into(answer, io, signal));
    CHECK(there.Callers("k") == 1);
    signal.emit(asio::cancellation_type::terminal);
    CHECK(there.Callers("k") == 0);
    io.run();  // it need not wait for the server
    server.Continue();
  }
  SECTION("for another process") {
    RedisLeader<Numbers> leader(here, "k", 7);
    AsyncDo(there, "k", MustNotRun, Into(answer, io, signal));
    AwaitFollower(server, "k");
    signal.emit(asio::cancellation_type::terminal);
    CHECK(there.Callers("k") == 0);
    io.run();
    CHECK(leader.Finish().value == 7);
  }
  SECTION("for its own fn, which is asked to stop") {
    AsyncEvent never(io);
    const auto load = [&](StopToken) -> asio::awaitable<int> {
      co_await never.Wait();
      co_return 7;
    };
    AsyncDo(there, "k", load, Into(answer, io, signal));
    while (never.waiting == 0) io.run_one();
    std::promise<int> other;
    JoiningThread asks([&] { other.set_value(*here.Do("k", Gives(8))); });
    AwaitFollower(server, "k");
    signal.emit(asio::cancellation_type::terminal);
    io.run();
    CHECK(other.get_future().get() == 8);
    CHECK(never.waiting == 0);
  }
  CHECK(answer.calls == 1);
  CHECK(answer.aborted);
  Await([&] { return there.GetStats().calls.in_flight == 0; });
}

TEST_CASE(
    "fleet AsyncDo: if the first operation is cancelled before it leads, the next has the work") {
  RedisServer server;
  Numbers numbers(server);
  CHECK(*numbers.Do("other", Gives(1)) == 1);
  server.Stop();
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer leaves, stays;
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return 7;
  };
  AsyncDo(numbers, "k", fn, Into(leaves, io, signal));
  AsyncDo(numbers, "k", fn, Into(stays, io));
  signal.emit(asio::cancellation_type::terminal);
  server.Continue();
  io.run();
  CHECK(leaves.aborted);
  CHECK(stays.outcome.value == 7);
  CHECK(runs == 1);
}

TEST_CASE(
    "fleet AsyncDo: with kRetry operations ask again, once for all, if another process fails") {
  const RedisServer server;
  Numbers here(server), there(server);
  asio::io_context io;
  RedisLeader<Numbers> leader(here, "k",
                              [](const auto&) -> int { throw std::runtime_error("no"); });
  Answer first, second, shares;
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return 7;
  };
  AsyncDo(there, "k", fn, OnFailure::kRetry, Into(first, io));
  AsyncDo(there, "k", fn, OnFailure::kRetry, Into(second, io));
  AsyncDo(there, "k", MustNotRun, Into(shares, io));
  AwaitFollower(server, "k");
  leader.Finish();
  io.run();
  CHECK(first.outcome.value == 7);
  CHECK(second.outcome.value == 7);
  CHECK(shares.outcome.message == "no");
  CHECK(runs == 1);
}

TEST_CASE("fleet AsyncDo: with kRetry an operation whose own fn failed does not run it again") {
  const RedisServer server;
  Numbers numbers(server);
  asio::io_context io;
  std::atomic<int> runs = 0;
  const auto fn = [&]() -> int {
    ++runs;
    throw std::runtime_error("no");
  };
  Answer answer;
  AsyncDo(numbers, "k", fn, OnFailure::kRetry, Into(answer, io));
  io.run();
  CHECK(answer.outcome.message == "no");
  CHECK(runs == 1);
}

TEST_CASE("fleet AsyncDo: a context that is destroyed takes its operations with it") {
  RedisServer server;
  Numbers here(server), there(server);
  CHECK(*there.Do("other", Gives(1)) == 1);
  Answer answer;
  SECTION("while the server is asked") {
    server.Stop();
    {
      asio::io_context io;
      AsyncDo(there, "k", MustNotRun, Into(answer, io));
      CHECK(there.Callers("k") == 1);
    }
    CHECK(there.Callers("k") == 0);
    server.Continue();
  }
  SECTION("while another process leads") {
    RedisLeader<Numbers> leader(here, "k", 7);
    {
      asio::io_context io;
      AsyncDo(there, "k", MustNotRun, OnFailure::kRetry, Into(answer, io));
      AwaitFollower(server, "k");
    }
    CHECK(there.Callers("k") == 0);
    CHECK(leader.Finish().value == 7);
  }
  SECTION("while its fn waits there to be run, and another process then leads") {
    std::optional<Future<int>> other;
    {
      asio::io_context io;
      AsyncDo(there, "k", MustNotRun, Into(answer, io));
      Await([&] { return there.GetStats().executions == 2; });
      other = DoAsync(here, "k", Gives(8));
      AwaitFollower(server, "k");
    }
    CHECK(*other->Get() == 8);
  }
  CHECK(answer.calls == 0);
  Await([&] { return there.GetStats().calls.in_flight == 0; });
}

TEST_CASE(
    "fleet AsyncDo: if the context of fn is gone before it leads, the others get owner_dead") {
  RedisServer server;
  Numbers numbers(server);
  CHECK(*numbers.Do("other", Gives(1)) == 1);
  server.Stop();
  asio::io_context io;
  auto gone = std::make_unique<asio::io_context>();
  Answer answer;
  AsyncDo(numbers, "k", asio::bind_executor(*gone, MustNotRun), Into(answer, io));
  gone = nullptr;
  server.Continue();
  io.run();
  CHECK(answer.outcome.error == std::errc::owner_dead);
  AwaitNothingOn(server);
}

TEST_CASE("fleet AsyncDo: an awaitable operation resumes with the value of another process") {
  const RedisServer server;
  Numbers here(server), there(server);
  asio::io_context io;
  RedisLeader<Numbers> leader(here, "k", 7);
  int got = 0;
  const auto ask = [&]() -> asio::awaitable<void> {
    const auto result = co_await AsyncDo(there, "k", MustNotRun, use_awaitable);
    got = *result;
  };
  Spawn(io, ask());
  io.poll();
  AwaitFollower(server, "k");
  leader.Finish();
  io.run();
  CHECK(got == 7);
}

TEST_CASE("fleet AsyncDo: a timer cancels an operation whose server does not answer") {
  RedisServer server;
  Numbers numbers(server);
  CHECK(*numbers.Do("other", Gives(1)) == 1);
  server.Stop();
  asio::io_context io;
  std::size_t first = 0;
  const auto ask = [&]() -> asio::awaitable<void> {
    asio::steady_timer timer(io, 1ms);
    const auto either = co_await (AsyncDo(numbers, "k", MustNotRun, as_tuple(use_awaitable)) ||
                                  timer.async_wait(use_awaitable));
    first = either.index();
  };
  Spawn(io, ask());
  io.run();
  CHECK(first == 1);
  CHECK(numbers.Callers("k") == 0);
  server.Continue();
  AwaitNothingOn(server);
}

TEST_CASE("fleet AsyncDo: a group that is destroyed cancels the operations that ask and follow") {
  const RedisServer server;
  Numbers here(server);
  auto there = std::make_unique<Numbers>(server);
  asio::io_context io;
  RedisLeader<Numbers> leader(here, "k", 7);
  Answer answer;
  AsyncDo(*there, "k", MustNotRun, Into(answer, io));
  AwaitFollower(server, "k");
  there = nullptr;
  io.run();
  CHECK(answer.outcome.error == std::errc::operation_canceled);
}

TEST_CASE("fleet AsyncDo: fn may be of a type that only moves") {
  const RedisServer server;
  Numbers numbers(server);
  asio::io_context io;
  Answer answer, retrying;
  const auto fn = [] { return [own = std::make_unique<int>(7)] { return *own; }; };
  AsyncDo(numbers, "k", fn(), Into(answer, io));
  AsyncDo(numbers, "k2", fn(), OnFailure::kRetry, Into(retrying, io));
  io.run();
  CHECK(answer.outcome.value == 7);
  CHECK(retrying.outcome.value == 7);
}

TEST_CASE("fleet AsyncDo: limits refuse an operation") {
  const RedisServer server;
  Numbers numbers(server, {.group = {.max_callers_per_call = 1}});
  asio::io_context io;
  HeldCall held(numbers, "k");
  Answer answer;
  AsyncDo(numbers, "k", MustNotRun, Into(answer, io));
  io.run();
  CHECK(answer.outcome.error == std::errc::resource_unavailable_try_again);
}

#endif

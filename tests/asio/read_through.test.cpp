// SPDX-License-Identifier: MIT

// Tests of ReadThrough with AsyncDo.

#include "asio_support.hpp"
#include "cache/fake_cache.hpp"
#include "cache/policy_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

using IntCache = FakeCache<int>;
using Users = singleflight::ReadThrough<std::string, int, IntCache&>;

}  // namespace

ASIO_TEST_CASE("ReadThrough: AsyncDo loads once, with an awaitable, and then the cache answers") {
  IntCache cache;
  Users users(cache);
  asio::io_context io;
  AsyncEvent gate(io);
  int loads = 0;
  int sum = 0;
  const auto load = [&]() -> asio::awaitable<int> {
    ++loads;
    co_await gate.Wait();
    co_return 7;
  };
  const auto caller = [&]() -> asio::awaitable<void> {
    sum += *co_await AsyncDo(users, "key", load, use_awaitable);
  };
  for (int i = 0; i < 100; ++i) Spawn(io, caller());
  io.poll();
  CHECK(users.Callers("key") == 100);
  gate.Open();
  io.restart();
  io.run();
  CHECK(sum == 700);
  CHECK(cache.puts == 1);
  Spawn(io, caller());
  io.restart();
  io.run();
  CHECK(sum == 707);
  CHECK(loads == 1);
  CHECK(users.GetStats().hits == 1);
}

ASIO_TEST_CASE("ReadThrough: a cache hit does not complete the operation inside AsyncDo") {
  IntCache cache;
  cache.Fill("key", 1);
  Users users(cache);
  asio::io_context io;
  Answer answer;
  AsyncDo(users, "key", MustNotRun, Into(answer, io));
  CHECK_FALSE(answer.outcome.value.has_value());
  io.run();
  CHECK(answer.outcome.value == 1);
}

ASIO_TEST_CASE(
    "ReadThrough: a load in AsyncDo that began before Invalidate does not put its value") {
  IntCache cache;
  Users users(cache);
  asio::io_context io;
  Answer answer;
  AsyncDo(
      users, "key", [] { return 1; }, Into(answer, io));
  users.Invalidate("key");
  CHECK(*users.Get("key", [] { return 2; }) == 2);
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(cache.Peek("key") == 2);
}

ASIO_TEST_CASE(
    "ReadThrough: AsyncDo gets an expired value at once, and its executor refreshes it") {
  InVirtualTime<int> users({.ttl = 10ms, .stale_for = 100ms});
  asio::io_context io;
  users.Put("key", 1);
  PolicyClock::Pass(10ms);
  Answer answer;
  AsyncDo(
      users, "key", [] { return 2; }, Into(answer, io));
  CHECK(users.Callers("key") == 1);  // the refresh
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(users.Peek("key") == 2);
}

ASIO_TEST_CASE("ReadThrough: AsyncDo refreshes by an awaitable that its caller does not wait for") {
  InVirtualTime<int> users({.ttl = 10ms, .stale_for = 100ms});
  asio::io_context io;
  AsyncEvent gate(io);
  users.Put("key", 1);
  PolicyClock::Pass(10ms);
  int value = 0;
  const auto load = [&]() -> asio::awaitable<int> {
    co_await gate.Wait();
    co_return 2;
  };
  const auto caller = [&]() -> asio::awaitable<void> {
    value = *co_await AsyncDo(users, "key", load, use_awaitable);
  };
  Spawn(io, caller());
  io.poll();
  CHECK(value == 1);
  CHECK(users.Callers("key") == 1);
  gate.Open();
  io.restart();
  io.run();
  CHECK(users.Peek("key") == 2);
}

ASIO_TEST_CASE("ReadThrough: a load that AsyncDo runs may say how long its value lives") {
  InVirtualTime<int> users({.ttl = 1h});
  asio::io_context io;
  Answer answer;
  AsyncDo(
      users, "key", [] { return singleflight::Cached(1, {.ttl = 10ms}); }, Into(answer, io));
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(users.Peek("key") == 1);
  PolicyClock::Pass(10ms);
  CHECK_FALSE(users.Peek("key").has_value());
}

// SPDX-License-Identifier: MIT

// Tests of AsyncDo with OnFailure::kRetry (promise 17), and of its cancellation. This file is built
// with the standalone Asio and with Boost's.

#include <array>
#include <cstddef>
#include <cstdlib>
#include <deque>
#include <exception>
#include <functional>
#include <new>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "asio_support.hpp"
#include "cache/fake_cache.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

constexpr asio::cancellation_type kTypes[] = {asio::cancellation_type::terminal,
                                              asio::cancellation_type::partial,
                                              asio::cancellation_type::total};

// Calls a function when its call lands. It is notified before those who ask again.
template <class G>
class WhenLanded final : public G::Waiter {
 public:
  WhenLanded(G& group, std::function<void()> then) : then_(std::move(then)) {
    group.Join("key", *this, [](typename G::Lead) {});
  }
  void OnLanded() noexcept override { then_(); }

 private:
  std::function<void()> then_;
};

}  // namespace

ASIO_TEST_CASE("Promise 17: an operation whose leader failed asks again, and its own fn runs") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer retries;
  Answer shares;
  bool landing = false;
  bool ran_inside_landing = false;
  const auto fn = [&] {
    ran_inside_landing = landing;
    return 7;
  };
  AsyncDo(group, "key", fn, OnFailure::kRetry, Into(retries, io));
  AsyncDo(group, "key", MustNotRun, OnFailure::kShare, Into(shares, io));
  landing = true;
  call.Fail();
  landing = false;
  CHECK(group.Callers("key") == 1);
  io.run();
  CHECK_FALSE(ran_inside_landing);
  CHECK(retries.outcome.value == 7);
  CHECK(retries.outcome.role == Role::kLeader);
  CHECK_FALSE(retries.outcome.shared);
  CHECK_FALSE(retries.in_catch_block);
  CHECK(shares.outcome.message == "down");
  CHECK(retries.calls + shares.calls == 2);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2, .failures = 1});
}

ASIO_TEST_CASE("Promise 17: the failure of an operation that leads is final") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  int runs = 0;
  const auto fail = [&]() -> int {
    ++runs;
    throw std::runtime_error("down");
  };
  AsyncDo(group, "key", fail, OnFailure::kRetry, Into(answer, io));
  io.run();
  CHECK(runs == 1);
  CHECK(answer.outcome.message == "down");
  CHECK(group.GetStats() == Stats{.executions = 1, .failures = 1});
}

ASIO_TEST_CASE("Promise 17: an operation does not ask again if its leader succeeds") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer answer;
  AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(answer, io));
  call.Land(1);
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(answer.outcome.role == Role::kFollower);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 1});
}

ASIO_TEST_CASE("Promise 17: operations of several contexts and strands share one second try") {
  IntGroup group;
  asio::io_context contexts[3];
  OpenCall call(group);
  Answer answers[12];
  int runs = 0;
  for (int i = 0; i < 12; ++i) {
    const auto fn = [&runs, i] {
      ++runs;
      return i;
    };
    auto& io = contexts[i % 3];
    if (i % 2 == 0) {
      AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answers[i], io));
    } else {
      const auto strand = asio::make_strand(io);
      AsyncDo(group, "key", asio::bind_executor(strand, fn), OnFailure::kRetry,
              asio::bind_executor(strand, Into(answers[i])));
    }
  }
  CHECK(group.Callers("key") == 13);
  call.Fail();
  CHECK(group.Callers("key") == 12);
  for (auto& io : contexts) io.run();
  CHECK(runs == 1);
  for (const Answer& answer : answers) {
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.value == 0);
    CHECK(answer.outcome.shared);
    CHECK(answer.outcome.role == (&answer == answers ? Role::kLeader : Role::kFollower));
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 23, .failures = 1});
}

ASIO_TEST_CASE("Promise 17: the failure of the second try is final for all operations") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer answers[3];
  int runs = 0;
  const auto fail_again = [&]() -> asio::awaitable<int> {
    ++runs;
    throw std::runtime_error("down again");
    co_return 0;
  };
  for (Answer& answer : answers) {
    AsyncDo(group, "key", fail_again, OnFailure::kRetry, Into(answer, io));
  }
  call.Fail();
  io.run();
  CHECK(runs == 1);
  for (const Answer& answer : answers) {
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.message == "down again");
  }
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 5, .failures = 2});
}

ASIO_TEST_CASE("Promise 17: an operation and a thread in Do share one second try") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer answer;
  std::atomic<int> runs = 0;
  const auto fn = [&] {
    ++runs;
    return 7;
  };
  AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
  Caller thread([&] { return group.Do("key", fn, {.on_failure = OnFailure::kRetry}); });
  AwaitCallers(group, "key", 3);
  call.Fail();
  io.run();
  CHECK(thread.Join().value == 7);
  CHECK(answer.outcome.value == 7);
  CHECK(runs == 1);
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 1});
}

ASIO_TEST_CASE("Promise 17: every completion token can ask again") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  int runs = 0;
  const auto fn = asio::bind_executor(io, [&] { return ++runs; });
  const auto awaitable = [&]() -> asio::awaitable<int> { co_return ++runs; };
  std::optional<int> awaited[2];
  const auto caller = [&]() -> asio::awaitable<void> {
    awaited[0] = *co_await AsyncDo(group, "key", awaitable, OnFailure::kRetry, use_awaitable);
  };
  const auto tuple_caller = [&]() -> asio::awaitable<void> {
    const auto [error, result] =
        co_await AsyncDo(group, "key", fn, OnFailure::kRetry, as_tuple(use_awaitable));
    if (error == nullptr) awaited[1] = *result;
  };
  Spawn(io, caller());
  Spawn(io, tuple_caller());
  auto future = AsyncDo(group, "key", fn, OnFailure::kRetry, asio::use_future);
  Answer lazy;
  auto operation = AsyncDo(group, std::string("key"), fn, OnFailure::kRetry, deferred);
  CHECK(group.Callers("key") == 2);
  std::move(operation)(Into(lazy, io));
  io.poll();
  CHECK(group.Callers("key") == 5);
  call.Fail();
  CHECK(group.Callers("key") == 4);
  io.run();
  CHECK(runs == 1);
  CHECK(awaited[0] == 1);
  CHECK(awaited[1] == 1);
  CHECK(*future.get() == 1);
  CHECK(lazy.outcome.value == 1);
}

ASIO_TEST_CASE("Promise 17: fn of a second try runs where it is bound, and the handler elsewhere") {
  IntGroup group;
  asio::io_context io;
  asio::thread_pool pool(1);
  OpenCall call(group);
  Answer answer;
  std::thread::id pool_thread;
  std::thread::id ran_on;
  asio::post(pool, [&] { pool_thread = std::this_thread::get_id(); });
  const auto fn = asio::bind_executor(pool, [&] {
    ran_on = std::this_thread::get_id();
    return 7;
  });
  AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
  call.Fail();
  io.run();
  pool.join();
  CHECK(ran_on == pool_thread);
  CHECK(answer.on == std::this_thread::get_id());
  CHECK(answer.outcome.value == 7);
}

ASIO_TEST_CASE("Promise 17: outstanding work is counted where fn is bound while it may yet run") {
  IntGroup group;
  asio::io_context io;
  asio::io_context fn_io;
  Answer answer;
  const auto fn = asio::bind_executor(fn_io, [] { return 7; });
  const auto finished = [&] {
    fn_io.restart();
    fn_io.poll();
    return fn_io.stopped();
  };
  {
    OpenCall call(group);
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
    CHECK_FALSE(finished());
    call.Fail();
  }
  fn_io.run();
  CHECK(answer.calls == 0);
  CHECK(finished());  // although the handler has not run
  io.run();
  CHECK(answer.outcome.value == 7);

  asio::cancellation_signal signal;
  io.restart();
  {
    OpenCall call(group);
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io, signal));
    signal.emit(asio::cancellation_type::terminal);
    CHECK(finished());
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
    CHECK_FALSE(finished());
    call.Land(1);
    CHECK(finished());
  }
  io.run();
  CHECK(answer.calls == 3);
}

ASIO_TEST_CASE("Promise 17: a context that was stopped runs the second try once it is restarted") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer answer;
  AsyncDo(
      group, "key", [] { return 7; }, OnFailure::kRetry, Into(answer, io));
  io.stop();
  call.Fail();
  CHECK(io.run() == 0);
  CHECK(group.Callers("key") == 1);
  io.restart();
  io.run();
  CHECK(answer.outcome.value == 7);
}

// ---- Cancellation

ASIO_TEST_CASE("Promise 10: an operation that is cancelled during the first call has no second") {
  for (const auto type : kTypes) {
    IntGroup group;
    asio::io_context io;
    asio::cancellation_signal signal;
    OpenCall call(group);
    Answer leaves;
    Answer stays;
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(leaves, io, signal));
    AsyncDo(
        group, "key", [] { return 7; }, OnFailure::kRetry, Into(stays, io));
    signal.emit(type);
    CHECK(group.Callers("key") == 2);
    io.poll();
    CHECK(leaves.aborted);
    call.Fail();
    CHECK(group.Callers("key") == 1);
    io.run();
    CHECK(leaves.calls == 1);
    CHECK(stays.outcome.value == 7);
    CHECK_FALSE(stays.outcome.shared);
    CHECK(group.GetStats() == Stats{.executions = 2, .followers = 2, .failures = 1, .left = 1});
  }
}

ASIO_TEST_CASE("Promise 10: an operation that is cancelled after the failure does not ask again") {
  for (const auto type : kTypes) {
    IntGroup group;
    asio::io_context io;
    asio::cancellation_signal signal;
    OpenCall call(group);
    Answer leaves;
    Answer stays;
    const WhenLanded cancels(group, [&] {
      signal.emit(type);
      signal.emit(type);
    });
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(leaves, io, signal));
    AsyncDo(
        group, "key", [] { return 7; }, OnFailure::kRetry, Into(stays, io));
    call.Fail();
    CHECK(group.Callers("key") == 1);
    io.run();
    CHECK(leaves.calls == 1);
    CHECK(leaves.aborted);
    CHECK(stays.outcome.value == 7);
    CHECK_FALSE(stays.outcome.shared);
    CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 1});
  }
}

ASIO_TEST_CASE("Promise 10: an operation leaves its second try when it is cancelled") {
  for (const auto type : kTypes) {
    IntGroup group;
    asio::io_context io;
    AsyncEvent gate(io);
    asio::cancellation_signal signals[2];
    OpenCall call(group);
    Answer answers[3];
    const auto load = [&]() -> asio::awaitable<int> {
      co_await gate.Wait();
      co_return 7;
    };
    AsyncDo(group, "key", load, OnFailure::kRetry, Into(answers[0], io, signals[0]));  // leads then
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(answers[1], io, signals[1]));
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(answers[2], io));
    call.Fail();
    io.poll();
    CHECK(gate.waiting == 1);
    for (auto& signal : signals) signal.emit(type);
    CHECK(group.Callers("key") == 1);
    io.poll();
    CHECK(answers[0].aborted);
    CHECK(answers[1].aborted);
    gate.Open();
    io.run();
    CHECK(answers[2].outcome.value == 7);
    CHECK_FALSE(answers[2].outcome.shared);
    for (const Answer& answer : answers) CHECK(answer.calls == 1);
  }
}

ASIO_TEST_CASE("Promise 11: the last operation to leave a second try asks its work to stop") {
  IntGroup group;
  asio::io_context io;
  AsyncEvent gate(io);
  asio::cancellation_signal signals[2];
  OpenCall call(group);
  Answer answers[2];
  bool stopped = false;
  const auto load = [&](test::StopToken stop) -> asio::awaitable<int> {
    try {
      co_await gate.Wait();
    } catch (const SystemError&) {
      stopped = stop.stop_requested();
      throw;
    }
    co_return 7;
  };
  for (int i = 0; i < 2; ++i) {
    AsyncDo(group, "key", load, OnFailure::kRetry, Into(answers[i], io, signals[i]));
  }
  call.Fail();
  io.poll();
  for (auto& signal : signals) signal.emit(asio::cancellation_type::terminal);
  CHECK(group.Callers("key") == 0);
  io.run();
  CHECK(stopped);
  for (const Answer& answer : answers) CHECK(answer.aborted);
}

ASIO_TEST_CASE("Promise 10: an operation that is cancelled while it asks again leaves at once") {
  FakeCache<int> cache;
  singleflight::ReadThrough<std::string, int, FakeCache<int>&> cached(cache);
  asio::io_context io;
  asio::cancellation_signal signal;
  Answer leaves;
  Answer stays;
  int runs = 0;
  const auto fn = [&] { return ++runs; };
  const auto fail = []() -> int { throw std::runtime_error("down"); };
  AsyncDo(cached, "key", asio::bind_executor(io, fail), [](const std::exception_ptr&, auto) {});
  AsyncDo(cached, "key", fn, OnFailure::kRetry, Into(leaves, io, signal));
  SECTION("and the work is done, because others may want it") {
    AsyncDo(cached, "key", MustNotRun, OnFailure::kRetry, Into(stays, io));
    // The leader of the second try looks in the cache, on the thread that asks again.
    cache.before_get = [&] { signal.emit(asio::cancellation_type::terminal); };
    io.run();
    CHECK(leaves.aborted);
    CHECK(runs == 1);
    CHECK(stays.outcome.value == 1);
  }
  SECTION("unless it has its answer by then") {
    cache.before_get = [&] {
      cache.Fill("key", 8);
      signal.emit(asio::cancellation_type::terminal);
    };
    io.run();
    CHECK(runs == 0);
    CHECK(leaves.outcome.value == 8);
  }
  CHECK(leaves.calls == 1);
}

ASIO_TEST_CASE("Promise 17: a second try that lands at once serves all operations") {
  FakeCache<int> cache;
  singleflight::ReadThrough<std::string, int, FakeCache<int>&> cached(cache);
  asio::io_context io;
  std::array<Answer, 3> answers;
  const auto fail = []() -> int { throw std::runtime_error("down"); };
  AsyncDo(cached, "key", asio::bind_executor(io, fail), [](const std::exception_ptr&, auto) {});
  for (Answer& answer : answers) {
    AsyncDo(cached, "key", MustNotRun, OnFailure::kRetry, Into(answer, io));
  }
  cache.before_get = [&] { cache.Fill("key", 8); };
  io.run();
  for (const Answer& answer : answers) {
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.value == 8);
  }
  CHECK(cached.GetStats().loads == 1);
}

ASIO_TEST_CASE("Promise 10: a cancellation that races with a failure gives one answer") {
  constexpr int kRounds = 1000;
  IntGroup group;
  std::size_t aborted = 0;
  std::size_t answered = 0;
  std::size_t others = 0;
  for (int round = 0; round < kRounds; ++round) {
    asio::io_context io;
    asio::thread_pool pool(1);
    asio::cancellation_signal signal;
    Answer answer;
    Answer other;
    OpenCall call(group);
    const auto fn = asio::bind_executor(pool, [] { return 7; });
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io, signal));
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(other, io));
    RunConcurrently([&] { call.Fail(); },
                    [&] {
                      asio::post(io, [&] { signal.emit(asio::cancellation_type::terminal); });
                      io.run();
                    });
    aborted += answer.aborted;
    answered += answer.outcome.value == 7;
    others += answer.calls == 1 && other.calls == 1 && other.outcome.value == 7;
  }
  CHECK(aborted + answered == kRounds);
  CHECK(others == kRounds);
  CHECK(group.Callers("key") == 0);
  CHECK(group.GetStats().in_flight == 0);
}

// ---- Limits, memory and cost

ASIO_TEST_CASE("Promise 12: an operation that may not ask again gets the refusal") {
  IntGroup group({.max_calls_in_flight = 1});
  asio::io_context io;
  std::optional<Lead> lead;
  SilentWaiter other;
  {
    OpenCall call(group);
    Answer answer;
    const WhenLanded takes_place(
        group, [&] { group.Join("other", other, [&](Lead made) { lead = std::move(made); }); });
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(answer, io));
    call.Fail();
    CHECK(group.Callers("key") == 0);
    io.run();
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.error == std::errc::resource_unavailable_try_again);
  }
  lead->Succeed(1);
  CHECK(group.GetStats().refused == 1);
}

namespace {

// Memory of a handler. It never fails, and its bytes are counted.
inline std::size_t handler_bytes = 0;
template <class T>
struct HandlerMemory {
  using value_type = T;
  HandlerMemory() = default;
  template <class U>
  // NOLINTNEXTLINE(google-explicit-constructor): an allocator converts implicitly
  HandlerMemory(const HandlerMemory<U>&) noexcept {}
  bool operator==(const HandlerMemory&) const = default;
  T* allocate(std::size_t count) const {
    handler_bytes += count * sizeof(T);
    return static_cast<T*>(std::malloc(count * sizeof(T)));
  }
  void deallocate(T* memory, std::size_t) const { std::free(memory); }
};

}  // namespace

ASIO_TEST_CASE(
    "Promise 7: whichever allocation of a second try fails, an operation gets an answer") {
  int failures = 0;
  for (std::size_t allocation = 0;; ++allocation) {
    IntGroup group;
    asio::io_context io;
    OpenCall call(group);
    Answer answers[2];
    const auto fn = [] { return 7; };
    for (Answer& answer : answers) {
      AsyncDo(group, "key", fn, OnFailure::kRetry,
              asio::bind_allocator(HandlerMemory<char>(), Into(answer, io)));
    }
    std::optional<FailAllocations> fail(allocation);
    call.Fail();
    fail.reset();
    io.run();
    int served = 0;
    for (const Answer& answer : answers) {
      CHECK(answer.calls == 1);
      served += answer.outcome.value == 7;
      CHECK((answer.outcome.value == 7) != (answer.outcome.message == std::bad_alloc().what()));
    }
    CHECK(group.GetStats().in_flight == 0);
    CHECK(group.Callers("key") == 0);
    if (served == 2) break;
    ++failures;
  }
  CHECK(failures > 1);
}

ASIO_TEST_CASE("An operation with OnFailure::kShare is no larger than one without OnFailure") {
  IntGroup group;
  asio::io_context io;
  OpenCall call(group);
  Answer answer;
  const auto handler = [&] {
    return asio::bind_allocator(HandlerMemory<char>(), Into(answer, io));
  };
  const auto cost_of = [&](auto ask) {
    const std::size_t bytes = handler_bytes;
    const std::size_t before = allocations;
    ask();
    return std::pair(handler_bytes - bytes, allocations - before);
  };
  AsyncDo(group, "key", MustNotRun, handler());  // makes what the context keeps
  const auto plain = cost_of([&] { AsyncDo(group, "key", MustNotRun, handler()); });
  const auto shares =
      cost_of([&] { AsyncDo(group, "key", MustNotRun, OnFailure::kShare, handler()); });
  const auto fn = [] { return 7; };
  const auto retries = cost_of([&] { AsyncDo(group, "key", fn, OnFailure::kRetry, handler()); });
  CHECK(plain == shares);
  CHECK(retries.first > plain.first);
  CHECK(retries.second == plain.second);  // short keys need no memory
  call.Fail();
  io.run();
  CHECK(answer.calls == 4);
}

ASIO_TEST_CASE("AsyncDo: a key that is expensive to copy is kept once, and moved") {
  struct Key {
    explicit Key(int its_id) : id(its_id) {}
    Key(const Key& other) : id(other.id) { ++Copies(); }
    Key(Key&& other) noexcept : id(other.id) {}
    bool operator==(const Key& other) const { return id == other.id; }
    static int& Copies() {
      static int copies = 0;
      return copies;
    }
    int id;
  };
  struct HashOfKey {
    std::size_t operator()(const Key& key) const { return static_cast<std::size_t>(key.id); }
  };
  Group<Key, int, HashOfKey, std::equal_to<Key>> group;
  asio::io_context io;
  const Key key(1);
  Answer answers[2];
  const auto fail = []() -> int { throw std::runtime_error("down"); };
  AsyncDo(group, key, fail, Into(answers[0], io));
  CHECK(Key::Copies() == 2);  // the operation's, and the call's
  AsyncDo(
      group, key, [] { return 7; }, OnFailure::kRetry, Into(answers[1], io));
  CHECK(Key::Copies() == 3);  // the operation's
  io.run();
  CHECK(answers[1].outcome.value == 7);
  CHECK(Key::Copies() == 4);  // the second call's
}

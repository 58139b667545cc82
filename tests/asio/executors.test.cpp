// SPDX-License-Identifier: MIT

// Tests of AsyncDo: executors of every kind, also those that hide what they are. This file is built
// with the standalone Asio and with Boost's.

#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include "asio_support.hpp"
#include "cache/fake_cache.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

using Signature = void(std::exception_ptr, Result<int>);

// A minimal executor for an event loop. It runs a function at once if it is called on the loop's
// thread, and it can neither be told to post, nor asked for its context.
struct MinimalExecutor {
  asio::io_context* loop;
  template <class Function>
  void execute(Function function) const {
    asio::dispatch(*loop, [function = std::move(function)]() mutable { function(); });
  }
  bool operator==(const MinimalExecutor&) const noexcept = default;
};

// The same, but it reveals its context.
struct LoopExecutor {
  asio::io_context* loop;
  asio::execution_context& query(asio::execution::context_t) const noexcept { return *loop; }
  template <class Function>
  void execute(Function function) const {
    asio::dispatch(*loop, [function = std::move(function)]() mutable { function(); });
  }
  bool operator==(const LoopExecutor&) const noexcept = default;
};

// One that always posts, and says so.
struct PostingExecutor {
  asio::io_context* loop;
  static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) noexcept {
    return asio::execution::blocking.never;
  }
  template <class Function>
  void execute(Function function) const {
    asio::post(*loop, [function = std::move(function)]() mutable { function(); });
  }
  bool operator==(const PostingExecutor&) const noexcept = default;
};

// Calls `test(bind)` for each kind of handler whose executor cannot post: `bind(io, handler)` makes
// one that runs on `io`.
template <class Test>
void ForEachThatCannotPost(Test&& test) {
  {
    INFO("a minimal executor");
    test([](asio::io_context& io, auto handler) {
      return asio::bind_executor(MinimalExecutor{&io}, std::move(handler));
    });
  }
  {
    INFO("a minimal executor that reveals its context");
    test([](asio::io_context& io, auto handler) {
      return asio::bind_executor(LoopExecutor{&io}, std::move(handler));
    });
  }
#if defined(TEST_ANY_COMPLETION_HANDLER)
  {
    INFO("any_completion_handler");
    test([](asio::io_context& io, auto handler) {
      return asio::any_completion_handler<Signature>(asio::bind_executor(io, std::move(handler)));
    });
  }
#endif
}

}  // namespace

// ---- Handlers whose executor cannot post

ASIO_TEST_CASE(
    "a handler whose executor cannot post is called there, and fn runs where it is bound") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context io;
    Answer answers[3];
    std::thread::id fn_on;
    const auto plain = [&] {
      fn_on = std::this_thread::get_id();
      return 1;
    };
    const auto awaitable = []() -> asio::awaitable<int> { co_return 2; };
    AsyncDo(group, "plain", asio::bind_executor(io, plain), bind(io, Into(answers[0])));
    AsyncDo(group, "plain", asio::bind_executor(io, MustNotRun), bind(io, Into(answers[1])));
    AsyncDo(group, "awaitable", asio::bind_executor(io, awaitable), bind(io, Into(answers[2])));
    for (const Answer& answer : answers) CHECK(answer.calls == 0);
    io.run();
    CHECK(fn_on == std::this_thread::get_id());
    for (const Answer& answer : answers) {
      CHECK(answer.calls == 1);
      CHECK(answer.on == std::this_thread::get_id());
    }
    CHECK(answers[0].outcome.value == 1);
    CHECK(answers[1].outcome.value == 1);
    CHECK(answers[1].outcome.role == Role::kFollower);
    CHECK(answers[2].outcome.value == 2);
  });
}

ASIO_TEST_CASE(
    "a handler whose executor cannot post runs neither inside AsyncDo nor inside landing") {
  ForEachThatCannotPost([](auto bind) {
    FakeCache<int> cache;
    cache.Fill("key", 1);
    singleflight::ReadThrough<std::string, int, FakeCache<int>&> cached(cache);
    IntGroup group({.max_callers_per_call = 2});
    asio::io_context io;
    asio::cancellation_signal signal;
    bool inside = false;
    int runs = 0;
    int runs_inside = 0;
    const auto count = [&](const std::exception_ptr&, const Result<int>&) {
      ++runs;
      runs_inside += inside;
    };
    const auto fn = asio::bind_executor(io, [&] {
      runs_inside += inside;
      return 1;
    });
    asio::post(io, [&] {  // here the handler's executor would run it at once
      inside = true;
      OpenCall call(group);
      AsyncDo(group, "key", fn, bind(io, count));
      AsyncDo(group, "key", fn, bind(io, count));  // a limit refuses it
      AsyncDo(cached, "key", fn, bind(io, count));
      AsyncDo(group, "another", fn, bind(io, count));
      AsyncDo(group, "another", fn, bind(io, asio::bind_cancellation_slot(signal.slot(), count)));
      signal.emit(asio::cancellation_type::terminal);
      call.Land(1);
      inside = false;
    });
    io.run();
    CHECK(runs == 5);
    CHECK(runs_inside == 0);
  });
}

ASIO_TEST_CASE("a handler whose executor cannot post is cancelled through its slot") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context io;
    asio::cancellation_signal signal;
    Answer answer;
    HeldCall leader(group, "key");
    AsyncDo(group, "key", asio::bind_executor(io, MustNotRun),
            bind(io, asio::bind_cancellation_slot(signal.slot(), Into(answer))));
    CHECK(group.Callers("key") == 2);
    signal.emit(asio::cancellation_type::terminal);
    CHECK(group.Callers("key") == 1);
    io.run();
    CHECK(answer.calls == 1);
    CHECK(answer.aborted);
  });
}

ASIO_TEST_CASE(
    "outstanding work is counted where fn is bound, if the handler's executor cannot post") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context io;
    asio::io_context fn_io;
    Answer answer;
    HeldCall leader(group, "key");
    AsyncDo(group, "key", asio::bind_executor(fn_io, MustNotRun), bind(io, Into(answer)));
    fn_io.poll();
    CHECK_FALSE(fn_io.stopped());
    leader.Finish();
    fn_io.run();
    io.run();
    CHECK(answer.outcome.value == 1);
  });
}

ASIO_TEST_CASE("Promise 17: an operation whose handler's executor cannot post asks again") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context io;
    asio::cancellation_signal signals[2];
    Answer answers[3];
    OpenCall call(group);
    const auto fn = asio::bind_executor(io, [] { return 7; });
    AsyncDo(group, "key", fn, OnFailure::kRetry,
            bind(io, asio::bind_cancellation_slot(signals[0].slot(), Into(answers[0]))));
    AsyncDo(group, "key", fn, OnFailure::kRetry,
            bind(io, asio::bind_cancellation_slot(signals[1].slot(), Into(answers[1]))));
    AsyncDo(group, "key", fn, OnFailure::kRetry, bind(io, Into(answers[2])));
    signals[0].emit(asio::cancellation_type::total);
    call.Fail();
    CHECK(group.Callers("key") == 2);
    signals[1].emit(asio::cancellation_type::total);
    CHECK(group.Callers("key") == 1);
    io.run();
    CHECK(answers[0].aborted);
    CHECK(answers[1].aborted);
    CHECK(answers[2].outcome.value == 7);
    for (const Answer& answer : answers) CHECK(answer.calls == 1);
    CHECK(group.GetStats() == Stats{.executions = 2, .followers = 4, .failures = 1, .left = 2});
  });
}

// ---- Contexts that are destroyed

ASIO_TEST_CASE(
    "Promise 14: a context that ends before the call lands is not used any more, "
    "although the handler's executor cannot post") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    HeldCall leader(group, "key");
    const auto alive = std::make_shared<int>(0);
    int told = 0;
    {
      asio::io_context io;
      const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) {
        ++told;
      };
      AsyncDo(group, "key", asio::bind_executor(io, MustNotRun), bind(io, handler));
      CHECK(group.Callers("key") == 2);
    }
    CHECK(alive.use_count() == 1);
    CHECK(group.Callers("key") == 1);
    CHECK_FALSE(leader.Finish().shared);
    CHECK(told == 0);
  });
}

ASIO_TEST_CASE(
    "Promise 14: a context that ends before its work has run lands the calls, "
    "although the handlers' executors cannot post") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context others;
    Answer other;
    const auto alive = std::make_shared<int>(0);
    int told = 0;
    {
      asio::io_context io;
      const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) {
        ++told;
      };
      const auto fn = [alive] { return *alive; };
      AsyncDo(group, "key", asio::bind_executor(io, fn), bind(io, handler));
      AsyncDo(group, "key", MustNotRun, Into(other, others));
    }
    CHECK(alive.use_count() == 1);
    CHECK(told == 0);
    others.run();
    CHECK(other.outcome.error == std::errc::owner_dead);
  });
}

ASIO_TEST_CASE(
    "Promise 14: a context may end while a call lands whose handler's executor cannot post") {
  ForEachThatCannotPost([](auto bind) {
    for (int round = 0; round < 500; ++round) {
      IntGroup group;
      OpenCall call(group);
      const auto alive = std::make_shared<int>(0);
      int told = 0;
      auto io = std::make_unique<asio::io_context>(1);
      AsyncDo(group, "key", asio::bind_executor(*io, MustNotRun),
              bind(*io, [alive, &told](const std::exception_ptr&, const Result<int>&) { ++told; }));
      RunConcurrently([&] { call.Land(1); }, [&] { io.reset(); });
      CHECK(told == 0);
      CHECK(alive.use_count() == 1);
    }
  });
}

ASIO_TEST_CASE(
    "Promise 14: a context may end while operations ask again whose handlers' executors cannot "
    "post") {
  ForEachThatCannotPost([](auto bind) {
    for (int round = 0; round < 200; ++round) {
      IntGroup group;
      OpenCall call(group);
      const auto alive = std::make_shared<int>(0);
      int told = 0;
      auto io = std::make_unique<asio::io_context>(1);
      for (int i = 0; i < 2; ++i) {
        const auto handler = [alive, &told](const std::exception_ptr&, const Result<int>&) {
          ++told;
        };
        AsyncDo(group, "key", asio::bind_executor(*io, [alive] { return *alive; }),
                OnFailure::kRetry, bind(*io, handler));
      }
      RunConcurrently([&] { call.Fail(); }, [&] { io.reset(); });
      CHECK(told == 0);
      CHECK(alive.use_count() == 1);
      CHECK(group.Callers("key") == 0);
    }
  });
}

// ---- Executors that can post

ASIO_TEST_CASE("any_io_executor serves as the executor of fn and of the handler") {
  IntGroup group;
  asio::io_context io;
  const asio::any_io_executor any = io.get_executor();
  const asio::any_io_executor strand = asio::make_strand(io);
  Answer answers[3];
  const auto awaitable = []() -> asio::awaitable<int> { co_return 2; };
  AsyncDo(
      group, "plain", [] { return 1; }, asio::bind_executor(any, Into(answers[0])));
  AsyncDo(group, "awaitable", awaitable, asio::bind_executor(strand, Into(answers[1])));
  AsyncDo(group, "bound", asio::bind_executor(any, awaitable), Into(answers[2]));
  io.run();
  CHECK(answers[0].outcome.value == 1);
  CHECK(answers[1].outcome.value == 2);
  CHECK(answers[2].outcome.value == 2);
  for (const Answer& answer : answers) CHECK(answer.on == std::this_thread::get_id());
}

ASIO_TEST_CASE("an executor of one's own that only posts serves as that of fn and of the handler") {
  IntGroup group;
  asio::io_context io;
  Answer answer;
  AsyncDo(
      group, "key", [] { return 1; }, asio::bind_executor(PostingExecutor{&io}, Into(answer)));
  CHECK(answer.calls == 0);
  io.run();
  CHECK(answer.outcome.value == 1);
  CHECK(answer.on == std::this_thread::get_id());
}

ASIO_TEST_CASE("an executor of one's own that only posts serves a handler whose own cannot") {
  ForEachThatCannotPost([](auto bind) {
    IntGroup group;
    asio::io_context io;
    Answer answer;
    AsyncDo(group, "key", asio::bind_executor(PostingExecutor{&io}, [] { return 1; }),
            bind(io, Into(answer)));
    io.run();
    CHECK(answer.outcome.value == 1);
    CHECK(answer.on == std::this_thread::get_id());
  });
}

// ---- An operation that is hidden in a .cpp file

#if defined(TEST_ANY_COMPLETION_HANDLER)

namespace {

void LoadImpl(asio::any_completion_handler<Signature> handler, asio::any_io_executor executor,
              IntGroup& group, int number) {
  AsyncDo(group, "key", asio::bind_executor(executor, [number] { return number; }),
          std::move(handler));
}

template <class Token>
auto AsyncLoad(const asio::any_io_executor& executor, IntGroup& group, int number, Token&& token) {
  return asio::async_initiate<Token, Signature>(
      [executor, &group, number](auto handler) {
        LoadImpl(std::move(handler), executor, group, number);
      },
      token);
}

}  // namespace

ASIO_TEST_CASE("an AsyncDo that any_completion_handler hides serves every completion token") {
  IntGroup group;
  asio::io_context io;
  const asio::any_io_executor executor = io.get_executor();
  std::optional<int> awaited;
  const auto caller = [&]() -> asio::awaitable<void> {
    awaited = *co_await AsyncLoad(executor, group, 1, use_awaitable);
  };
  Spawn(io, caller());
  Answer answers[3];
  AsyncLoad(executor, group, 1, Into(answers[0]));
  AsyncLoad(executor, group, 1, Into(answers[1], io));
  auto lazy = AsyncLoad(executor, group, 1, deferred);
  std::move(lazy)(asio::bind_executor(asio::make_strand(io), Into(answers[2])));
  auto future = AsyncLoad(executor, group, 1, asio::use_future);
  io.run();
  CHECK(awaited == 1);
  for (const Answer& answer : answers) {
    CHECK(answer.outcome.value == 1);
    CHECK(answer.on == std::this_thread::get_id());
  }
  CHECK(*future.get() == 1);
  CHECK(group.GetStats().executions == 1);
  CHECK(group.GetStats().followers == 4);
}

#endif

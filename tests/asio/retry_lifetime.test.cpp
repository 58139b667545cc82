// SPDX-License-Identifier: MIT

// Tests of AsyncDo with OnFailure::kRetry: contexts and groups that are destroyed before the second
// try has landed (promise 14). This file is built with the standalone Asio and with Boost's.

#include <array>
#include <functional>
#include <memory>
#include <optional>
#include <utility>

#include "asio_support.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace {

// Calls a function when its call lands. It is notified before those who ask again.
class WhenLanded final : public IntGroup::Waiter {
 public:
  WhenLanded(IntGroup& group, std::function<void()> then) : then_(std::move(then)) {
    group.Join("key", *this, [](Lead) {});
  }
  void OnLanded() noexcept override { then_(); }

 private:
  std::function<void()> then_;
};

// A handler that counts its calls, and that shares in the ownership of `alive`.
auto Counting(int& told, const std::shared_ptr<int>& alive) {
  return [&told, alive](const std::exception_ptr&, const Result<int>&) { ++told; };
}

int Seven() { return 7; }

// A call's work that waits until its context is destroyed.
auto WaitForEver() {
  return []() -> asio::awaitable<int> {
    asio::steady_timer timer(co_await asio::this_coro::executor, 1h);
    co_await timer.async_wait(use_awaitable);
    co_return -1;
  };
}

}  // namespace

// ---- The operation's own context

ASIO_TEST_CASE("Promise 14: an operation whose context is destroyed before has no second try") {
  IntGroup group;
  asio::io_context others;
  Answer other;
  const auto alive = std::make_shared<int>(0);
  int told = 0;
  auto io = std::make_unique<asio::io_context>();
  OpenCall call(group);
  std::optional<WhenLanded> between;
  const auto ask = [&] {
    const auto strand = asio::make_strand(*io);
    const auto fn = [alive] { return *alive; };
    AsyncDo(group, "key", fn, OnFailure::kRetry, asio::bind_executor(*io, Counting(told, alive)));
    AsyncDo(group, "key", asio::bind_executor(others, fn), OnFailure::kRetry,
            asio::bind_executor(strand, Counting(told, alive)));
    AsyncDo(group, "key", Seven, OnFailure::kRetry, Into(other, others));
  };
  SECTION("before the call fails") {
    ask();
    io.reset();
    CHECK(group.Callers("key") == 2);
    CHECK(alive.use_count() == 1);
  }
  SECTION("after the call has failed and before the operation asks again") {
    between.emplace(group, [&] { io.reset(); });
    ask();
  }
  call.Fail();
  CHECK(alive.use_count() == 1);
  CHECK(group.Callers("key") == 1);
  others.run();
  CHECK(other.outcome.value == 7);
  CHECK_FALSE(other.outcome.shared);
  CHECK(told == 0);
  CHECK(group.GetStats().executions == 2);
}

ASIO_TEST_CASE("Promise 14: an operation leaves its second try when its context is destroyed") {
  IntGroup group;
  asio::io_context others;
  Answer other;
  const auto alive = std::make_shared<int>(0);
  int told = 0;
  auto io = std::make_unique<asio::io_context>();
  OpenCall call(group);
  const auto fn = [alive] { return 7; };
  SECTION("and it follows") {
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(other, others));
    AsyncDo(group, "key", fn, OnFailure::kRetry, asio::bind_executor(*io, Counting(told, alive)));
  }
  SECTION("and it leads, elsewhere") {
    AsyncDo(group, "key", asio::bind_executor(others, fn), OnFailure::kRetry,
            asio::bind_executor(*io, Counting(told, alive)));
    AsyncDo(group, "key", fn, OnFailure::kRetry, Into(other, others));
  }
  call.Fail();
  CHECK(group.Callers("key") == 2);
  io.reset();
  CHECK(group.Callers("key") == 1);
  others.run();
  CHECK(told == 0);
  CHECK(other.outcome.value == 7);
  CHECK_FALSE(other.outcome.shared);
  CHECK(alive.use_count() == 2);  // `fn`
}

ASIO_TEST_CASE("Promise 14: a second try lands when the context that leads it is destroyed") {
  IntGroup group;
  asio::io_context others;
  Answer other;
  const auto alive = std::make_shared<int>(0);
  int told = 0;
  OpenCall call(group);
  {
    asio::io_context io;
    AsyncDo(group, "key", WaitForEver(), OnFailure::kRetry,
            asio::bind_executor(io, Counting(told, alive)));
    AsyncDo(group, "key", MustNotRun, OnFailure::kRetry, Into(other, others));
    call.Fail();
    io.poll();
    CHECK(group.Callers("key") == 2);
  }
  others.run();
  CHECK(told == 0);
  CHECK(alive.use_count() == 1);
  CHECK(other.outcome.error == std::errc::owner_dead);  // which is final
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 3, .failures = 2, .left = 1});
}

ASIO_TEST_CASE("Promise 14: a context may be destroyed while its operations ask again") {
  constexpr int kRounds = 500;
  IntGroup group;
  int told = 0;
  int leaked = 0;
  int served = 0;
  for (int round = 0; round < kRounds; ++round) {
    asio::io_context others;
    Answer other;
    const auto alive = std::make_shared<int>(0);
    auto io = std::make_unique<asio::io_context>();
    OpenCall call(group);
    {
      const auto strand = asio::make_strand(*io);
      const auto fn = [alive] { return *alive; };
      AsyncDo(group, "key", fn, OnFailure::kRetry, asio::bind_executor(*io, Counting(told, alive)));
      AsyncDo(group, "key", asio::bind_executor(others, fn), OnFailure::kRetry,
              asio::bind_executor(strand, Counting(told, alive)));
      AsyncDo(group, "key", WaitForEver(), OnFailure::kRetry,
              asio::bind_executor(strand, Counting(told, alive)));
      AsyncDo(group, "key", Seven, OnFailure::kRetry, Into(other, others));
    }
    RunConcurrently([&] { call.Fail(); }, [&] { io.reset(); });
    others.run();
    leaked += alive.use_count() != 1;
    served += other.calls == 1 &&
              (other.outcome.value.has_value() || other.outcome.error == std::errc::owner_dead);
  }
  CHECK(told == 0);
  CHECK(leaked == 0);
  CHECK(served == kRounds);
  CHECK(group.Callers("key") == 0);
}

// ---- The context that fn is bound to

ASIO_TEST_CASE("Promise 14: an operation gets the failure if the context of its fn is destroyed") {
  IntGroup group;
  asio::io_context io;
  Answer answers[3];
  const auto alive = std::make_shared<int>(0);
  auto fn_io = std::make_unique<asio::io_context>();
  OpenCall call(group);
  std::optional<WhenLanded> between;
  const auto ask = [&] {
    const auto fn = [alive] { return MustNotRun(); };
    AsyncDo(group, "key", asio::bind_executor(*fn_io, fn), OnFailure::kRetry, Into(answers[0], io));
    AsyncDo(group, "key", asio::bind_executor(asio::make_strand(*fn_io), fn), OnFailure::kRetry,
            Into(answers[1], io));
    AsyncDo(group, "key", Seven, OnFailure::kRetry, Into(answers[2], io));
  };
  SECTION("before the call fails") {
    ask();
    fn_io.reset();
    CHECK(group.Callers("key") == 4);
  }
  SECTION("after the call has failed and before the operation asks again") {
    between.emplace(group, [&] { fn_io.reset(); });
    ask();
  }
  call.Fail();
  CHECK(group.Callers("key") == 1);
  CHECK(alive.use_count() == 1);
  io.run();
  CHECK(answers[0].outcome.message == "down");
  CHECK(answers[1].outcome.message == "down");
  CHECK(answers[2].outcome.value == 7);
  CHECK_FALSE(answers[2].outcome.shared);
  for (const Answer& answer : answers) CHECK(answer.calls == 1);
}

ASIO_TEST_CASE("Promise 14: an operation may complete after the context of its fn") {
  IntGroup group;
  asio::io_context io;
  Answer answers[2];
  {
    asio::io_context fn_io;
    OpenCall call(group);
    for (Answer& answer : answers) {
      const auto fn = asio::bind_executor(asio::make_strand(fn_io), Seven);
      AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
    }
    SECTION("if the first call lands with a value") { call.Land(7); }
    SECTION("if the second try lands") {
      call.Fail();
      fn_io.run();
    }
  }
  io.run();
  for (const Answer& answer : answers) CHECK(answer.outcome.value == 7);
}

ASIO_TEST_CASE(
    "Promise 14: operations get owner_dead if the context of all their work is destroyed") {
  IntGroup group;
  asio::io_context io;
  Answer answers[4];
  {
    asio::io_context leads;
    for (Answer& answer : answers) {
      AsyncDo(group, "key", asio::bind_executor(leads, WaitForEver()), OnFailure::kRetry,
              Into(answer, io));
    }
    leads.poll();
    CHECK(group.Callers("key") == 4);
  }
  io.run();
  for (const Answer& answer : answers) {
    CHECK(answer.calls == 1);
    CHECK(answer.outcome.error == std::errc::owner_dead);
  }
  CHECK(group.GetStats().executions <= 2);
}

ASIO_TEST_CASE("Promise 14: the context of fn may be destroyed while an operation asks again") {
  constexpr int kRounds = 500;
  IntGroup group;
  int answered = 0;
  for (int round = 0; round < kRounds; ++round) {
    asio::io_context io;
    std::array<Answer, 3> answers;
    auto fn_io = std::make_unique<asio::io_context>();
    OpenCall call(group);
    for (Answer& answer : answers) {
      const auto fn = asio::bind_executor(asio::make_strand(*fn_io), Seven);
      AsyncDo(group, "key", fn, OnFailure::kRetry, Into(answer, io));
    }
    RunConcurrently([&] { call.Fail(); }, [&] { fn_io.reset(); });
    io.run();
    for (const Answer& answer : answers) {
      answered += answer.calls == 1 && (answer.outcome.message == "down" ||
                                        answer.outcome.error == std::errc::owner_dead);
    }
  }
  CHECK(answered == 3 * kRounds);
  CHECK(group.Callers("key") == 0);
}

// ---- The group

ASIO_TEST_CASE("Promise 14: the destructor waits for operations that ask again") {
  constexpr int kRounds = 300;
  int answered = 0;
  for (int round = 0; round < kRounds; ++round) {
    asio::io_context io;
    asio::thread_pool pool(1);
    Answer answers[2];
    auto group = std::make_unique<IntGroup>();
    OpenCall call(*group);
    for (Answer& answer : answers) {
      AsyncDo(*group, "key", asio::bind_executor(pool, Seven), OnFailure::kRetry, Into(answer, io));
    }
    RunConcurrently([&] { call.Fail(); }, [&] { group.reset(); });
    io.run();
    for (const Answer& answer : answers) answered += answer.outcome.value == 7;
  }
  CHECK(answered == 2 * kRounds);
}

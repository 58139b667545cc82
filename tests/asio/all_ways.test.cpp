// SPDX-License-Identifier: MIT

// A blocked thread, a Future, a coroutine, an Asio operation and a batch are callers of one call.

#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>
#include <singleflight/asio.hpp>
#include <span>

#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::AsyncDo;
using singleflight::CoDo;
using singleflight::DoAsync;
using singleflight::DoMany;
using singleflight::Future;
using singleflight::Group;
using singleflight::Result;
using singleflight::Stats;

namespace {

using IntGroup = Group<int, int>;

constexpr auto kMustNotRun = []() -> int { throw std::logic_error("this fn must not run"); };
constexpr auto kMustNotSubmit = [](auto) { FAIL("no task may be submitted"); };

// One caller of each kind, all on the call for key 1. Each has its own way to leave.
class Callers {
 public:
  explicit Callers(IntGroup& group)
      : thread_([this, &group] {
          return group.Do(1, kMustNotRun, {.stop = thread_stop_.get_token()});
        }),
        batch_([this, &group] {
          auto results = DoMany(group, {1},
                                [](std::span<const int>) -> std::vector<int> {
                                  throw std::logic_error("this fn must not run");
                                },
                                {.stop = batch_stop_.get_token()});
          return std::move(results[0]).result();
        }),
        future_(DoAsync(group, 1, kMustNotRun, kMustNotSubmit)),
        coroutine_(Ask(group)) {
    AsyncDo(group, 1, kMustNotRun,
            asio::bind_cancellation_slot(
                operation_stop_.slot(),
                asio::bind_executor(io_, [this](std::exception_ptr error, Result<int> result) {
                  operation_ = Keep([&]() -> Result<int> {
                    if (error != nullptr) std::rethrow_exception(error);
                    return std::move(result);
                  });
                })));
    AwaitCallers(group, 1, 6);  // these five and the leader are on it
  }

  void StopThread() { thread_stop_.request_stop(); }
  void StopBatch() { batch_stop_.request_stop(); }
  void StopFuture() { future_ = {}; }
  void StopCoroutine() { coroutine_stop_.request_stop(); }
  void StopOperation() { operation_stop_.emit(asio::cancellation_type::terminal); }

  // Returns the outcomes of all these callers, except for a Future that was dropped.
  std::vector<Outcome<int>> Join() {
    io_.run();
    std::vector<Outcome<int>> outcomes{thread_.Join(), batch_.Join(), coroutine_outcome_,
                                       operation_};
    if (future_.valid()) outcomes.push_back(Keep([this] { return future_.Get(); }));
    return outcomes;
  }

 private:
  Routine Ask(IntGroup& group) {
    std::optional<Result<int>> result;
    std::exception_ptr error;
    try {
      result = co_await CoDo(group, 1, kMustNotRun, coroutine_stop_.get_token());
    } catch (...) {
      error = std::current_exception();
    }
    coroutine_outcome_ = Keep([&]() -> Result<int> {
      if (error != nullptr) std::rethrow_exception(error);
      return std::move(*result);
    });
  }

  asio::io_context io_;
  StopSource thread_stop_;
  StopSource batch_stop_;
  StopSource coroutine_stop_;
  asio::cancellation_signal operation_stop_;
  Outcome<int> coroutine_outcome_;
  Outcome<int> operation_;
  Caller<int> thread_;
  Caller<int> batch_;
  Future<int> future_;
  Routine coroutine_;
};

}  // namespace

TEST_CASE("Promise 1: callers of every kind share one execution") {
  IntGroup group;
  int runs = 0;
  std::function<void()> task;
  auto leader = DoAsync(
      group, 1, [&] { return ++runs; }, [&](auto submitted) { task = submitted; });
  Callers callers(group);
  task();
  const auto outcomes = callers.Join();
  CHECK(outcomes.size() == 5);
  for (const auto& outcome : outcomes) {
    CHECK(outcome.value == 1);
    CHECK(outcome.shared);
  }
  CHECK(*leader.Get() == 1);
  CHECK(runs == 1);
  CHECK(group.GetStats() == Stats{.executions = 1, .followers = 5});
}

TEST_CASE("Promise 5: a failure reaches callers of every kind") {
  IntGroup group;
  std::function<void()> task;
  auto leader = DoAsync(
      group, 1, []() -> int { throw std::runtime_error("down"); },
      [&](auto submitted) { task = submitted; });
  Callers callers(group);
  task();
  for (const auto& outcome : callers.Join()) {
    CHECK(outcome.message == "down");
  }
  CHECK_THROWS_WITH(static_cast<void>(leader.Get()), "down");
}

TEST_CASE(
    "Promises 10 and 11: each kind of caller leaves on its own, and the last stops the work") {
  IntGroup group;
  StopToken stop;
  std::function<void()> task;
  auto leader = DoAsync(
      group, 1,
      [&](StopToken token) {
        stop = std::move(token);
        return stop.stop_requested() ? 2 : 1;
      },
      [&](auto submitted) { task = submitted; });
  Callers callers(group);
  leader = {};
  AwaitCallers(group, 1, 5);
  callers.StopThread();
  AwaitCallers(group, 1, 4);
  callers.StopFuture();
  AwaitCallers(group, 1, 3);
  callers.StopCoroutine();
  AwaitCallers(group, 1, 2);
  callers.StopOperation();
  AwaitCallers(group, 1, 1);
  callers.StopBatch();
  AwaitCallers(group, 1, 0);
  for (const auto& outcome : callers.Join()) {
    CHECK(outcome.error == std::errc::operation_canceled);  // Asio's operation_aborted equals it
  }
  CHECK(*group.Do(1, [] { return 3; }) == 3);  // a newcomer starts a new call
  task();
  CHECK(stop.stop_requested());
  CHECK(group.GetStats() == Stats{.executions = 2, .followers = 5, .left = 6});
}

// SPDX-License-Identifier: MIT
#pragma once

// Helpers for the tests of AsyncDo. They work with the standalone Asio and with Boost's.

#if defined(TEST_BOOST_ASIO)
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/bind_allocator.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/experimental/parallel_group.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/use_future.hpp>
#if __has_include(<boost/asio/any_completion_handler.hpp>)
#include <boost/asio/any_completion_handler.hpp>
#define TEST_ANY_COMPLETION_HANDLER
#endif
#if __has_include(<boost/asio/cancel_after.hpp>)
#include <boost/asio/cancel_after.hpp>
#define TEST_CANCEL_AFTER
#endif
#if __has_include(<boost/asio/as_tuple.hpp>)
#include <boost/asio/as_tuple.hpp>
#else
#include <boost/asio/experimental/as_tuple.hpp>
#define ASIO_AS_TUPLE_IS_EXPERIMENTAL
#endif
#if __has_include(<boost/asio/deferred.hpp>)
#include <boost/asio/deferred.hpp>
#else
#include <boost/asio/experimental/deferred.hpp>
#define ASIO_DEFERRED_IS_EXPERIMENTAL
#endif
#include <singleflight/boost_asio.hpp>
#else
#include <asio/any_io_executor.hpp>
#include <asio/bind_allocator.hpp>
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <asio/dispatch.hpp>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/experimental/parallel_group.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/strand.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/use_future.hpp>
#if __has_include(<asio/any_completion_handler.hpp>)
#include <asio/any_completion_handler.hpp>
#define TEST_ANY_COMPLETION_HANDLER
#endif
#if __has_include(<asio/cancel_after.hpp>)
#include <asio/cancel_after.hpp>
#define TEST_CANCEL_AFTER
#endif
#if __has_include(<asio/as_tuple.hpp>)
#include <asio/as_tuple.hpp>
#else
#include <asio/experimental/as_tuple.hpp>
#define ASIO_AS_TUPLE_IS_EXPERIMENTAL
#endif
#if __has_include(<asio/deferred.hpp>)
#include <asio/deferred.hpp>
#else
#include <asio/experimental/deferred.hpp>
#define ASIO_DEFERRED_IS_EXPERIMENTAL
#endif
#include <singleflight/asio.hpp>
#endif

#include <atomic>
#include <latch>
#include <memory>
#include <stdexcept>
#include <thread>
#include <variant>

#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

#if defined(TEST_BOOST_ASIO)
#define ASIO_TEST_CASE(name) TEST_CASE("Boost.Asio: " name)
#else
#define ASIO_TEST_CASE(name) TEST_CASE("Asio: " name)
#endif

using namespace test;
using singleflight::AsyncDo;
using singleflight::Group;
using singleflight::OnFailure;
using singleflight::Result;
using singleflight::Role;
using singleflight::Stats;

namespace {

#if defined(TEST_BOOST_ASIO)
namespace asio = boost::asio;
using ErrorCode = boost::system::error_code;
using SystemError = boost::system::system_error;
#else
using ErrorCode = asio::error_code;
using SystemError = asio::system_error;
#endif
using asio::use_awaitable;
#if defined(ASIO_AS_TUPLE_IS_EXPERIMENTAL)
using asio::experimental::as_tuple;
#else
using asio::as_tuple;
#endif
#if defined(ASIO_DEFERRED_IS_EXPERIMENTAL)
using asio::experimental::deferred;
#else
using asio::deferred;
#endif
using namespace asio::experimental::awaitable_operators;

using IntGroup = Group<std::string, int>;
using Lead = IntGroup::Lead;

bool IsAborted(const std::exception_ptr& error) {
  try {
    if (error != nullptr) std::rethrow_exception(error);
  } catch (const SystemError& e) {
    return e.code() == asio::error::operation_aborted;
  } catch (...) {
  }
  return false;
}

// Records what a handler received.
struct Answer {
  void Tell(const std::exception_ptr& error, const Result<int>& result) {
    ++calls;
    on = std::this_thread::get_id();
    in_catch_block = std::current_exception() != nullptr;
    aborted = IsAborted(error);
    outcome = Keep([&] {
      if (error != nullptr) std::rethrow_exception(error);
      return result;
    });
  }
  int calls = 0;
  std::thread::id on;
  bool in_catch_block = false;
  bool aborted = false;
  Outcome<int> outcome;
};

[[maybe_unused]] auto Into(Answer& answer) {
  return [&answer](const std::exception_ptr& error, const Result<int>& result) {
    answer.Tell(error, result);
  };
}

// Makes a handler that runs on the context `on`, with a cancellation slot if `signal` is given.
template <class Context>
auto Into(Answer& answer, Context& on) {
  return asio::bind_executor(on, Into(answer));
}
template <class Context>
auto Into(Answer& answer, Context& on, asio::cancellation_signal& signal) {
  return asio::bind_cancellation_slot(signal.slot(), Into(answer, on));
}

int MustNotRun() {
  FAIL("this fn must not run");
  return -1;
}

// An awaitable fn waits here until Open, on a context that the main thread runs.
class AsyncEvent {
 public:
  explicit AsyncEvent(asio::io_context& io) : timer_(io, asio::steady_timer::time_point::max()) {}

  asio::awaitable<void> Wait() {
    ++waiting;
    ErrorCode error;
    co_await timer_.async_wait(asio::redirect_error(use_awaitable, error));
    --waiting;
    if (!open_) throw SystemError(error);
  }
  void Open() {
    open_ = true;
    timer_.cancel();
  }

  std::atomic<int> waiting = 0;

 private:
  bool open_ = false;
  asio::steady_timer timer_;
};

// Runs a coroutine on `executor`. What the coroutine throws comes out of the context's run.
template <class Executor>
void Spawn(Executor&& executor, asio::awaitable<void> coroutine) {
  asio::co_spawn(std::forward<Executor>(executor), std::move(coroutine),
                 [](const std::exception_ptr& error) {
                   if (error != nullptr) std::rethrow_exception(error);
                 });
}

struct SilentWaiter final : IntGroup::Waiter {
  void OnLanded() noexcept override {}
};

// A call for "key" that the test lands when it likes.
class OpenCall {
 public:
  explicit OpenCall(IntGroup& group) {
    group.Join("key", waiter_, [this](Lead lead) { lead_ = std::move(lead); });
  }
  ~OpenCall() { waiter_.Detach(); }
  void Land(int value) { lead_->Succeed(value); }
  void Fail() { lead_->Fail(down_); }

 private:
  const std::exception_ptr down_ = std::make_exception_ptr(std::runtime_error("down"));
  SilentWaiter waiter_;
  std::optional<Lead> lead_;
};

// Runs `a` and `b` at the same time, on two threads.
template <class A, class B>
void RunConcurrently(A&& a, B&& b) {
  std::atomic<int> ready = 0;
  JoiningThread other([&] {
    ++ready;
    Await([&] { return ready == 2; });
    a();
  });
  ++ready;
  Await([&] { return ready == 2; });
  b();
}

}  // namespace

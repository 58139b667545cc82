// SPDX-License-Identifier: MIT
#pragma once

// AsyncDo: waits for a call as an Asio operation, with any completion token.
//
//   asio::awaitable<User> LoadUser(int id);
//
//   asio::awaitable<void> Handle(Request request) {
//     const auto load = [id = request.id] { return LoadUser(id); };
//     const auto user = co_await AsyncDo(users, request.id, load, asio::use_awaitable);
//     co_await Respond(request, *user);
//   }
//
// It joins the same calls as Do, and blocks no thread. It has no timeout, because any operation can
// be cancelled, without an effect on the call's other callers. So combine it with a timer:
//
//   using namespace asio::experimental::awaitable_operators;
//   co_await (AsyncDo(users, id, load, use_awaitable) || timer.async_wait(use_awaitable))
//
// Warning: `||` waits for the first operation that succeeds. If the call fails, it still waits for
// the timer. In a newer Asio, cancel_after(50ms, token) is a timeout that lets failures through.
//
// Uses the standalone Asio if it is found, and otherwise Boost's. Define SINGLEFLIGHT_BOOST_ASIO to
// use Boost's even if both are there. A program may use both, each in files of its own. If your
// Asio does not detect coroutines under Clang, define ASIO_HAS_CO_AWAIT and ASIO_HAS_STD_COROUTINE
// (for Boost, with the prefix BOOST_). Without them there are no awaitables, and the rest works.
//
// Lifetime: the group must outlive the calls, and ~Group waits for them, so something must still
//   run their work. If one thread runs the io_context and destroys the group, declare the group
//   before the io_context. The io_context is then destroyed first, and lands the calls that are led
//   on it. An operation whose own context is destroyed is destroyed with it, as everywhere in Asio:
//   its handler is not called. While one thread destroys the group, no other may cancel an
//   operation or destroy a context.
//
// Warning: do not wait in Do on the only thread that runs the context. If the call is led there, it
// waits for itself, and that is not detected.
//
// Warning: GCC 12 and 13 destroy some temporaries in a co_await expression twice, which corrupts
// the heap. Before you await, name a lambda that captures by value, and a key that is an aggregate,
// even one in braces. This applies to your own co_await expressions, too.

#include <atomic>
#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "detail/asio/context.hpp"
#include "detail/asio/work.hpp"
#include "detail/call.hpp"
#include "detail/group_like.hpp"
#include "group.hpp"
#include "result.hpp"

namespace singleflight {

namespace detail {
inline namespace SINGLEFLIGHT_ASIO_FLAVOR {

// ---- The caller

// An AsyncDo in progress. It owns itself until it is passed to its executor as a Completion.
//
// Asio's rules forbid a cancellation while the operation starts or its handler runs: a slot is used
// on the handler's executor, which runs one function at a time. So Cancel races with neither Join
// nor TakeResult. It may race with OnLanded.
template <class G, class Handler, class Executor>
class AsyncDoOperation final : public G::Waiter, private ContextService::User {
  using Value = typename G::ValueType;

 public:
  template <class H>
  AsyncDoOperation(H&& handler, const Executor& executor)
      : handler_(std::forward<H>(handler)),
        work_(executor),
        context_(ContextService::Of(executor)) {}
  ~AsyncDoOperation() noexcept override = default;  // even if the handler's may throw

  // Once `self` has joined, the call may land and destroy the operation at any moment.
  template <class Launch>
  static void Start(std::shared_ptr<AsyncDoOperation> self, G& group,
                    const typename G::KeyType& key, Launch&& launch) {
    AsyncDoOperation& op = *self;
    auto slot = net::get_associated_cancellation_slot(op.handler_);
    if (slot.is_connected()) {
      slot.assign([&op](net::cancellation_type_t type) {
        if (type != net::cancellation_type::none) op.Cancel();
      });
    }
    op.self_ = std::move(self);
    const bool shut_down = op.context_ != nullptr && !op.context_->Add(op);
    if (!shut_down) {
      try {
        group.Join(key, op, std::forward<Launch>(launch));
        return;
      } catch (...) {
        op.error_ = std::current_exception();
      }
    }
    if (slot.is_connected()) slot.clear();
    if (shut_down) return op.self_.reset();
    op.Complete();
  }

 private:
  // The executor receives this. If it is destroyed before it has run, so is the operation.
  class Completion {
   public:
    using allocator_type = net::associated_allocator_t<Handler>;

    explicit Completion(std::shared_ptr<AsyncDoOperation> op) noexcept : op_(std::move(op)) {}

    allocator_type get_allocator() const noexcept {
      return net::get_associated_allocator(op_->handler_);
    }

    void operator()() {
      auto slot = net::get_associated_cancellation_slot(op_->handler_);
      if (slot.is_connected()) slot.clear();
      std::exception_ptr error;
      Result<Value> result = op_->Take(error);
      Handler handler(std::move(op_->handler_));
      const net::executor_work_guard<Executor> work(std::move(op_->work_));
      op_.reset();  // the handler may use the memory again
      std::move(handler)(std::move(error), std::move(result));
    }

   private:
    std::shared_ptr<AsyncDoOperation> op_;
  };

  // Terminates if there is no memory to post the completion: there is nobody left to report it to.
  void OnLanded() noexcept override { Complete(); }

  void Cancel() noexcept {
    if (!this->Leave()) return;  // it has landed
    try {
      error_ = std::make_exception_ptr(NetSystemError(net::error::operation_aborted));
    } catch (...) {  // no memory for its text
      error_ = std::current_exception();
    }
    Complete();
  }

  // Nothing may access this object afterwards. The handler is called neither inside AsyncDo nor by
  // the thread that lands the call. If its executor might do so, the completion takes a detour
  // through one of Asio's own threads.
  void Complete() {
    if constexpr (kCanPost<Executor>) {
      HandOver([](const Executor& executor, Completion&& completion) {
        net::post(executor, std::move(completion));
      });
    } else {
      completing_ = true;
      net::post(net::system_executor(), [this] {
        HandOver([](const Executor& executor, Completion&& completion) {
          net::dispatch(executor, std::move(completion));
        });
      });
    }
  }

  template <class Give>
  void HandOver(Give&& give) {
    const auto use = [&] {
      const Executor executor = work_.get_executor();
      give(executor, Completion(std::move(self_)));
    };
    if (context_ != nullptr) {
      context_->UseLast(*this, use);
    } else {
      use();
    }
  }

  void OnShutdown() noexcept override {
    if (!this->Detach() || completing_) context_->WaitUntilTooLate(*this);
    self_.reset();
  }

  Result<Value> Take(std::exception_ptr& error) {
    error = std::move(error_);
    if (error == nullptr) {
      try {
        return this->TakeResult();
      } catch (...) {
        error = std::current_exception();
      }
    }
    return ResultFactory::Empty<Value>(Role::kFollower);
  }

  Handler handler_;
  net::executor_work_guard<Executor> work_;
  ContextService* const context_;
  std::shared_ptr<AsyncDoOperation> self_;
  std::exception_ptr error_;              // why there is no result, unless the call failed
  std::atomic<bool> completing_ = false;  // true: on the detour described at Complete
};

// ---- Starting the operation, which a lazy token does later

template <class G>
struct InitiateAsyncDo {
  using executor_type = net::system_executor;  // for tokens that add to an operation: cancel_after
  executor_type get_executor() const noexcept { return {}; }

  G* group;

  template <class Handler, class Fn>
  void operator()(Handler&& handler, typename G::KeyType key, Fn fn) const {
    const auto fallback = detail::ExecutorOf(fn, net::system_executor());
    const auto executor = detail::ExecutorOf(handler, fallback);
    const auto fn_executor = detail::ExecutorOf(fn, executor);
    using Op = AsyncDoOperation<G, std::decay_t<Handler>, std::remove_const_t<decltype(executor)>>;
    const auto allocator = net::get_associated_allocator(handler);
    using Allocator = typename std::allocator_traits<
        std::remove_const_t<decltype(allocator)>>::template rebind_alloc<Op>;
    auto op =
        std::allocate_shared<Op>(Allocator(allocator), std::forward<Handler>(handler), executor);
    Op::Start(std::move(op), *group, key, [&](typename G::Lead lead) {
      detail::LaunchWork<G>(std::move(lead), std::move(fn), fn_executor);
    });
  }
};

}  // namespace SINGLEFLIGHT_ASIO_FLAVOR
}  // namespace detail

inline namespace SINGLEFLIGHT_ASIO_FLAVOR {

// Joins the call in flight for `key`. If there is none, makes one, whose work is `fn()`, or
// `fn(std::stop_token)` if it accepts that. `fn` returns what converts to Value, or an
// asio::awaitable of it. (A coroutine must take the token by value.) `key` is a Key, what converts
// to one, or for a string key anything that converts to a string_view. The operation keeps copies
// of `key` and `fn`, so a lazy token may start it later.
//
// Completion: the signature is void(std::exception_ptr, Result<Value>). Tokens turn the first into
//   an exception. The handler is called once, through its associated executor, and never
//   inside AsyncDo. Outstanding work is counted on that executor until then, and memory comes from
//   the handler's associated allocator. If the exception_ptr is set, the Result must not be read.
// Thread: `fn` never runs inside AsyncDo, and a follower's `fn` never runs. A plain `fn` is posted
//   to the executor bound to it, or else to the handler's. If it blocks, bind it to a thread pool:
//   bind_executor(pool, fn). An awaitable `fn` runs there as a coroutine, in a strand. If its type
//   names an executor that cannot be a strand, it runs without one, and that executor must run one
//   function at a time. A handler without an executor completes on that of `fn`. If neither has
//   one, both use Asio's system_executor, whose threads are Asio's own. use_future's handler is on
//   those threads, too. No awaitable can run there, so bind it elsewhere.
// Leaving: a cancellation of any type, through the handler's associated slot, makes this caller
//   leave. The call continues for the others. Emit it where the handler would run, which must run
//   one function at a time: a strand, if there are several threads. When the last caller leaves, or
//   ~Group waits, the work is asked to stop: by its std::stop_token, and an awaitable `fn` also by
//   a terminal cancellation of its coroutine.
// Errors: the exception_ptr is one of
//     what `fn` threw, unchanged
//     operation_aborted, as a system_error of Asio: this caller was cancelled
//     `resource_unavailable_try_again`, as a std::system_error: a limit refused this caller
//     `owner_dead`, likewise: the work was destroyed, for example because its context was
//     what making the call threw.
//   AsyncDo itself throws std::out_of_range for a number that the Key type cannot represent, and
//   what copying `key` or `fn` throws. It throws std::bad_alloc if there is no memory even to
//   notify the handler. Asio terminates the program if there is no memory to post a handler, or if
//   starting an operation in a coroutine throws.
// Lifetime: no caller owns the work, so `fn` must own what it needs.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn, class Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, Token&& token) {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  detail::CheckKept<Fn>();
  detail::CheckNetFn<Value, Kept>();
  return detail::net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(
      detail::InitiateAsyncDo<G>{&group}, token, detail::CopyKey<G>(key),
      Kept(std::forward<Fn>(fn)));
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = typename B::KeyType, class Token>
auto AsyncDo(B& batcher, const K& key, Token&& token) {
  return singleflight::AsyncDo(batcher.AsGroup(), key, detail::kUnusedFn<typename B::ValueType>,
                               std::forward<Token>(token));
}

}  // namespace SINGLEFLIGHT_ASIO_FLAVOR

}  // namespace singleflight

#undef SINGLEFLIGHT_ASIO_FLAVOR
#undef SINGLEFLIGHT_ASIO_HAS_CO_AWAIT

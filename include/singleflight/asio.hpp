// SPDX-License-Identifier: MIT
#pragma once

// AsyncDo: waits for a call as an Asio operation does, with whatever completion token you like.
//
//   asio::awaitable<User> LoadUser(int id);
//
//   asio::awaitable<void> Handle(Request request) {
//     const auto load = [id = request.id] { return LoadUser(id); };
//     const auto user = co_await AsyncDo(users, request.id, load, asio::use_awaitable);
//     co_await Respond(request, *user);
//   }
//
// A caller in AsyncDo is a caller of the same call as those in Do, and blocks no thread. It can be
// cancelled alone, as any operation can; so there is no timeout here, but
//
//   using namespace asio::experimental::awaitable_operators;
//   co_await (AsyncDo(users, id, load, use_awaitable) || timer.async_wait(use_awaitable))
//
// (`||` waits for the first that succeeds: if the call fails, for the timer. In a newer Asio,
// cancel_after(50ms, token) is a timeout that lets failures through.)
//
// Asio: the standalone one where it is found, else Boost's, which SINGLEFLIGHT_BOOST_ASIO asks for.
// A program may use both, each in files of its own. Clang needs -DASIO_HAS_CO_AWAIT
// -DASIO_HAS_STD_COROUTINE (for Boost with BOOST_ before them) where its Asio does not see that
// there are coroutines; without, there are no awaitables, and the rest works.
//
// Lifetime. The group must outlive the calls, and ~Group waits for them; so something must still
// run what leads them. If the thread that destroys the group is the one that runs the io_context,
// declare the group before the io_context: this then ends first, and the calls that are led on it
// with it. An operation that is pending when its own context ends is destroyed, as everywhere in
// Asio: its handler is not called. While a thread destroys the group, no other may cancel an
// operation or end a context.
//
// Do not wait in Do on the only thread that runs the context: if the call is led there, that waits
// for itself, and is not found out.
//
// GCC 12 and 13 destroy some temporaries of a co_await expression twice: name a lambda that
// captures by value, or a key that is an aggregate (in braces, too), before you await.

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

// One AsyncDo that has begun. It owns itself until it is handed to its executor as a Completion.
//
// Asio lets nobody emit a cancellation while the operation begins or its handler runs: a slot is
// used on the handler's executor, which is to run one function at a time. So Cancel meets neither
// Join nor TakeResult; it may meet OnLanded.
template <class G, class Handler, class Executor>
class AsyncDoOperation final : public G::Waiter, private ContextService::User {
  using Value = typename G::ValueType;

 public:
  template <class H>
  AsyncDoOperation(H&& handler, const Executor& executor)
      : handler_(std::forward<H>(handler)),
        work_(executor),
        context_(ContextService::Of(executor)) {}

  // Once `self` has joined, the call may land and the operation end at any moment.
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
    const bool ended = op.context_ != nullptr && !op.context_->Add(op);
    if (!ended) {
      try {
        group.Join(key, op, std::forward<Launch>(launch));
        return;
      } catch (...) {
        op.error_ = std::current_exception();
      }
    }
    if (slot.is_connected()) slot.clear();
    if (ended) return op.self_.reset();
    op.Complete();
  }

 private:
  // What the executor gets. If it is destroyed without having been run, so is the operation.
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

  // Terminates if there is no memory for a task: nobody is left who could be told. So does a
  // request to stop that cannot be passed on.
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

  // The last touch. A handler is called neither inside AsyncDo nor by the thread that lands the
  // call; where its executor might do so, the way to it is through a thread of Asio's own.
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
    if (!this->Detach() || completing_) context_->AwaitTooLate(*this);
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
  std::exception_ptr error_;              // why there is no result, if it is not the call's
  std::atomic<bool> completing_ = false;  // on its way through a thread of Asio's own
};

// ---- The operation's beginning, which a lazy token puts off

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

// Joins the call in flight for `key`; if there is none, makes one. Its work is `fn()`, or
// `fn(std::stop_token)` where it takes that, which returns what converts to Value, or an
// asio::awaitable of it (a coroutine must take the token by value). `fn` is never run inside
// AsyncDo, and a follower's not at all.
//
// The signature is void(std::exception_ptr, Result<Value>): `fn` throws whatever it likes, and
// tokens make an exception of an exception_ptr. The handler is called once, through its associated
// executor and never inside AsyncDo; outstanding work is counted there until then, and memory comes
// from its associated allocator. If the exception is set, the Result must not be looked at. It is
//   what `fn` threw, unchanged
//   operation_aborted, as a system_error of Asio: this caller was cancelled
//   `resource_unavailable_try_again`, as a std::system_error: a limit refused this caller
//   `owner_dead`, likewise: the work was dropped, say because its context ended
//   what making the call threw.
//
// Where. A plain `fn` is posted to the executor that is bound to it, else to the handler's; where
// it blocks, bind it to a thread pool: bind_executor(pool, fn). An awaitable `fn` runs there as a
// coroutine, in a strand; if its type names an executor that no strand can be, then without one,
// and what it names must run one function at a time. A handler without an executor completes on
// that of `fn`; if neither has one, on Asio's system_executor, whose threads are Asio's own.
// use_future's handler is on those threads too, and no awaitable can be: bind it elsewhere.
//
// Leaving. A cancellation of any type, through the handler's associated slot, makes this caller
// leave; the call goes on for the others. Emit it where the handler would run, and let that run one
// function at a time: a strand, if there are several threads. When the last caller leaves, or
// ~Group waits, the work is asked to stop: by its std::stop_token, and an awaitable `fn` by a
// terminal cancellation of its coroutine as well. The work belongs to no caller: it must not refer
// to what ends with one.
//
// `key` may be a Key, what converts to one, or for a string key what a string_view can be made of.
// The operation keeps it, and `fn`, copied or moved; so a lazy token may begin later. A number that
// is no value of the Key's type throws std::out_of_range at once, and std::bad_alloc is thrown
// where there is no memory even to tell the handler. Asio terminates where there is none to post a
// handler, or where what begins an operation in a coroutine throws: an allocation, or the key or
// `fn` as it is copied.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn, class Token>
auto AsyncDo(G& group, const K& key, Fn&& fn, Token&& token) {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  static_assert(std::constructible_from<Kept, Fn>,
                "the call keeps fn: pass one that can be copied, or std::move it");
  detail::CheckNetFn<Value, Kept>();
  return detail::net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(
      detail::InitiateAsyncDo<G>{&group}, token, detail::CopyKey<G>(key),
      Kept(std::forward<Fn>(fn)));
}

}  // namespace SINGLEFLIGHT_ASIO_FLAVOR

}  // namespace singleflight

#undef SINGLEFLIGHT_ASIO_FLAVOR
#undef SINGLEFLIGHT_ASIO_HAS_CO_AWAIT

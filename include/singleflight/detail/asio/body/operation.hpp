// SPDX-License-Identifier: MIT

// An AsyncDo in progress. One that may ask again is in operation_twice.hpp.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "../../../listener.hpp"
#include "../../../result.hpp"
#include "../../../stop_token.hpp"
#include "../../call.hpp"
#include "../../function_ref.hpp"
#include "../../outcome.hpp"
#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

struct NoWorkGuard {
  template <class Executor>
  explicit NoWorkGuard(const Executor&) noexcept {}
};

// The part of a caller that does not depend on `fn`, so it is compiled once. It owns itself until
// it is passed to an executor as a Completion.
//
// The completion is posted to the handler's executor. If that cannot post, the completion is posted
// to the executor of `fn`, which can, and dispatched from there. This is what Asio's own operations
// do, with the executor of their I/O object. Either way it belongs to the context that it is posted
// to, and to no other.
//
// Asio's rules forbid a cancellation while the operation starts or its handler runs: a slot is used
// on the handler's executor, which runs one function at a time. So Cancel races with neither Join
// nor TakeResult. It may race with OnLanded.
template <class G, class Handler, class Executor, class FnExecutor>
class AsyncDoCaller : public G::Waiter, private ContextUsers::User {
  using Value = typename G::ValueType;

 protected:
  template <class H>
  AsyncDoCaller(H&& handler, const Executor& executor, const FnExecutor& fn_executor)
      : handler_(std::forward<H>(handler)),
        work_(executor),
        work_on_the_way_(fn_executor),
        context_users_(ContextService::UsersOf(PostsTo())) {}
  ~AsyncDoCaller() noexcept override = default;  // even if the handler's may throw

  // Joins by `join()`. From then on, the call may land and destroy the operation at any moment.
  static void StartBy(std::shared_ptr<AsyncDoCaller> self, FunctionRef<void()> join) {
    AsyncDoCaller& op = *self;
    auto slot = net::get_associated_cancellation_slot(op.handler_);
    if (slot.is_connected()) {
      slot.assign([&op](net::cancellation_type_t type) {
        if (type != net::cancellation_type::none) op.Cancel();
      });
    }
    op.self_ = std::move(self);
    const bool shut_down = op.context_users_ != nullptr && !op.context_users_->Add(op);
    if (!shut_down) {
      try {
        return join();
      } catch (...) {
        op.error_ = std::current_exception();
      }
    }
    if (slot.is_connected()) slot.clear();
    if (shut_down) return op.self_.reset();
    op.Complete();
  }

  void OnLanded() noexcept override { Complete(); }

  virtual void Cancel() noexcept {
    if (!this->Leave(singleflight::LeaveReason::kStop)) return;  // it has landed
    SetAborted();
    Complete();
  }

  void SetAborted() noexcept {
    try {
      error_ = std::make_exception_ptr(NetSystemError(net::error::operation_aborted));
    } catch (...) {  // no memory for its text
      error_ = std::current_exception();
    }
  }

  // Nothing may access this object afterwards. Throws if there is no memory to post the completion.
  // Where a call lands, nobody is left to report that to, and the program terminates.
  virtual void Complete() {
    if (context_users_ != nullptr) {
      context_users_->UseLast(*this, [this] { Post(); });
    } else {
      Post();
    }
  }

  ContextUsers* Users() const noexcept { return context_users_; }
  bool HasError() const noexcept { return error_ != nullptr; }
  void SetError(std::exception_ptr error) noexcept { error_ = std::move(error); }

 private:
  // The executor receives this. If it is destroyed before it has run, so is the operation.
  class Completion {
   public:
    using allocator_type = net::associated_allocator_t<Handler>;

    explicit Completion(std::shared_ptr<AsyncDoCaller> op) noexcept : op_(std::move(op)) {}

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
    std::shared_ptr<AsyncDoCaller> op_;
  };

  // The executor of `fn` receives this, if the handler's cannot post.
  class Dispatcher {
   public:
    using allocator_type = typename Completion::allocator_type;

    Dispatcher(const Executor& executor, Completion completion)
        : executor_(executor), completion_(std::move(completion)) {}

    allocator_type get_allocator() const noexcept { return completion_.get_allocator(); }

    void operator()() { net::dispatch(executor_, std::move(completion_)); }

   private:
    Executor executor_;
    Completion completion_;
  };

  void Post() {
    const auto executor = PostsTo();
    if constexpr (kCanPost<Executor>) {
      net::post(executor, Completion(std::move(self_)));
    } else {
      const auto work = std::move(work_on_the_way_);
      net::post(executor, Dispatcher(work_.get_executor(), Completion(std::move(self_))));
    }
  }

  auto PostsTo() const {
    if constexpr (kCanPost<Executor>) {
      return work_.get_executor();
    } else {
      return work_on_the_way_.get_executor();
    }
  }

  void OnShutdown() noexcept override {
    if (!this->Detach()) context_users_->WaitUntilTooLate(*this);
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
  // Outstanding work, on each executor that the completion passes.
  net::executor_work_guard<Executor> work_;
  [[no_unique_address]] std::conditional_t<kCanPost<Executor>, NoWorkGuard,
                                           net::executor_work_guard<FnExecutor>>
      work_on_the_way_;
  ContextUsers* const context_users_;
  std::shared_ptr<AsyncDoCaller> self_;
  std::exception_ptr error_;  // why there is no result, unless the call failed
};

// An AsyncDo that neither asks again nor launches later.
template <class G, class Handler, class Executor, class Fn, class FnExecutor>
class AsyncDoOnce final : public AsyncDoCaller<G, Handler, Executor, FnExecutor> {
  using Caller = AsyncDoCaller<G, Handler, Executor, FnExecutor>;

 public:
  template <class H>
  AsyncDoOnce(H&& handler, const Executor& executor, Fn&& fn, const FnExecutor& fn_executor)
      : Caller(std::forward<H>(handler), executor, fn_executor),
        launch_(std::move(fn), fn_executor) {}
  ~AsyncDoOnce() noexcept override = default;  // even if that of `fn` may throw

  // Joins by `join(operation, what it keeps, launch)`.
  template <class Join>
  static void Start(std::shared_ptr<AsyncDoOnce> self, const Join& join) {
    AsyncDoOnce& op = *self;
    Caller::StartBy(std::move(self), [&op, &join] { join(op, op.launch_, op.launch_); });
  }

 private:
  Launch<G, Fn, FnExecutor> launch_;
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO

// SPDX-License-Identifier: MIT

// An AsyncDo in progress.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "../../../listener.hpp"
#include "../../../options.hpp"
#include "../../../result.hpp"
#include "../../../stop_token.hpp"
#include "../../call.hpp"
#include "../../group_like.hpp"
#include "../../later_launch.hpp"
#include "../../outcome.hpp"
#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

struct NoWorkGuard {
  template <class Executor>
  explicit NoWorkGuard(const Executor&) noexcept {}
};

// A caller. It owns itself until it is passed to an executor as a Completion.
//
// The completion is posted to the handler's executor. If that cannot post, the completion is posted
// to the executor of `fn`, which can, and dispatched from there. This is what Asio's own operations
// do, with the executor of their I/O object. Either way it belongs to the context that it is posted
// to, and to no other.
//
// Asio's rules forbid a cancellation while the operation starts or its handler runs: a slot is used
// on the handler's executor, which runs one function at a time. So Cancel races with neither Join
// nor TakeResult. It may race with OnLanded.
//
// It asks again inside OnLanded, if at all. Meanwhile its contexts are pinned, so no shutdown
// comes, and its phase makes all others leave it to that thread.
template <class G, class Handler, class Executor, class Fn, class FnExecutor, bool kMayAskAgain>
class AsyncDoOperation final : public G::Waiter, private ContextUsers::User {
  using Value = typename G::ValueType;
  using Phase = AskingPhase;

 public:
  // `retry` is what a LaunchTwice takes besides.
  template <class H, class... Retry>
  AsyncDoOperation(H&& handler, const Executor& executor, Fn&& fn, const FnExecutor& fn_executor,
                   Retry&&... retry)
      : handler_(std::forward<H>(handler)),
        launch_(std::move(fn), fn_executor, std::forward<Retry>(retry)...),
        work_(executor),
        work_on_the_way_(launch_.executor()),
        context_users_(ContextService::UsersOf(PostsTo())) {}
  ~AsyncDoOperation() noexcept override = default;  // even if the handler's may throw

  // Joins by `join(operation, launch)`. From then on, the call may land and destroy the operation
  // at any moment.
  template <class Join>
  static void Start(std::shared_ptr<AsyncDoOperation> self, Join&& join) {
    AsyncDoOperation& op = *self;
    auto slot = net::get_associated_cancellation_slot(op.handler_);
    if (slot.is_connected()) {
      slot.assign([&op](net::cancellation_type_t type) {
        if (type != net::cancellation_type::none) op.Cancel();
      });
    }
    op.self_ = std::move(self);
    if constexpr (kMayAskAgain || LaunchesLater<G>) op.launch_.Watch(op.context_users_);
    const bool shut_down = op.context_users_ != nullptr && !op.context_users_->Add(op);
    if (!shut_down) {
      try {
        if constexpr (LaunchesLater<G>) {
          const auto launch =
              op.launch_.Launching();  // the operation may be gone before Join returns
          join(op, op.launch_, launch);
        } else {
          join(op, op.launch_, op.launch_);
        }
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

  void OnLanded() noexcept override {
    if constexpr (kMayAskAgain) {
      if (this->AsksAgain()) return AskAgain();
      if (IsAnswered()) return;
    }
    Complete();
  }

  void Cancel() noexcept {
    if constexpr (kMayAskAgain) {
      if (!StartsLeaving()) return;
    }
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
  void Complete() {
    if constexpr (kMayAskAgain) launch_.Drop();
    if (context_users_ != nullptr) {
      context_users_->UseLast(*this, [this] { Post(); });
    } else {
      Post();
    }
  }

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

  // ---- Asking again, on the thread that has landed the failed call

  void AskAgain() noexcept requires kMayAskAgain {
    ContextPin pin;  // neither is held while a stop request or a failed launch runs others' code
    ContextPin pin_of_fn;
    auto phase = Phase::kWaiting;
    if (!launch_.phase.compare_exchange_strong(phase, Phase::kAsking)) {  // kLeaving
      SetAborted();
      return CompleteWithoutAsking();
    }
    if (!pin.TryPin(context_users_) || !launch_.TryPin(pin_of_fn)) return CompleteWithoutAsking();
    StopSource unwanted(kNoStopState);
    bool handed_over = false;
    try {
      const typename G::KeyType key(std::move(launch_.key));
      if constexpr (LaunchesLater<G>) {
        launch_.group.JoinAgain(key, *this, launch_.Launching());
      } else {
        launch_.group.JoinAgain(key, *this, [&](typename G::Lead lead) {
          ContextPin pinned;
          ContextPin pinned_of_fn;
          auto launching = launch_.Take();
          pinned = std::move(pin);
          pinned_of_fn = std::move(pin_of_fn);
          handed_over = true;
          HandOver(unwanted);
          launching.launch(std::move(lead));
        });
      }
      if (handed_over) return;
    } catch (...) {
      error_ = std::current_exception();
    }
    if (error_ != nullptr) return CompleteWithoutAsking();
    HandOver(unwanted);
    pin = {};
    pin_of_fn = {};
    unwanted.request_stop();
  }

  void CompleteWithoutAsking() noexcept requires kMayAskAgain {
    launch_.group.GiveUp(*this);
    Complete();
  }

  // Nobody completes this operation while the thread that asks again has it. What has happened
  // meanwhile, that thread does now. Nothing may access this object afterwards.
  void HandOver(StopSource& unwanted) noexcept requires kMayAskAgain {
    auto phase = Phase::kAsking;
    if (launch_.phase.compare_exchange_strong(phase, Phase::kWaiting)) return;
    if (phase == Phase::kCanceled) {
      if (this->Leave(unwanted, singleflight::LeaveReason::kStop)) {
        SetAborted();
      } else if (launch_.phase.compare_exchange_strong(phase, Phase::kWaiting)) {
        return;  // OnLanded is about to come
      }
    }
    Complete();
  }

  // Called by OnLanded for the last call. True: the thread that asks again completes.
  bool IsAnswered() noexcept requires kMayAskAgain {
    auto phase = launch_.phase.load();
    while (phase == Phase::kAsking || phase == Phase::kCanceled) {
      if (launch_.phase.compare_exchange_weak(phase, Phase::kAnswered)) return true;
    }
    return false;
  }

  // Called by Cancel. False: the thread that asks again leaves, or it is too late.
  bool StartsLeaving() noexcept requires kMayAskAgain {
    auto phase = launch_.phase.load();
    for (;;) {
      if (phase != Phase::kWaiting && phase != Phase::kAsking) return false;
      const bool leaves = phase == Phase::kWaiting;
      if (launch_.phase.compare_exchange_weak(phase, leaves ? Phase::kLeaving : Phase::kCanceled)) {
        return leaves;
      }
    }
  }

  Handler handler_;
  std::conditional_t<
      LaunchesLater<G>, LaterLaunch<G, Fn, FnExecutor>,
      std::conditional_t<kMayAskAgain, LaunchTwice<G, Fn, FnExecutor>, Launch<G, Fn, FnExecutor>>>
      launch_;
  // Outstanding work, on each executor that the completion passes.
  net::executor_work_guard<Executor> work_;
  [[no_unique_address]] std::conditional_t<kCanPost<Executor>, NoWorkGuard,
                                           net::executor_work_guard<FnExecutor>>
      work_on_the_way_;
  ContextUsers* const context_users_;
  std::shared_ptr<AsyncDoOperation> self_;
  std::exception_ptr error_;  // why there is no result, unless the call failed
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO

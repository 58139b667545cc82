// SPDX-License-Identifier: MIT

// An AsyncDo in progress, and how it is started.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

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
    if (!this->Leave()) return;  // it has landed
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
      if (this->Leave(unwanted)) {
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

// The executors of an operation: each falls back on the other's, and then on Asio's own.
template <class Handler, class Fn>
struct Executors {
  using Fallback = ExecutorTypeOf<Fn, net::system_executor>;
  using OfHandler = ExecutorTypeOf<Handler, Fallback>;
  using OfFn = ExecutorTypeOf<Fn, OfHandler>;
};

template <class Executor>
constexpr bool CheckCanPost() {
  static_assert(kCanPost<Executor>,
                "AsyncDo cannot post to this executor, because it does not support "
                "execution::blocking.never: bind fn to one that does, such as the executor of your "
                "I/O objects, with bind_executor(executor, fn)");
  return kCanPost<Executor>;
}

// Starts the operation, which a lazy token does later. Tokens that add something to an operation
// use its executor: see IoExecutorOf.
template <class G, class IoExecutor>
struct InitiateAsyncDo {
  using executor_type = IoExecutor;
  executor_type get_executor() const noexcept { return executor; }

  G* group;
  IoExecutor executor;

  template <class Handler, class Fn>
  void operator()(Handler&& handler, typename G::KeyType key, Fn fn) const {
    if constexpr (LaunchesLater<G>) {
      const auto join = [](auto& op, auto& mine, auto& launch) {
        const typename G::KeyType its_key(std::move(mine.key));
        mine.group.Join(its_key, op, launch);
      };
      Start<false>(std::forward<Handler>(handler), std::move(fn), join, *group, std::move(key));
    } else {
      Start<false>(std::forward<Handler>(handler), std::move(fn),
                   [&](auto& op, auto&, auto& launch) { group->Join(key, op, launch); });
    }
  }

  template <class Handler, class Fn>
  void operator()(Handler&& handler, typename G::KeyType key, Fn fn, OnFailure on_failure) const {
    if (on_failure == OnFailure::kShare) {
      return (*this)(std::forward<Handler>(handler), std::move(key), std::move(fn));
    }
    const auto join = [](auto& op, auto& mine, auto& launch) {
      if constexpr (LaunchesLater<G>) {
        const typename G::KeyType its_key(
            mine.key);  // the operation may be gone before Join returns
        mine.group.Join(its_key, op, launch, OnFailure::kRetry);
      } else {
        mine.group.Join(std::as_const(mine.key), op, launch, OnFailure::kRetry);
      }
    };
    Start<true>(std::forward<Handler>(handler), std::move(fn), join, *group, std::move(key));
  }

 private:
  template <bool kMayAskAgain, class Handler, class Fn, class Join, class... Retry>
  static void Start(Handler&& handler, Fn&& fn, Join&& join, Retry&&... retry) {
    using Types = Executors<std::decay_t<Handler>, Fn>;
    if constexpr (SINGLEFLIGHT_ASIO::CheckCanPost<typename Types::OfFn>()) {
      using Op = AsyncDoOperation<G, std::decay_t<Handler>, typename Types::OfHandler, Fn,
                                  typename Types::OfFn, kMayAskAgain>;
      const auto fallback = SINGLEFLIGHT_ASIO::ExecutorOf(fn, net::system_executor());
      const auto completes_on = SINGLEFLIGHT_ASIO::ExecutorOf(handler, fallback);
      const auto fn_runs_on = SINGLEFLIGHT_ASIO::ExecutorOf(fn, completes_on);
      const auto allocator = net::get_associated_allocator(handler);
      using Allocator = typename std::allocator_traits<
          std::remove_const_t<decltype(allocator)>>::template rebind_alloc<Op>;
      auto op = std::allocate_shared<Op>(Allocator(allocator), std::forward<Handler>(handler),
                                         completes_on, std::move(fn), fn_runs_on,
                                         std::forward<Retry>(retry)...);
      Op::Start(std::move(op), join);
    }
  }
};

// The executor for the timers of a token such as cancel_after.
template <class Fn>
auto IoExecutorOf(const Fn& fn) {
  if constexpr (std::convertible_to<ExecutorTypeOf<Fn, net::system_executor>,
                                    net::any_io_executor>) {
    return SINGLEFLIGHT_ASIO::ExecutorOf(fn, net::system_executor());
  } else {
    return net::system_executor();
  }
}

// Stands for the initiation of an AsyncDo where a token is only checked.
template <class Value>
struct AnyInitiation {
  template <std::invocable<std::exception_ptr, Result<Value>> Handler>
  void operator()(Handler&& handler) const;
};

template <class Token, class Value>
concept TokenFor = requires(Token&& token) {
  net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(AnyInitiation<Value>(),
                                                                      token);
};

// Whether AsyncDo of this Asio can take these arguments: none belongs to another one.
template <class Fn, class Token>
concept FitsAsio = !OfOtherAsio<Fn, DefaultExecutor> && !OfOtherAsio<Token, DefaultExecutor>;

// AsyncDo, with a copy of the key, and with an OnFailure if it has one.
template <class G, class Fn, class Token, class... OnFailureArg>
auto StartAsyncDo(G& group, typename G::KeyType&& key, Fn&& fn, Token&& token,
                  OnFailureArg... on_failure) {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  // Evaluated here, so that what they say is a compiler's first error.
  static_assert((detail::CheckKept<Fn>(), SINGLEFLIGHT_ASIO::CheckNetFn<Value, Kept>(), true));
  static_assert(TokenFor<Token, Value>,
                "the token must be a completion token for the signature "
                "void(std::exception_ptr, singleflight::Result<Value>)");
  using Types = Executors<std::decay_t<Token>, Kept>;  // those of a token that is the handler
  static_cast<void>(SINGLEFLIGHT_ASIO::CheckCanPost<typename Types::OfFn>());
  const auto io_executor = SINGLEFLIGHT_ASIO::IoExecutorOf(fn);
  return net::async_initiate<Token, void(std::exception_ptr, Result<Value>)>(
      InitiateAsyncDo<G, std::remove_const_t<decltype(io_executor)>>{&group, io_executor}, token,
      std::move(key), Kept(std::forward<Fn>(fn)), on_failure...);
}

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO

// SPDX-License-Identifier: MIT

// How an AsyncDo runs its call's work: `fn` on an executor, as a function or as a coroutine.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <concepts>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../../../stop_token.hpp"
#include "../../awaitable.hpp"
#include "../../element_outcome.hpp"
#include "../../invoke.hpp"
#include "../../outcome.hpp"
#include "../../task.hpp"
#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

// The type that an awaitable produces, and its coroutine's executor.
template <class T>
struct AwaitableTraits {
  static constexpr bool kIsAwaitable = false;
};

template <class Fn>
using AwaitableTraitsOf = AwaitableTraits<
    std::remove_cvref_t<decltype(detail::CallWithStop(std::declval<Fn>(), StopToken()))>>;

template <class Fn>
constexpr bool ReturnsNetAwaitable() {
  if constexpr (std::is_invocable_v<Fn> || kTakesStopToken<Fn>) {
    return AwaitableTraitsOf<Fn>::kIsAwaitable;
  } else {
    return false;
  }
}

template <class G, class Fn>
constexpr void CheckNetFn() {
  using Value = typename G::ValueType;
  if constexpr (SINGLEFLIGHT_ASIO::ReturnsNetAwaitable<Fn>()) {
    using Awaited = typename AwaitableTraitsOf<Fn>::Awaited;
    detail::CheckAwaited<Value, Awaited>();
    static_assert(std::is_void_v<Value> || std::convertible_to<Awaited, Value> ||
                      detail::IsOrHoldsCached<Value, Awaited>(),
                  "fn must return an awaitable of the group's Value or of something that converts "
                  "to it");
  } else {
    detail::CheckFnOf<G, Fn>();
  }
}

#if defined(SINGLEFLIGHT_ASIO_HAS_CO_AWAIT)

template <class T, class CoroutineExecutor>
struct AwaitableTraits<net::awaitable<T, CoroutineExecutor>> {
  static constexpr bool kIsAwaitable = true;
  using Awaited = T;
  using Executor = CoroutineExecutor;
};

// Turns a stop request of a call into a cancellation of the coroutine that does its work, emitted
// where the coroutine runs. The slot refers to the signal, so everyone who may use the slot keeps
// the signal alive.
template <class Executor>
class StopRelay final : private ContextUsers::User {
 public:
  StopRelay(std::shared_ptr<net::cancellation_signal> signal, const Executor& executor,
            StopToken stop)
      : context_users_(ContextService::UsersOf(executor)) {
    if (context_users_ != nullptr && !context_users_->Add(*this)) return;
    on_stop_.emplace(std::move(stop), OnStop{std::move(signal), executor});
  }
  ~StopRelay() {
    if (context_users_ != nullptr) context_users_->Remove(*this);
  }
  StopRelay(const StopRelay&) = delete;
  StopRelay& operator=(const StopRelay&) = delete;

 private:
  struct OnStop {
    void operator()() const noexcept {
      net::post(executor, [kept = signal] { kept->emit(net::cancellation_type::terminal); });
    }
    std::shared_ptr<net::cancellation_signal> signal;
    Executor executor;
  };

  void OnShutdown() noexcept override { on_stop_.reset(); }  // waits for an OnStop in progress

  ContextUsers* const context_users_;
  std::optional<StopCallback<OnStop>> on_stop_;
};

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wsubobject-linkage"  // GCC 12, for a frame whose `fn` is a lambda
#endif

// Does a call's work: awaits what `fn` returns, and lands the call with it. It owns all that it
// needs, so no caller owns it. `fn` is destroyed before the call lands. If the coroutine is
// destroyed, so is `work`, whose Lead then lands the call.
template <class CoroutineExecutor, class Value, class Lead, class Fn, class Executor>
net::awaitable<void, CoroutineExecutor> LeadInCoroutine(
    DriverWork<Lead, Fn> work, std::shared_ptr<net::cancellation_signal> signal,
    Executor executor) {
  Outcome<Value> outcome;
  try {
    const StopRelay<Executor> relay(std::move(signal), executor, work.lead.WatchStop());
    co_await net::post(net::use_awaitable_t<CoroutineExecutor>());  // `fn` never runs in AsyncDo
    if (!work.lead.Begins()) co_return;
    if constexpr (std::is_void_v<Value>) {
      static_cast<void>(co_await work.lead.Start(std::move(*work.fn)));
      outcome.SetValue();
    } else {
      outcome.SetValue(co_await work.lead.Start(std::move(*work.fn)));
    }
  } catch (...) {
    outcome.SetError(std::current_exception());
  }
  work.fn.reset();
  work.lead.Land(std::move(outcome));
}

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic pop
#endif

// The coroutine's completion handler: it keeps the signal alive as long as the coroutine.
struct WhenLed {
  using cancellation_slot_type = net::cancellation_slot;
  cancellation_slot_type get_cancellation_slot() const noexcept { return signal->slot(); }
  void operator()(const std::exception_ptr&) const noexcept {}
  std::shared_ptr<net::cancellation_signal> signal;
};

template <class CoroutineExecutor, class Value, class Lead, class Fn, class Executor>
void SpawnWork(Lead lead, Fn fn, const Executor& executor) {
  auto signal = std::make_shared<net::cancellation_signal>();
  net::co_spawn(executor,
                SINGLEFLIGHT_ASIO::LeadInCoroutine<CoroutineExecutor, Value, Lead, Fn>(
                    DriverWork<Lead, Fn>(std::move(lead), std::move(fn)), signal, executor),
                WhenLed{signal});
}

#endif

// Gives the work of the call that it is made the leader of to an executor. It owns what it needs
// for that.
template <class G, class Fn, class Executor>
class Launch {
 public:
  Launch(Fn&& fn, const Executor& executor) : fn_(std::move(fn)), executor_(executor) {}

  const Executor& executor() const noexcept { return executor_; }

  // Called once. As soon as the executor has the work, this object may be destroyed.
  void operator()(typename G::Lead lead) {
    if constexpr (kTakesStopToken<Fn>) {
      static_cast<void>(lead.GetStopToken());  // from now on the call can be asked to stop
    }
    Fn fn(std::move(*fn_));
    fn_.reset();
    const Executor executor(executor_);
    if constexpr (std::same_as<typename G::Lead, UnusedLead>) {
      // The group does the work itself.
    } else if constexpr (!SINGLEFLIGHT_ASIO::ReturnsNetAwaitable<Fn>()) {
      net::post(executor, Task<G, Fn>(std::move(lead), std::move(fn)).Untyped());
    } else {
#if defined(SINGLEFLIGHT_ASIO_HAS_CO_AWAIT)
      using Value = typename G::ValueType;
      using CoroutineExecutor = typename AwaitableTraitsOf<Fn>::Executor;
      // A strand, because the cancellation must not run while the coroutine does, on another
      // thread.
      if constexpr (std::convertible_to<net::strand<Executor>, CoroutineExecutor>) {
        SINGLEFLIGHT_ASIO::SpawnWork<CoroutineExecutor, Value>(std::move(lead), std::move(fn),
                                                               net::make_strand(executor));
      } else {
        static_assert(std::convertible_to<Executor, CoroutineExecutor>,
                      "the awaitable that fn returns cannot run on this executor: pass "
                      "bind_executor(executor, fn) with one that it can run on");
        SINGLEFLIGHT_ASIO::SpawnWork<CoroutineExecutor, Value>(std::move(lead), std::move(fn),
                                                               executor);
      }
#endif
    }
  }

 private:
  std::optional<Fn> fn_;
  const Executor executor_;
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO

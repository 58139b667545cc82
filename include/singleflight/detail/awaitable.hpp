// SPDX-License-Identifier: MIT
#pragma once

// What is awaitable, and the coroutine that does a call's work if its `fn` returns an awaitable.

#include <atomic>
#include <concepts>
#include <coroutine>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "../stop_token.hpp"
#include "any_task.hpp"
#include "element_outcome.hpp"
#include "invoke.hpp"
#include "outcome.hpp"

namespace singleflight::detail {

template <class T>
decltype(auto) AwaiterOf(T&& awaitable) {
  if constexpr (requires { std::forward<T>(awaitable).operator co_await(); }) {
    return std::forward<T>(awaitable).operator co_await();
  } else if constexpr (requires { operator co_await(std::forward<T>(awaitable)); }) {
    return operator co_await(std::forward<T>(awaitable));
  } else {
    return std::forward<T>(awaitable);
  }
}

template <class T>
concept Awaitable = requires(T&& awaitable) {
  { detail::AwaiterOf(std::forward<T>(awaitable)).await_ready() } -> std::convertible_to<bool>;
  detail::AwaiterOf(std::forward<T>(awaitable)).await_resume();
};

// Whether what `fn` returns must be awaited for the Value.
template <class Value, class Fn>
constexpr bool ReturnsAwaitable() {
  if constexpr (std::is_invocable_v<Fn> || kTakesStopToken<Fn>) {
    using Returned = decltype(detail::CallWithStop(std::declval<Fn>(), StopToken()));
    if constexpr (Awaitable<Returned> && !std::same_as<std::remove_cvref_t<Returned>, Value>) {
      using Awaited = decltype(detail::AwaiterOf(std::declval<Returned>()).await_resume());
      detail::CheckAwaited<Value, Awaited>();
      return std::is_void_v<Value> || std::convertible_to<Awaited, Value>;
    }
  }
  return false;
}

// A coroutine that does a call's work. From Start on nobody waits for it, and it destroys itself
// when it finishes. A Driver that is destroyed before that destroys the coroutine.
class Driver {
 public:
  struct promise_type {
    Driver get_return_object() noexcept {
      return Driver(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };

  explicit Driver(std::coroutine_handle<> coroutine) noexcept : frame_(coroutine.address()) {}
  Driver(Driver&& other) noexcept : frame_(other.frame_.exchange(nullptr)) {}
  ~Driver() { Drop(); }

  // Runs the coroutine until it first suspends. Does nothing if it was started or dropped before.
  // Touches this object no more once the coroutine runs.
  void Start() {
    if (void* const frame = frame_.exchange(nullptr)) {
      std::coroutine_handle<>::from_address(frame).resume();
    }
  }
  // Destroys the coroutine, unless it was started.
  void Drop() noexcept {
    if (void* const frame = frame_.exchange(nullptr)) {
      std::coroutine_handle<>::from_address(frame).destroy();
    }
  }

 private:
  std::atomic<void*> frame_;  // null: started, dropped or moved from
};

// What a Driver owns, in the order in which it is destroyed even if the coroutine is: first `fn`,
// then `lead`, which lands the call. One object, because g++ 12 destroys a coroutine's parameters
// from the first to the last.
template <class Lead, class Fn>
struct DriverWork {
  template <class F>
  DriverWork(Lead its_lead, F&& its_fn)
      : lead(std::move(its_lead)), fn(std::in_place, std::forward<F>(its_fn)) {}

  Lead lead;
  std::optional<Fn> fn;
};

// Awaits what `fn` returns, and lands the call with it. The coroutine owns `fn` and all that it
// needs, so no caller owns it. `fn` is destroyed before the call lands.
template <class Value, class Work>
Driver Drive(Work work) {
  Outcome<Value> outcome;
  if (!work.lead.Begins()) co_return;
  try {
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

// The start of a Driver, as an executor receives it. Like Task, it is copyable, and works once.
class StartTask {
 public:
  explicit StartTask(Driver&& driver) : driver_(std::make_shared<Driver>(std::move(driver))) {}

  void operator()() const { driver_->Start(); }
  void Drop() const noexcept { driver_->Drop(); }

  // Returns the same without its type.
  AnyTask Untyped() && {
    return AnyTask(std::move(driver_), [](const std::shared_ptr<void>& driver) {
      static_cast<Driver*>(driver.get())->Start();
    });
  }

 private:
  std::shared_ptr<Driver> driver_;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// How a call's `fn` is checked and run.

#include <concepts>
#include <exception>
#include <functional>
#include <type_traits>
#include <utility>
#include <variant>

#include "../stop_token.hpp"
#include "element_outcome.hpp"
#include "outcome.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

// Not inlined, because GCC 12 warns falsely that an inlined StopSource() is uninitialized.
[[gnu::noinline]] inline StopSource NewStopSource() { return StopSource(); }

// Whether `fn` takes the call's stop token.
template <class Fn>
inline constexpr bool kTakesStopToken = std::is_invocable_v<Fn, StopToken>;

// What is not a stop token may be an executor.
template <class T>
concept NotStopToken = !std::convertible_to<T, StopToken>;

template <class Fn>
decltype(auto) CallWithStop(Fn&& fn, StopToken stop) {
  if constexpr (kTakesStopToken<Fn>) {
    return std::invoke(std::forward<Fn>(fn), std::move(stop));
  } else {
    return std::invoke(std::forward<Fn>(fn));
  }
}

template <class Value, class Fn>
constexpr void CheckFn() {
  constexpr bool kCallable = std::is_invocable_v<Fn> || kTakesStopToken<Fn>;
  static_assert(kCallable, "fn must be callable as fn() or fn(singleflight::StopToken)");
  static_assert(
      !kCallable || std::is_invocable_r_v<Value, Fn> || std::is_invocable_r_v<Value, Fn, StopToken>,
      "fn must return the group's Value or something that converts to it");
  if constexpr (kCallable) {
    detail::CheckDropped<Value, decltype(detail::CallWithStop(std::declval<Fn>(), StopToken()))>();
  }
}

template <class Fn>
constexpr bool ReturnsCached() {
  if constexpr (std::is_invocable_v<Fn> || kTakesStopToken<Fn>) {
    return kIsCached<
        std::remove_cvref_t<decltype(detail::CallWithStop(std::declval<Fn>(), StopToken()))>>;
  } else {
    return false;
  }
}

// Checks an `fn` that the Lead of a `G` will run.
template <class G, class Fn>
constexpr void CheckFnOf() {
  if constexpr (!(ReturnsCached<Fn>() && requires { requires G::Lead::kTakesCached; })) {
    detail::CheckFn<typename G::ValueType, Fn>();
  }
}

// Checks that a call which outlives the expression that made it can keep `fn`.
template <class Fn>
constexpr void CheckKept() {
  static_assert(std::constructible_from<std::decay_t<Fn>, Fn>,
                "the call keeps fn: pass one that can be copied, or std::move it");
}

template <class Value, class Fn, class... Args>
Stored<Value> Invoke(Fn&& fn, Args&&... args) {
  if constexpr (std::is_void_v<Value>) {
    std::invoke(std::forward<Fn>(fn), std::forward<Args>(args)...);
    return {};
  } else {
    return std::invoke(std::forward<Fn>(fn), std::forward<Args>(args)...);
  }
}

// Invokes an `fn` that may take a stop token. That is then what `get_stop()` returns.
template <class Value, class Fn, class GetStop>
Stored<Value> InvokeWithStop(Fn&& fn, [[maybe_unused]] GetStop&& get_stop) {
  if constexpr (kTakesStopToken<Fn>) {
    return detail::Invoke<Value>(std::forward<Fn>(fn), get_stop());
  } else {
    return detail::Invoke<Value>(std::forward<Fn>(fn));
  }
}

// Runs `make` on this thread as a call's work. What it returns or throws becomes the outcome.
//
// A forced unwind (the thread is being cancelled) cannot be kept as an exception. It passes
// through, and leaves the outcome "vanished". If the thread is already inside a catch block,
// libstdc++ terminates instead, as it does at any catch (...).
template <class Value, class Make>
[[gnu::always_inline]] inline void Execute(Outcome<Value>& outcome, Make&& make) {
  const LeadingScope leading;
  try {
    outcome.SetValueFrom(std::forward<Make>(make));
  } catch (...) {
    std::exception_ptr error = std::current_exception();
    if (error == nullptr) throw;  // a forced unwind
    outcome.SetError(std::move(error));
  }
}

// The same for `fn`: see InvokeWithStop.
template <class Value, class Fn, class GetStop>
[[gnu::always_inline]] inline void Execute(Outcome<Value>& outcome, Fn&& fn, GetStop&& get_stop) {
  detail::Execute<Value>(outcome, [&]() -> Stored<Value> {
    return detail::InvokeWithStop<Value>(std::forward<Fn>(fn), get_stop);
  });
}

// A call without a hook.
struct NoHook {};

// Returns a call's `fn`, or what its hook makes of it. What is returned refers to `fn`.
template <class Hook, class Fn>
decltype(auto) Heeded([[maybe_unused]] Hook& hook, Fn&& fn) {
  if constexpr (requires { hook.Heed(std::forward<Fn>(fn)); }) {
    return hook.Heed(std::forward<Fn>(fn));
  } else {
    return static_cast<Fn&&>(fn);
  }
}

// Runs a hook just before a call lands. That is still the leader's work, so a wait in the hook that
// would never end is an error.
template <class Hook, class... Args>
void RunHook(const Hook& hook, Args&&... args) {
  if constexpr (!std::same_as<Hook, NoHook>) {
    const LeadingScope leading;
    hook(std::forward<Args>(args)...);
  }
}

}  // namespace singleflight::detail

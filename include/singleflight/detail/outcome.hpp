// SPDX-License-Identifier: MIT
#pragma once

// How a call's `fn` is run, how the call ends, and what a caller makes of that.

#include <exception>
#include <functional>
#include <memory>
#include <stop_token>
#include <system_error>
#include <type_traits>
#include <utility>
#include <variant>

#include "../result.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// The library's own errors. Where there is no memory for the text, a std::bad_alloc instead.
inline std::exception_ptr MakeError(std::errc code, const char* what) noexcept {
  try {
    return std::make_exception_ptr(std::system_error(std::make_error_code(code), what));
  } catch (...) {
    return std::current_exception();
  }
}
inline std::exception_ptr MakeCanceled() {
  return MakeError(std::errc::operation_canceled, "singleflight: this caller was asked to stop");
}
inline std::exception_ptr MakeTimedOut() {
  return MakeError(std::errc::timed_out,
                   "singleflight: the call took longer than this caller would wait");
}
inline std::exception_ptr MakeDeadlock() {
  return MakeError(std::errc::resource_deadlock_would_occur,
                   "singleflight: the call for this key waits for this thread");
}
inline std::exception_ptr MakeOwnerDead() {
  return MakeError(std::errc::owner_dead, "singleflight: the leader vanished without a result");
}
// In a catch (...): what was thrown. A forced unwind (the thread is cancelled) cannot be kept: it
// goes on.
inline std::exception_ptr Caught() {
  std::exception_ptr error = std::current_exception();
  if (error == nullptr) throw;
  return error;
}
[[noreturn]] inline void Throw(std::errc code, const char* what) {
  throw std::system_error(std::make_error_code(code), what);
}

// What is kept of a Value: std::monostate for void.
template <class Value>
using Stored = std::conditional_t<std::is_void_v<Value>, std::monostate, Value>;

// How a call ended: 0, with an exception, where a null one stands for a leader that vanished; or 1,
// with a value.
template <class Value>
using Outcome = std::variant<std::exception_ptr, Stored<Value>>;

template <class Value>
bool Failed(const Outcome<Value>& outcome) noexcept {
  return outcome.index() != 1;
}

// Of a failed outcome; never null.
template <class Value>
std::exception_ptr ErrorOf(const Outcome<Value>& outcome) {
  if (const auto* error = std::get_if<0>(&outcome); error != nullptr && *error != nullptr) {
    return *error;
  }
  return MakeOwnerDead();
}

// Where std::stop_source() is inlined, GCC 12 warns falsely that it is not initialized.
[[gnu::noinline]] inline std::stop_source NewStopSource() { return std::stop_source(); }

// `fn` may take the call's stop token.
template <class Fn>
inline constexpr bool kTakesStopToken = std::is_invocable_v<Fn, std::stop_token>;

template <class Fn>
decltype(auto) CallWithStop(Fn&& fn, std::stop_token stop) {
  if constexpr (kTakesStopToken<Fn>) {
    return std::invoke(std::forward<Fn>(fn), std::move(stop));
  } else {
    return std::invoke(std::forward<Fn>(fn));
  }
}

template <class Value, class Fn>
constexpr void CheckFn() {
  constexpr bool kCallable = std::is_invocable_v<Fn> || kTakesStopToken<Fn>;
  static_assert(kCallable, "fn must be callable as fn() or fn(std::stop_token)");
  static_assert(!kCallable || std::is_invocable_r_v<Value, Fn> ||
                    std::is_invocable_r_v<Value, Fn, std::stop_token>,
                "fn must return the group's Value or something that converts to it");
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

// Runs `fn` on this thread as the work of a call; what it throws becomes the outcome. A forced
// unwind (the thread is cancelled) cannot be kept: it passes through, and leaves the outcome
// "vanished". (Where the thread is inside a handler already, libstdc++ terminates instead, as it
// does at any catch (...).)
template <class Value, class Fn>
void Execute(Outcome<Value>& outcome, Fn&& fn, const std::stop_source& stop) {
  const LeadingScope leading;
  try {
    if constexpr (kTakesStopToken<Fn>) {
      outcome.template emplace<1>(detail::Invoke<Value>(std::forward<Fn>(fn), stop.get_token()));
    } else {
      outcome.template emplace<1>(detail::Invoke<Value>(std::forward<Fn>(fn)));
    }
  } catch (...) {
    outcome.template emplace<0>(std::current_exception());
    if (*std::get_if<0>(&outcome) == nullptr) throw;  // not a C++ exception
  }
}

struct ResultFactory {
  template <class Value>
  static Result<Value> Alone(Stored<Value>&& value, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(false, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  template <class Value>
  static Result<Value> Shared(std::shared_ptr<const Stored<Value>> value, Role role) noexcept {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(true, role);
    } else {
      return Result<Value>(std::move(value), role);
    }
  }

  // Of a call that failed: holds nothing to read.
  template <class Value>
  static Result<Value> Empty(Role role) noexcept {
    return Shared<Value>(nullptr, role);
  }

  // Of a call that nobody shares.
  template <class Value>
  static Result<Value> Take(Outcome<Value>& outcome, Role role) {
    if (detail::Failed<Value>(outcome)) std::rethrow_exception(detail::ErrorOf<Value>(outcome));
    return Alone<Value>(std::move(*std::get_if<1>(&outcome)), role);
  }

  // The same result, for a caller that knows more of who was given it.
  template <class Value>
  static Result<Value> As(Result<Value>&& result, bool shared, Role role) {
    if constexpr (std::is_void_v<Value>) {
      return Result<void>(shared || result.shared(), role);
    } else {
      if (Value* const alone = std::get_if<0>(&result.value_)) {
        return shared ? Shared<Value>(std::make_shared<const Value>(std::move(*alone)), role)
                      : Alone<Value>(std::move(*alone), role);
      }
      return Shared<Value>(std::move(*std::get_if<1>(&result.value_)), role);
    }
  }
};

}  // namespace singleflight::detail

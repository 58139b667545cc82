// SPDX-License-Identifier: MIT
#pragma once

// These are the tests' own coroutine types, as a user might have written them.

#include <coroutine>
#include <exception>
#include <optional>
#include <system_error>
#include <utility>

#include "support.hpp"

namespace test {

// A lazy task. It starts when it is awaited, and resumes its awaiter by symmetric transfer.
template <class Value>
struct Task {
  struct promise_type {
    Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    auto final_suspend() noexcept {
      struct Continue : std::suspend_always {
        std::coroutine_handle<> await_suspend(
            std::coroutine_handle<promise_type> ended) const noexcept {
          return ended.promise().continuation;
        }
      };
      return Continue();
    }
    void return_value(Value its_value) { value = std::move(its_value); }
    void unhandled_exception() { error = std::current_exception(); }

    std::coroutine_handle<> continuation;
    std::optional<Value> value;
    std::exception_ptr error;
  };

  Task(std::coroutine_handle<promise_type> its_handle) : handle(its_handle) {}
  Task(Task&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  ~Task() {
    if (handle) handle.destroy();
  }

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<> awaiting) noexcept {
    handle.promise().continuation = awaiting;
    return handle;
  }
  Value await_resume() {
    if (handle.promise().error) std::rethrow_exception(handle.promise().error);
    return std::move(*handle.promise().value);
  }

  std::coroutine_handle<promise_type> handle;
};

// A coroutine that starts at once. The object owns the frame and destroys it.
struct Routine {
  struct promise_type {
    Routine get_return_object() {
      return Routine(std::coroutine_handle<promise_type>::from_promise(*this));
    }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_always final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };

  Routine() = default;
  explicit Routine(std::coroutine_handle<promise_type> its_handle) : handle(its_handle) {}
  Routine(Routine&& other) noexcept : handle(std::exchange(other.handle, nullptr)) {}
  Routine& operator=(Routine&& other) noexcept {
    std::swap(handle, other.handle);
    return *this;
  }
  ~Routine() { Destroy(); }
  void Destroy() {
    if (handle) std::exchange(handle, nullptr).destroy();
  }
  bool Done() const { return handle.done(); }

  std::coroutine_handle<promise_type> handle;
};

// A coroutine that starts at once and destroys its frame when it finishes.
struct FireAndForget {
  struct promise_type {
    FireAndForget get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

// One coroutine awaits this until the test fires it, as it would await an upstream's answer.
class Signal {
 public:
  void Fire() { std::exchange(handle_, nullptr).resume(); }
  bool Awaited() const { return handle_ != nullptr; }

  // A Signal is not an awaiter itself, because GCC 12 copies an awaiter that is not a temporary.
  auto operator co_await() noexcept {
    struct Awaiter : std::suspend_always {
      explicit Awaiter(Signal& its_signal) : signal(its_signal) {}
      void await_suspend(std::coroutine_handle<> handle) const noexcept { signal.handle_ = handle; }
      Signal& signal;
    };
    return Awaiter(*this);
  }

 private:
  std::coroutine_handle<> handle_;
};

// Resumes the coroutine that awaits it when a stop is requested.
struct UntilStopped : std::suspend_always {
  explicit UntilStopped(StopToken its_token) : token(std::move(its_token)) {}
  void await_suspend(std::coroutine_handle<> handle) { on_stop.emplace(token, handle); }
  StopToken token;
  std::optional<StopCallback<std::coroutine_handle<>>> on_stop;
};

// Awaits what `make` returns, which gives a Result, and stores the outcome.
template <class Value, class Make>
Routine StoreOutcome(Outcome<Value>& outcome, Make make) {
  try {
    const auto result = co_await make();
    outcome.value = *result;
    outcome.shared = result.shared();
    outcome.role = result.role();
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  } catch (const std::exception& error) {
    outcome.message = error.what();
  }
}

}  // namespace test

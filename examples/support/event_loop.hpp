// SPDX-License-Identifier: MIT
#pragma once

// A minimal event loop and a minimal coroutine type, for coroutine.cpp. Yours will do as well:
// singleflight needs neither.

#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <exception>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <utility>

// A coroutine on the loop's thread. It starts at once, and when it returns, it resumes the
// coroutine that awaits it.
//
// Errors: Result and co_await throw what the coroutine threw.
// Lifetime: the destructor destroys the coroutine. Nothing may resume it afterwards.
template <class T>
class Task {
 public:
  struct promise_type {
    struct Final : std::suspend_always {
      auto await_suspend(std::coroutine_handle<promise_type> finished) const noexcept {
        return finished.promise().awaiting;
      }
    };
    Task get_return_object() { return Task(*this); }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    Final final_suspend() const noexcept { return {}; }
    void return_value(T value) { result = std::move(value); }
    void unhandled_exception() { error = std::current_exception(); }

    std::optional<T> result;
    std::exception_ptr error;
    std::coroutine_handle<> awaiting = std::noop_coroutine();
  };

  Task(Task&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
  Task& operator=(Task&&) = delete;
  ~Task() {
    if (handle_) handle_.destroy();
  }

  bool Done() const { return handle_.done(); }
  const T& Result() const {
    if (handle_.promise().error) std::rethrow_exception(handle_.promise().error);
    return *handle_.promise().result;
  }

  bool await_ready() const { return Done(); }
  void await_suspend(std::coroutine_handle<> handle) { handle_.promise().awaiting = handle; }
  T await_resume() const { return Result(); }

 private:
  using Handle = std::coroutine_handle<promise_type>;
  explicit Task(promise_type& promise) : handle_(Handle::from_promise(promise)) {}

  Handle handle_;
};

// Runs functions when they are due, all of them on the thread that calls RunUntil.
class Loop {
 public:
  using Clock = std::chrono::steady_clock;

  // Thread: any. A coroutine's handle is such a function, too.
  void Post(std::function<void()> what) { After(Clock::duration::zero(), std::move(what)); }
  void After(Clock::duration delay, std::function<void()> what) {
    const std::lock_guard lock(mutex_);
    queue_.emplace(Clock::now() + delay, std::move(what));
    changed_.notify_one();
  }

  // co_await loop.Sleep(50ms);
  auto Sleep(Clock::duration time) {
    struct Awaiter : std::suspend_always {
      Awaiter(Loop& its_loop, Clock::duration its_time) : loop(its_loop), time(its_time) {}
      void await_suspend(std::coroutine_handle<> handle) const { loop.After(time, handle); }
      Loop& loop;
      const Clock::duration time;
    };
    return Awaiter(*this, time);
  }

  // Runs functions until `done()` is true.
  template <class Done>
  void RunUntil(const Done& done) {
    while (!done()) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [this] { return !queue_.empty(); });
      if (const auto next = queue_.begin()->first; next > Clock::now()) {
        changed_.wait_until(lock, next);  // or until something earlier is posted
      } else {
        const auto due = queue_.extract(queue_.begin());
        lock.unlock();
        due.mapped()();
      }
    }
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::multimap<Clock::time_point, std::function<void()>> queue_;  // guarded by mutex_
};

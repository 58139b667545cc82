// SPDX-License-Identifier: MIT
#pragma once

// Deliverer: the thread on which a client runs what is the user's: codecs, executors, callbacks and
// coroutines that resume where their call lands. So none of these holds up the event loop. There is
// no such thread while there is nothing to run. If what it runs waits for a call, another thread
// takes its place, because that call may be delivered only then.

#include <chrono>
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <thread>
#include <utility>

#include "../thread_mark.hpp"
#include "posix.hpp"

namespace singleflight::redis::detail {

class Deliverer {
 public:
  Deliverer() : state_(std::make_shared<State>()) {}

  ~Deliverer() { Close(); }

  // Runs what was posted, and joins the thread. If this is that thread, it is detached: it ends
  // when what it runs has returned. What is posted afterwards runs where it is posted.
  void Close() noexcept {
    const DisableCancellation guard;  // join is a cancellation point
    std::unique_lock lock(state_->mutex);
    state_->closed = true;
    state_->changed.notify_all();
    std::thread thread = std::move(state_->thread);
    lock.unlock();
    if (!thread.joinable()) return;
    if (thread.get_id() == std::this_thread::get_id()) {
      thread.detach();
    } else {
      thread.join();
    }
  }

  Deliverer(const Deliverer&) = delete;
  Deliverer& operator=(const Deliverer&) = delete;

  // Runs `task()` on the thread, after what was posted before. It must not throw. If there is no
  // thread or no memory to be had, it runs here.
  //
  // Thread: any.
  void Post(std::function<void()> task) noexcept {
    std::unique_lock lock(state_->mutex);
    if ((state_->runs || StartThread(*state_)) && Push(*state_, task)) {
      if (state_->sleeps) state_->changed.notify_one();
      return;
    }
    lock.unlock();
    task();
  }

 private:
  static constexpr auto kIdle = std::chrono::seconds(1);

  // Shared with the threads, which may outlive the Deliverer if that is destroyed on one of them.
  struct State : std::enable_shared_from_this<State> {
    std::mutex mutex;
    // Guarded by mutex.
    std::condition_variable changed;
    std::deque<std::function<void()>> tasks;
    std::thread thread;       // the latest
    unsigned generation = 0;  // of that thread. An earlier one ends when its task returns
    bool runs = false;        // the thread will look for tasks again
    bool sleeps = false;      // it waits for `changed`
    bool closed = false;      // it ends once there are no tasks, and there is no other
  };

  // Under the mutex. False: there is no memory, and the task is as it was.
  static bool Push(State& state, std::function<void()>& task) noexcept {
    try {
      state.tasks.push_back(std::move(task));
    } catch (const std::bad_alloc&) {
      return false;
    }
    return true;
  }

  // Under the mutex. False: there is no thread to be had.
  static bool StartThread(State& state) noexcept {
    if (state.closed) return false;
    try {
      const BlockSignals guard;  // the thread inherits this: no handler of the user's runs on it
      if (state.thread.joinable()) state.thread.join();  // it has nothing left to do
      state.thread = std::thread([self = state.shared_from_this(),
                                  its = state.generation]() noexcept { Run(*self, its); });
      state.runs = true;
    } catch (const std::exception&) {
      return false;
    }
    return true;
  }

  // Has another thread run what was posted, and what will be: this one is about to wait for it. If
  // there is no thread to be had, it runs here what was posted until now.
  static void HandOver() noexcept {
    singleflight::detail::this_thread_mark.hand_over = nullptr;
    State& state = *this_threads_state;
    std::unique_lock lock(state.mutex);
    if (state.closed) return;  // nothing is posted any more
    state.thread.detach();
    ++state.generation;
    state.runs = false;
    if (state.tasks.empty() || StartThread(state)) return;
    std::deque<std::function<void()>> tasks = std::exchange(state.tasks, {});
    lock.unlock();
    for (; !tasks.empty(); tasks.pop_front()) std::exchange(tasks.front(), {})();
  }

  static void Run(State& state, unsigned generation) noexcept {
    this_threads_state = &state;
    singleflight::detail::this_thread_mark.hand_over = &HandOver;
    std::unique_lock lock(state.mutex);
    for (;;) {
      while (!state.tasks.empty()) {
        std::function<void()> task = std::move(state.tasks.front());
        state.tasks.pop_front();
        lock.unlock();
        task();
        task = nullptr;
        lock.lock();
        if (generation != state.generation) return;
      }
      if (state.closed) break;
      state.sleeps = true;
      const bool woken =
          state.changed.wait_for(lock, kIdle, [&] { return !state.tasks.empty() || state.closed; });
      state.sleeps = false;
      if (!woken) break;
    }
    singleflight::detail::this_thread_mark.hand_over = nullptr;
    state.runs = false;
  }

  // That of the Deliverer whose thread this is, or was.
  static inline constinit thread_local State* this_threads_state = nullptr;

  const std::shared_ptr<State> state_;
};

}  // namespace singleflight::redis::detail

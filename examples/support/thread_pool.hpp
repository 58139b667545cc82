// SPDX-License-Identifier: MIT
#pragma once

// A thread pool for async.cpp and callback.cpp. Yours will do as well: singleflight only needs
// something that runs a task on some thread.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "joining_thread.hpp"

class ThreadPool {
 public:
  explicit ThreadPool(int size) : ThreadPool() {  // so ~ThreadPool runs if no thread can be started
    while (size-- > 0) threads_.emplace_back([this] { Work(); });
  }
  // Runs the tasks that were posted before, and then joins the threads.
  ~ThreadPool() {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    posted_.notify_all();
  }

  // Thread: any. Tasks start in the order in which they were posted. A task must not throw.
  void Post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_one();
  }

 private:
  ThreadPool() = default;

  void Work() {
    for (std::unique_lock lock(mutex_);; lock.lock()) {
      posted_.wait(lock, [this] { return closing_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable posted_;
  bool closing_ = false;                     // guarded by mutex_
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  std::vector<JoiningThread> threads_;       // last, so that they are joined first
};

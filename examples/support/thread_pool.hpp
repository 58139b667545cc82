// SPDX-License-Identifier: MIT
#pragma once

// A thread pool for async.cpp and callback.cpp. Yours will do as well: singleflight only needs
// something that runs a task on some thread.

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

class ThreadPool {
 public:
  // The destructor runs the tasks that were posted before, and then joins the threads.
  explicit ThreadPool(int size) {
    while (size-- > 0) threads_.emplace_back([this](const std::stop_token& stop) { Work(stop); });
  }

  // Thread: any. Tasks start in the order in which they were posted. A task must not throw.
  void Post(std::function<void()> task) {
    const std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    posted_.notify_one();
  }

 private:
  void Work(const std::stop_token& stop) {
    for (std::unique_lock lock(mutex_);
         posted_.wait(lock, stop, [this] { return !tasks_.empty(); }); lock.lock()) {
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable_any posted_;
  std::deque<std::function<void()>> tasks_;  // guarded by mutex_
  std::vector<std::jthread> threads_;        // last, so that they are joined first
};

// SPDX-License-Identifier: MIT
#pragma once

// These helpers are for tests of the ways of waiting on a redis::Group. See processes.hpp: a
// RedisProcess stands for a process.

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>

#include "processes.hpp"
#include "server.hpp"
#include "support/support.hpp"
#include "support/threads.hpp"

namespace test {

// Whether this is the thread of that process's event loop.
template <class Process>
bool IsOnLoop(Process& process) {
  return singleflight::redis::detail::ClientAccess::Core(process.GetClient()).Loop().IsLoopThread();
}

// One function of a leader, which stays inside until Finish.
class HeldFn {
 public:
  ~HeldFn() { Finish(); }

  // Called by the function.
  void Run() {
    ++runs_;
    begun_.set_value();
    finish_.get_future().wait();
  }
  // The same, but returns when a stop is requested.
  void RunUntil(const singleflight::StopToken& stop) {
    ++runs_;
    begun_.set_value();
    Await([&] { return stop.stop_requested(); });
  }
  void AwaitBegun() { begun_.get_future().wait(); }
  void Finish() {
    if (!std::exchange(finished_, true)) finish_.set_value();
  }
  int Runs() const { return runs_; }

 private:
  std::promise<void> begun_, finish_;
  std::atomic<int> runs_ = 0;
  bool finished_ = false;
};

// A thread that runs tasks in their order. Declare it before the groups that it works for.
class TaskThread {
 public:
  TaskThread() : thread_([this] { Loop(); }) {}
  ~TaskThread() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    changed_.notify_all();
  }

  // Returns an executor that has this thread run its tasks.
  auto Executor() {
    return [this](std::function<void()> task) {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
      changed_.notify_all();
    };
  }
  std::thread::id Id() const { return id_.get_future().get(); }

 private:
  void Loop() {
    id_.set_value(std::this_thread::get_id());
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return closed_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::function<void()> task = std::move(tasks_.front());
      tasks_.pop_front();
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
  }

  mutable std::promise<std::thread::id> id_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> tasks_;
  bool closed_ = false;
  JoiningThread thread_;  // declared last: it uses the others
};

// A value that can only be moved.
struct MovableNumber {
  explicit MovableNumber(int of) : number(std::make_unique<int>(of)) {}
  std::unique_ptr<int> number;
};

// Returns when another process follows the call for `key`.
inline void AwaitFollower(const RedisServer& server, const std::string& key) {
  AwaitFollowers(server, key, 1);
}

// Returns when the server has nothing of any key.
inline void AwaitNothingOn(const RedisServer& server) {
  Await([&] { return server.Keys().empty(); });
}

}  // namespace test

template <>
struct singleflight::redis::Codec<test::MovableNumber> {
  static std::string Encode(const test::MovableNumber& value) {
    return std::to_string(*value.number);
  }
  static std::optional<test::MovableNumber> Decode(std::string_view text) {
    return test::MovableNumber(std::stoi(std::string(text)));
  }
};

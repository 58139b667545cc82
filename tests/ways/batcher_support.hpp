// SPDX-License-Identifier: MIT
#pragma once

// Helpers for the tests of Batcher.

#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <optional>
#include <singleflight/batcher.hpp>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

#include "support/batches.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

namespace singleflight {

inline std::ostream& operator<<(std::ostream& out, const BatcherStats& stats) {
  return out << "{batches " << stats.batches << ", keys " << stats.keys << ", dropped "
             << stats.dropped << ", waiting " << stats.waiting << "}";
}

}  // namespace singleflight

namespace test {

using Ints = Keys;
using IntBatcher = singleflight::Batcher<IntGroup>;

// What a batcher's function was called with.
class Calls {
 public:
  void Add(std::span<const int> keys) {
    const std::lock_guard lock(mutex_);
    calls_.emplace_back(keys.begin(), keys.end());
  }
  std::vector<Ints> Get() const {
    const std::lock_guard lock(mutex_);
    return calls_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Ints> calls_;
};

// A batcher's function that notes its keys, and returns ten times each.
inline auto Noting(Calls& calls) {
  return [&calls](std::span<const int> keys) {
    calls.Add(keys);
    return TenTimes(keys);
  };
}

// An executor that keeps its tasks for the test to run.
class Tasks {
 public:
  auto Keep() {
    return [this](auto task) {
      const std::lock_guard lock(mutex_);
      tasks_.emplace_back(std::move(task));
    };
  }
  std::size_t Count() const {
    const std::lock_guard lock(mutex_);
    return tasks_.size();
  }
  // Runs the oldest, and drops it.
  void RunOne() {
    std::unique_lock lock(mutex_);
    const std::function<void()> task = std::move(tasks_.front());
    tasks_.erase(tasks_.begin());
    lock.unlock();
    task();
  }
  void DropAll() {
    std::vector<std::function<void()>> dropped;  // outlives the lock
    const std::lock_guard lock(mutex_);
    dropped.swap(tasks_);
  }

 private:
  mutable std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;
};

// An executor that runs its tasks on threads of its own, in order.
class Pool {
 public:
  explicit Pool(std::size_t threads) : Pool() {  // so ~Pool runs if no thread can be started
    for (std::size_t i = 0; i < threads; ++i) {
      threads_.emplace_back([this] { Work(); });
    }
  }
  ~Pool() {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    posted_.notify_all();
  }
  auto Post() {
    return [this](auto task) {
      const std::lock_guard lock(mutex_);
      tasks_.emplace_back(std::move(task));
      posted_.notify_one();
    };
  }

 private:
  Pool() = default;

  void Work() {
    std::unique_lock lock(mutex_);
    for (;;) {
      posted_.wait(lock, [this] { return ending_ || !tasks_.empty(); });
      if (tasks_.empty()) return;
      std::function<void()> task = std::move(tasks_.front());
      tasks_.erase(tasks_.begin());
      lock.unlock();
      task();
      task = nullptr;
      lock.lock();
    }
  }

  std::mutex mutex_;
  std::condition_variable posted_;
  bool ending_ = false;
  std::vector<std::function<void()>> tasks_;
  std::vector<JoiningThread> threads_;  // last, so that they are joined first
};

// An executor that runs a task at once.
inline constexpr auto kInline = [](auto task) { task(); };

template <class Value>
Outcome<Value> Get(singleflight::Future<Value>& future) {
  return Keep([&] { return future.Get(); });
}

// The outcome of a key of a batch.
template <class Value>
Outcome<Value> Get(const singleflight::KeyResult<Value>& result) {
  return Keep([&] { return result.result(); });
}

// The values of a batch's keys. Throws the first error.
inline Ints ValuesOf(const Results& results) {
  Ints values;
  for (const auto& result : results) values.push_back(*result);
  return values;
}
inline Ints ValuesOf(std::vector<singleflight::Future<int>>& futures) {
  Ints values;
  for (auto& future : futures) values.push_back(*future.Get());
  return values;
}

// The errors of the keys of a batch.
using Errors = std::vector<std::optional<std::errc>>;
inline Errors ErrorsOf(const Results& results) {
  Errors errors;
  for (const auto& result : results) errors.push_back(ErrorOfKey(result));
  return errors;
}
inline Errors ErrorsOf(std::vector<singleflight::Future<int>>& futures) {
  Errors errors;
  for (auto& future : futures) errors.push_back(ErrorOf([&] { return future.Get(); }));
  return errors;
}

// A function that takes a stop token, notes its keys, and calls `while_running`.
inline auto Stoppable(Calls& calls, std::function<void(const StopToken&)> while_running = {}) {
  return [&calls, while_running](std::span<const int> keys, const StopToken& stop) {
    calls.Add(keys);
    if (while_running) while_running(stop);
    return TenTimes(keys);
  };
}

}  // namespace test

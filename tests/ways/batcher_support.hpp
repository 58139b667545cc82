// SPDX-License-Identifier: MIT
#pragma once

// Helpers for the tests of Batcher.

#include <algorithm>
#include <functional>
#include <mutex>
#include <singleflight/batcher.hpp>
#include <span>
#include <utility>
#include <vector>

#include "support/catch.hpp"
#include "support/support.hpp"

namespace singleflight {

inline std::ostream& operator<<(std::ostream& out, const BatcherStats& stats) {
  return out << "{batches " << stats.batches << ", keys " << stats.keys << ", dropped "
             << stats.dropped << ", waiting " << stats.waiting << "}";
}

}  // namespace singleflight

namespace test {

using Ints = std::vector<int>;
using IntGroup = singleflight::Group<int, int>;
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

inline Ints TenTimes(std::span<const int> keys) {
  Ints values;
  for (const int key : keys) values.push_back(10 * key);
  return values;
}

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

template <class Value>
Outcome<Value> Get(singleflight::Future<Value>& future) {
  return Keep([&] { return future.Get(); });
}

}  // namespace test

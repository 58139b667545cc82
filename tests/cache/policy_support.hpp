// SPDX-License-Identifier: MIT
#pragma once

// A ReadThrough in virtual time, and an executor that runs refreshes when the test says so.

#include <atomic>
#include <cstddef>
#include <functional>
#include <mutex>
#include <singleflight/read_through.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "support/support.hpp"
#include "virtual_clock.hpp"

namespace test {

using PolicyClock = VirtualClock<struct OfPolicies>;

struct PolicyTraits : singleflight::ReadThroughTraits {
  using Clock = PolicyClock;
  static double Random() { return random; }
  static inline double random = 1;  // in (0, 1]
};

template <class Value, class Cache = singleflight::DefaultCache, class Key = std::string>
using InVirtualTime = singleflight::ReadThrough<Key, Value, Cache, singleflight::DefaultHash<Key>,
                                                singleflight::DefaultEqual<Key>, PolicyTraits>;

// Keeps what it gets until Run. Any thread may give it something.
class TaskQueue {
 public:
  auto Executor() {
    return [this](std::function<void()> task) {
      const std::lock_guard lock(mutex_);
      tasks_.push_back(std::move(task));
    };
  }
  // Runs the tasks, and returns how many there were.
  std::size_t Run() {
    const auto tasks = Take();
    for (const auto& task : tasks) task();
    return tasks.size();
  }
  std::size_t Count() const {
    const std::lock_guard lock(mutex_);
    return tasks_.size();
  }
  void Drop() { Take(); }

 private:
  std::vector<std::function<void()>> Take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(tasks_, {});
  }

  mutable std::mutex mutex_;
  std::vector<std::function<void()>> tasks_;  // guarded by mutex_
};

inline int MustNotLoad() { throw std::logic_error("this load must not run"); }

// A load that returns a value, and counts.
struct CountedLoad {
  auto Returning(int value) {
    return [this, value] {
      ++count;
      return value;
    };
  }
  auto Failing() {
    return [this]() -> int {
      ++count;
      throw std::runtime_error("the source is down");
    };
  }
  std::atomic<int> count = 0;
};

}  // namespace test

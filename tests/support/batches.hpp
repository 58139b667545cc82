// SPDX-License-Identifier: MIT
#pragma once

// Helpers of the tests of batches.

#include <deque>
#include <functional>
#include <optional>
#include <singleflight/singleflight.hpp>
#include <span>
#include <stdexcept>
#include <system_error>
#include <utility>
#include <vector>

#include "coroutines.hpp"
#include "support.hpp"

namespace test {

using IntGroup = singleflight::Group<int, int>;
using Keys = std::vector<int>;
using Results = std::vector<singleflight::KeyResult<int>>;

inline constexpr auto kCanceled = std::errc::operation_canceled;

inline Keys TenTimes(std::span<const int> keys) {
  Keys values;
  for (const int key : keys) values.push_back(10 * key);
  return values;
}

inline Keys MustNotRun(std::span<const int>) { throw std::logic_error("this fn must not run"); }

// A value that counts how often it is copied.
struct Counted {
  explicit Counted(int its_value) : value(its_value) {}
  Counted(const Counted& other) : value(other.value) { ++copies; }
  Counted(Counted&&) noexcept = default;
  Counted& operator=(const Counted&) = delete;
  int value;
  static inline int copies = 0;
};

// Makes an `fn` that returns ten times each key once `signal` fires.
inline auto AwaitSignal(Signal& signal) {
  return [&signal](std::span<const int> keys) -> Task<Keys> {
    co_await signal;
    co_return TenTimes(keys);
  };
}

// Returns the error of a key, if it has one.
template <class Value>
std::optional<std::errc> ErrorOfKey(const singleflight::KeyResult<Value>& result) {
  if (result) return std::nullopt;
  return ErrorOf([&] { return result.result(); });
}

template <class Fn>
Routine Ask(IntGroup& group, Keys keys, Fn fn, Results& results, StopToken stop = {}) {
  results = co_await singleflight::CoDoMany(group, keys, fn, stop);
}
template <class Fn, class Executor>
Routine AskOn(Executor& executor, IntGroup& group, Keys keys, Fn fn, Results& results) {
  results = co_await singleflight::CoDoMany(group, keys, fn, executor);
}

// An executor that keeps its tasks for later.
struct Later {
  template <class ItsTask>
  void operator()(ItsTask task) {
    tasks.emplace_back(std::move(task));
  }
  void RunAll() {
    while (!tasks.empty()) {
      const std::function<void()> task = std::move(tasks.front());
      tasks.pop_front();
      task();
    }
  }
  std::deque<std::function<void()>> tasks;
};

struct Silent final : IntGroup::Waiter {
  ~Silent() override { this->Detach(); }
  void OnLanded() noexcept override {}
};

}  // namespace test

// SPDX-License-Identifier: MIT
#pragma once

// KeptTasks: an executor that keeps its tasks until the test runs them.

#include <cstddef>
#include <functional>
#include <utility>
#include <vector>

namespace test {

// Not thread-safe.
struct KeptTasks {
  auto Executor() {
    return [this](auto task) { tasks.push_back(std::move(task)); };
  }
  void RunNext() {
    const auto task = std::move(tasks.at(next));
    ++next;
    task();
  }
  std::vector<std::function<void()>> tasks;
  std::size_t next = 0;
};

}  // namespace test

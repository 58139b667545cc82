// SPDX-License-Identifier: MIT
#pragma once

// A herd of readers, and the slow backend that they ask: the load that cache.cpp offers anew to
// each of the things that it compares.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "comparison.hpp"

struct Load {
  int rate, threads, connections, backend_ms;
  std::vector<int> keys;  // what the requests ask for, in the order in which they are due
};

// Takes its time, and serves few at a time; the others wait.
class Backend {
 public:
  using Clock = std::chrono::steady_clock;

  explicit Backend(const Load& load) : latency_(load.backend_ms), free_(load.connections) {}

  int Query(int key) {
    std::unique_lock lock(mutex_);
    released_.wait(lock, [this] { return free_ > 0; });
    --free_;
    begun_.push_back(Clock::now());
    lock.unlock();
    std::this_thread::sleep_for(latency_);
    lock.lock();
    ++free_;
    released_.notify_one();
    return key;
  }

  // When each query began; once all have ended.
  const std::vector<Clock::time_point>& begun() const { return begun_; }

 private:
  const std::chrono::milliseconds latency_;
  std::mutex mutex_;
  std::condition_variable released_;
  int free_;                              // guarded by mutex_
  std::vector<Clock::time_point> begun_;  // guarded by mutex_
};

// Offers the load to `ask(backend, key)`, with a fresh backend, until all is answered. A request
// comes when it is due, however slow the answers are, and its latency counts from then.
template <class Ask>
MeasuredRun Run(const char* name, const Load& load, Ask ask) {
  using namespace std::chrono_literals;
  const auto start = Backend::Clock::now() + 100ms;  // the threads are up by then
  Backend backend(load);
  std::atomic<std::size_t> next = 0;
  std::vector<double> latencies(load.keys.size());
  std::vector<std::jthread> threads;
  for (int i = 0; i < load.threads; ++i) {
    threads.emplace_back([&] {
      for (std::size_t mine = next++; mine < load.keys.size(); mine = next++) {
        const auto due = start + std::chrono::nanoseconds(1s) * long(mine) / load.rate;
        std::this_thread::sleep_until(due);
        ask(backend, load.keys[mine]);
        latencies[mine] =
            std::chrono::duration<double, std::milli>(Backend::Clock::now() - due).count();
      }
    });
  }
  threads.clear();  // joins them
  std::ranges::sort(latencies);
  MeasuredRun run{name, {latencies.size(), backend.begun().size(), std::move(latencies)}, {}};
  for (const auto begun : backend.begun()) run.begun.push_back(begun - start);
  return run;
}

// SPDX-License-Identifier: MIT
#pragma once

// The load of herd.cpp and cache.cpp: a herd of requests, and the slow backend that answers them.
// Each program runs one load several times, each time with another protection of the backend.

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <singleflight/latency_histogram.hpp>
#include <string>
#include <thread>
#include <vector>

#include "joining_thread.hpp"

using Milliseconds = std::chrono::duration<double, std::milli>;

struct Load {
  int rate = 0;         // requests per second, evenly spaced
  int threads = 0;      // requests that can be in progress at the same time
  int connections = 0;  // queries that the backend runs at the same time
  std::chrono::milliseconds query_time = {};
  std::chrono::milliseconds deadline = std::chrono::hours(24);  // since the run started
  std::vector<int> keys = {};  // one for each request, in the order in which they are due
};

// Runs a few queries at a time, slowly. The others wait for a connection.
class Backend {
 public:
  using Clock = std::chrono::steady_clock;

  // Thrown by a query that has no connection at the deadline.
  struct NoConnection {};

  Backend(const Load& load, Clock::time_point start)
      : query_time_(load.query_time), deadline_(start + load.deadline), free_(load.connections) {}

  // Thread: any. Blocks until the query is done.
  int Query(int key) {
    std::unique_lock lock(mutex_);
    released_.wait_until(lock, deadline_, [this] { return free_ > 0; });
    if (free_ == 0 || Clock::now() >= deadline_) throw NoConnection();
    --free_;
    started_.push_back(Clock::now());
    lock.unlock();
    std::this_thread::sleep_for(query_time_);
    lock.lock();
    ++free_;
    released_.notify_one();
    return key;
  }

  // When each query started. No query may be running.
  const std::vector<Clock::time_point>& started() const { return started_; }

 private:
  const std::chrono::milliseconds query_time_;
  const Clock::time_point deadline_;
  std::mutex mutex_;
  std::condition_variable released_;
  int free_;                                // connections, guarded by mutex_
  std::vector<Clock::time_point> started_;  // guarded by mutex_
};

// What happened when a load was run.
struct Run {
  std::string name;
  Milliseconds deadline;
  std::size_t requests;
  singleflight::LatencyHistogram latencies;   // of the requests that were answered
  std::vector<Milliseconds> executions = {};  // when each query started, since the run started

  std::uint64_t Answered() const { return latencies.Count(); }
};

// Runs `load` against a new backend: calls `ask(backend, key)` for each request. A request comes
// when it is due, however slow the answers are, and its latency counts from then.
//
// Thread: `ask` is called on load.threads threads. Returns when they have finished, and `finish()`
//   has returned, which waits for what they have begun.
// Errors: where `ask` throws Backend::NoConnection, the request is unanswered.
template <class Ask, class Finish = void (*)()>
Run Measure(
    const char* name, const Load& load, Ask ask, Finish finish = [] {}) {
  using namespace std::chrono_literals;
  const auto start = Backend::Clock::now() + 100ms;  // all threads are running by then
  Backend backend(load, start);
  std::atomic<std::size_t> next = 0;
  Run run{.name = name, .deadline = load.deadline, .requests = load.keys.size(), .latencies = {}};
  std::vector<JoiningThread> threads;
  for (int i = 0; i < load.threads; ++i) {
    threads.emplace_back([&] {
      for (std::size_t mine = next++; mine < load.keys.size(); mine = next++) {
        const auto due = start + std::chrono::nanoseconds(1s) * long(mine) / load.rate;
        std::this_thread::sleep_until(due);
        try {
          ask(backend, load.keys[mine]);
          run.latencies.Record(Backend::Clock::now() - due);
        } catch (const Backend::NoConnection&) {
        }
      }
    });
  }
  threads.clear();  // joins them
  finish();
  for (const auto started : backend.started()) run.executions.push_back(started - start);
  return run;
}

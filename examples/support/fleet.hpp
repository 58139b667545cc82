// SPDX-License-Identifier: MIT
#pragma once

// The processes and threads of redis_fleet.cpp, and what they count.

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <numeric>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "flags.hpp"
#include "joining_thread.hpp"
#include "processes.hpp"
#include "redis_own_server.hpp"

using FleetGroup = singleflight::redis::Group<std::string>;

// The server that --socket, or --host and --port, name. Port 0 and no socket: none.
inline singleflight::redis::Options ServerFrom(Flags& flags) {
  singleflight::redis::Options options;
  options.unix_socket = flags.Text("socket", "");
  options.host = flags.Text("host", "");
  options.port = flags.Number("port", options.host.empty() ? 0 : 6379, 0, 65535);
  if (options.host.empty()) options.host = "127.0.0.1";
  return options;
}

// The load: every thread of every process asks for every key. In shared memory.
class Fleet {
 public:
  static constexpr std::size_t kProcesses = 8, kThreads = 16, kKeys = 10;

  // Runs `work` on the threads of this process.
  template <class Work>
  [[nodiscard]] static std::vector<JoiningThread> OnThreads(const Work& work) {
    std::vector<JoiningThread> threads;
    while (threads.size() < kThreads) threads.emplace_back([work] { OrExit(work); });
    return threads;
  }

  // Returns when all threads of this process are on the call for `key`.
  static void AwaitThreads(const FleetGroup& group, std::string_view key) {
    while (group.Callers(key) < kThreads) Pause();
  }

  // Asks for all keys in turn on the threads of this process. `ask(key)` returns the answer. All
  // threads of all processes ask for a key at the same time.
  template <class Ask>
  [[nodiscard]] std::vector<JoiningThread> AskForAll(std::size_t process, const Ask& ask) {
    return OnThreads([this, process, ask] {
      for (std::size_t key = 0; key < kKeys; ++key) {
        start_.ArriveAndWait();
        if (ask(NameOf(key)) == "answer to " + NameOf(key)) ++correct_answers_[process];
      }
    });
  }

  // Stands for a database query.
  std::string Query(const std::string& key, std::chrono::milliseconds time) {
    ++executions_[std::stoul(key.substr(4))];
    std::this_thread::sleep_for(time);
    return "answer to " + key;
  }

  // Each process calls this beside its threads, for AwaitAllCallers.
  void ReportThreads(const FleetGroup& group) {
    for (std::size_t key = 0; key < kKeys; ++key) {
      AwaitThreads(group, NameOf(key));
      ++ready_[key];
    }
  }

  // Returns when all callers are on the call for `key`. The threads of each process have joined its
  // leader then, and all leaders but one block at the server. Nobody else may block there.
  void AwaitAllCallers(const std::string& key, const singleflight::redis::Options& options) {
    RedisClient server(options);
    const auto& ready = ready_[std::stoul(key.substr(4))];
    while (ready < kProcesses || server.Info("blocked_clients") < int(kProcesses) - 1) Pause();
  }

  static void Pause() { std::this_thread::sleep_for(std::chrono::milliseconds(1)); }

  // What was counted.
  void PrintSums(const char* how) const {
    std::cout << how << ": " << std::reduce(executions_.begin(), executions_.end(), 0)
              << " executions, " << std::reduce(correct_answers_.begin(), correct_answers_.end(), 0)
              << " correct answers\n";
  }
  void PrintCounts() const {
    std::cout << "  executions of each key:";
    for (const int count : executions_) std::cout << ' ' << count;
    std::cout << "\n  correct answers in each process:";
    for (const int count : correct_answers_) std::cout << ' ' << count;
    std::cout << "\n";
  }

 private:
  static std::string NameOf(std::size_t key) { return "key:" + std::to_string(key); }

  ProcessBarrier start_{kProcesses * kThreads};  // of each key
  std::array<std::atomic<int>, kKeys> executions_ = {};
  std::array<std::atomic<int>, kProcesses> correct_answers_ = {};
  std::array<std::atomic<std::size_t>, kKeys> ready_ = {};  // processes whose threads all wait
};

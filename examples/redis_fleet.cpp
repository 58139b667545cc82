// SPDX-License-Identifier: MIT

// Eight processes of sixteen threads, which might be on eight hosts, ask for the same key at the
// same time, for ten keys in turn: one of all 128 runs the query.
//
//   ./redis_fleet
//
// prints (the time varies):
//
//   8 processes of 16 threads ask for 10 keys, over a redis-server of their own
//   executions of each key: 1 1 1 1 1 1 1 1 1 1
//   right answers to each process: 160 160 160 160 160 160 160 160
//   shared: 1280 of 1280
//   took 1.0 s
//
//   --socket, or --host and --port  of a running server to use instead (none)
//   --query-ms                      how long a query takes (100)

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iomanip>
#include <iostream>
#include <optional>
#include <random>
#include <singleflight/redis.hpp>
#include <string>
#include <thread>
#include <vector>

#include "support/flags.hpp"
#include "support/processes.hpp"
#include "support/redis_own_server.hpp"

namespace {

using namespace std::chrono_literals;

constexpr std::size_t kProcesses = 8, kThreads = 16, kKeys = 10;

// What all processes see.
struct Board {
  ProcessBarrier start{kProcesses * kThreads};  // of each key
  std::array<std::atomic<int>, kKeys> executions = {};
  std::array<std::atomic<std::size_t>, kKeys> ready = {};  // processes all of whose threads wait
  std::array<std::atomic<int>, kProcesses> right_answers = {};
  std::atomic<int> shared = 0;
};

std::string NameOf(std::size_t key) { return "key:" + std::to_string(key); }

void RunProcess(std::size_t process, const singleflight::redis::Options& options,
                std::chrono::milliseconds query_time, Board& board) {
  singleflight::redis::Group<std::string> group(options);  // made after the fork
  const auto query = [&](std::size_t key) {
    const int execution = ++board.executions[key];
    std::this_thread::sleep_for(query_time);
    // So that this prints the same on any machine, however slowly its threads run: the query ends
    // when all threads of each process are on its call, and each other process is blocked at the
    // server (where nobody else may be). Your function has no need of that.
    RedisClient server(options);
    while (board.ready[key] < kProcesses || server.Info("blocked_clients") < int(kProcesses) - 1) {
      std::this_thread::sleep_for(1ms);
    }
    return "answer " + std::to_string(execution) + " to " + NameOf(key);
  };
  const auto ask = [&] {
    for (std::size_t key = 0; key < kKeys; ++key) {
      board.start.ArriveAndWait();
      const auto [answer, shared] = group.Do(NameOf(key), [&] { return query(key); });
      board.right_answers[process] += answer == "answer 1 to " + NameOf(key) ? 1 : 0;
      board.shared += shared ? 1 : 0;
    }
  };
  std::vector<std::jthread> threads;
  while (threads.size() < kThreads) threads.emplace_back([&] { OrExit(ask); });
  for (std::size_t key = 0; key < kKeys; ++key) {
    while (group.Callers(NameOf(key)) < kThreads) std::this_thread::sleep_for(1ms);
    ++board.ready[key];
  }
}

void Print(const char* what, const auto& counts) {
  std::cout << what;
  for (const int count : counts) std::cout << ' ' << count;
  std::cout << "\n";
}

}  // namespace

int main(int argc, char** argv) try {
  Flags flags(argc, argv);
  singleflight::redis::Options options;
  options.unix_socket = flags.Text("socket", "");
  options.host = flags.Text("host", "");
  options.port = flags.Number("port", options.host.empty() ? 0 : 6379, 0, 65535);
  if (options.host.empty()) options.host = "127.0.0.1";
  const std::chrono::milliseconds query_time(flags.Number("query-ms", 100, 0, 3'600'000));
  flags.RefuseOthers();

  Processes processes;
  std::optional<OwnRedisServer> own;
  if (options.unix_socket.empty() && options.port == 0) {
    options.unix_socket = own.emplace().Socket();
  } else {
    RedisClient(options).Ask("PING");  // if it is not there, one process says so
  }
  options.prefix = "redis_fleet:" + std::to_string(std::random_device()());  // no other run's
  // A slow machine shall not be taken for a process that has died, nor an outage go unnoticed.
  options.lease = options.linger = options.connect_timeout = options.command_timeout = 10min;
  options.on_outage = singleflight::redis::OnOutage::kFail;

  std::cout << kProcesses << " processes of " << kThreads << " threads ask for " << kKeys << " keys"
            << (own ? ", over a redis-server of their own" : "") << std::endl;
  const InSharedMemory<Board> board;
  const auto start = std::chrono::steady_clock::now();
  const int exit_code = processes.Run(
      kProcesses, [&](std::size_t process) { RunProcess(process, options, query_time, *board); });
  if (exit_code != 0) return exit_code;
  const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
  Print("executions of each key:", board->executions);
  Print("right answers to each process:", board->right_answers);
  std::cout << "shared: " << board->shared << " of " << kProcesses * kThreads * kKeys << std::fixed
            << std::setprecision(1) << "\ntook " << time.count() << " s\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << "redis_fleet: " << error.what() << "\n";
  return 1;
}

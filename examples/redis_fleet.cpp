// SPDX-License-Identifier: MIT

// Eight processes of sixteen threads, which might be on eight hosts, ask for the same key at the
// same time, for ten keys in turn. Without a group each caller runs the query. With a redis::Group
// one of the 128 callers runs it. Then a leader's process is killed while it runs a query.
//
//   ./redis_fleet
//
// prints (the time varies):
//
//   8 processes of 16 threads ask for 10 keys: 1280 callers, over a redis-server of their own.
//   without a group: 1280 executions, 1280 correct answers
//   with a redis::Group: 10 executions, 1280 correct answers
//     executions of each key: 1 1 1 1 1 1 1 1 1 1
//     correct answers in each process: 160 160 160 160 160 160 160 160
//   The leader of another call is killed by SIGKILL while it runs the query. Its lease is 1 s.
//     A caller in another process took over 855 ms later and ran the query again.
//     executions: 2 started, 1 finished
//     correct answers in that process: 16 of 16
//
//   --socket, or --host and --port  of a running server to use instead (none)
//   --query-ms                      how long a query takes (100)

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <optional>
#include <random>
#include <singleflight/redis.hpp>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

#include "support/flags.hpp"
#include "support/fleet.hpp"
#include "support/processes.hpp"
#include "support/redis_own_server.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;  // all processes of a host see the same time
using Options = singleflight::redis::Options;

// One process of the fleet with a group.
void RunWithGroup(Fleet& fleet, std::size_t process, const Options& options,
                  std::chrono::milliseconds query_time) {
  FleetGroup group(options);  // made after the fork
  const auto threads = fleet.AskForAll(process, [&](const std::string& key) {
    const auto query = [&] {
      std::string answer = fleet.Query(key, query_time);
      // So that the counts are the same on any machine. Your function does not need it.
      fleet.AwaitAllCallers(key, options);
      return answer;
    };
    return group.Do(key, query).value();
  });
  fleet.ReportThreads(group);
}

// What the two processes of the last act share.
struct Takeover {
  std::atomic<pid_t> leader = 0;
  std::atomic<bool> killed = false;
  std::atomic<int> started = 0, finished = 0, correct_answers = 0;
  std::atomic<Clock::time_point> killed_at, taken_over_at;
};

// The first process leads, and its query never returns. The second process follows, kills the first
// one and takes over.
void RunTakeover(Takeover& takeover, std::size_t process, const Options& options) {
  FleetGroup group(options);
  if (process == 0) {
    const auto hang = [&takeover]() -> std::string {
      ++takeover.started;
      takeover.leader = ::getpid();
      for (;;) ::pause();
    };
    std::ignore = group.Do("report", hang);
  }
  while (takeover.leader == 0) Fleet::Pause();
  const auto query = [&takeover] {
    ++takeover.started;
    takeover.taken_over_at = Clock::now();
    while (!takeover.killed) Fleet::Pause();  // where the leader was too slow to renew its lease
    ++takeover.finished;
    return "a report";
  };
  const auto threads = Fleet::OnThreads([&] {
    if (*group.Do("report", query) == "a report") ++takeover.correct_answers;
  });
  Fleet::AwaitThreads(group, "report");
  std::this_thread::sleep_for(200ms);  // the leader is at work
  takeover.killed_at = Clock::now();
  ::kill(takeover.leader, SIGKILL);
  takeover.killed = true;
}

}  // namespace

int main(int argc, char** argv) try {
  Flags flags(argc, argv);
  Options options = ServerFrom(flags);
  const std::chrono::milliseconds query_time(flags.Number("query-ms", 100, 0, 3'600'000));
  flags.RefuseOthers();

  Processes processes;
  std::optional<OwnRedisServer> own;
  if (options.unix_socket.empty() && options.port == 0) {
    options.unix_socket = own.emplace().Socket();
  } else {
    RedisClient(options).Ask("PING");  // if there is no server, this says so once
  }
  options.prefix = "redis_fleet:" + std::to_string(std::random_device()());  // no other run has it
  // A slow machine must not look like a dead process, and an outage must not go unnoticed.
  options.lease = options.linger = options.connect_timeout = options.command_timeout = 10min;
  options.on_outage = singleflight::redis::OnOutage::kFail;

  std::cout << "8 processes of 16 threads ask for 10 keys: 1280 callers"
            << (own ? ", over a redis-server of their own.\n" : ".\n") << std::flush;
  const InSharedMemory<Fleet> without, with;
  const auto run_without = [&](std::size_t process) {
    const auto query = [&](const std::string& key) { return without->Query(key, query_time); };
    const auto threads = without->AskForAll(process, query);
  };
  if (const int failed = processes.Run(Fleet::kProcesses, run_without)) return failed;
  without->PrintSums("without a group");

  const auto run_with = [&](std::size_t process) {
    RunWithGroup(*with, process, options, query_time);
  };
  if (const int failed = processes.Run(Fleet::kProcesses, run_with)) return failed;
  with->PrintSums("with a redis::Group");
  with->PrintCounts();

  options.lease = 1s;
  std::cout << "The leader of another call is killed by SIGKILL while it runs the query. Its lease "
               "is 1 s.\n";
  const InSharedMemory<Takeover> takeover;
  const auto run_takeover = [&](std::size_t process) { RunTakeover(*takeover, process, options); };
  if (const int failed = processes.Run(2, run_takeover, /*to_be_killed=*/1)) return failed;
  const auto time = takeover->taken_over_at.load() - takeover->killed_at.load();
  std::cout << "  A caller in another process took over " << std::max<long long>(time / 1ms, 0)
            << " ms later and ran the query again.\n  executions: " << takeover->started
            << " started, " << takeover->finished
            << " finished\n  correct answers in that process: " << takeover->correct_answers
            << " of 16\n";
  return 0;
} catch (const std::exception& error) {
  std::cerr << "redis_fleet: " << error.what() << "\n";
  return 1;
}

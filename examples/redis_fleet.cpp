// SPDX-License-Identifier: MIT

// Eight processes, which might be on eight hosts, share a Redis server. In each, one thread runs
// 500 coroutines, which ask for ten keys. Of the 400 callers of a key, one runs the query. Then a
// leader's process is killed while it runs a query.
//
//   ./redis_fleet
//
// prints (the time varies):
//
//   8 processes with 500 coroutines on a thread ask for 10 keys: 4000 callers.
//   with a redis::Group: 10 executions, 4000 correct answers
//     executions of each key: 1 1 1 1 1 1 1 1 1 1
//     correct answers in each process: 500 500 500 500 500 500 500 500
//     connections to the server in each process: 2 2 2 2 2 2 2 2
//   The leader of another call is killed by SIGKILL while it runs the query. Its lease is 1 s.
//     A caller in another process took over 855 ms later and ran the query again.
//     executions: 2 started, 1 finished
//     correct answers in that process: 500 of 500
//
//   --query-ms  how long a query takes (100)

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <singleflight/singleflight.hpp>
#include <string>
#include <vector>

#include "support/event_loop.hpp"
#include "support/flags.hpp"
#include "support/fleet.hpp"
#include "support/processes.hpp"
#include "support/redis_own_server.hpp"

namespace {

using namespace std::chrono_literals;
using singleflight::CoDo;
constexpr std::size_t kProcesses = 8, kCoroutines = 500, kKeys = 10;

// One caller. True: it has got the right answer. `query()` is a Task. Whoever leads in the fleet,
// it runs on this process's loop, and so does the coroutine afterwards.
template <class Query>
Task<bool> Ask(FleetMember& member, std::string key, Query query) {
  const auto on_loop = [&loop = member.EventLoop()](auto task) { loop.Post(task); };
  const auto answer = co_await CoDo(member.Group(), key, query, on_loop, {}, on_loop);
  co_return *answer == "answer to " + key;
}

// What the eight processes share, in memory.
struct Shared {
  ProcessBarrier start{kProcesses};
  std::atomic<std::size_t> have_asked = 0;  // processes whose coroutines have all asked
  std::array<std::atomic<int>, kKeys> executions = {};
  std::array<std::atomic<int>, kProcesses> correct_answers = {}, connections = {};
};

void RunTogether(Shared& shared, std::size_t process, const std::string& socket,
                 std::chrono::milliseconds query_time) {
  FleetMember member(socket, 10min);  // a slow machine must not look like a dead process
  shared.start.ArriveAndWait();
  std::vector<Task<bool>> asked;
  while (asked.size() < kCoroutines) {
    const std::size_t number = asked.size() % kKeys;
    const std::string key = "key:" + std::to_string(number);
    const auto query = [&, number, key]() -> Task<std::string> {  // of a database, say
      ++shared.executions[number];
      co_await member.EventLoop().Sleep(query_time);
      // So that the counts are the same on any machine: nobody comes too late. Your query does not
      // need it.
      while (shared.have_asked < kProcesses || member.ProcessesThatFollow(key) < kProcesses - 1) {
        co_await member.EventLoop().Sleep(1ms);
      }
      co_return "answer to " + key;
    };
    asked.push_back(Ask(member, key, query));
  }
  ++shared.have_asked;
  shared.correct_answers[process] = member.Run(asked);
  shared.connections[process] = member.Connections();
}

// What the two processes of the last act share.
struct Takeover {
  std::atomic<pid_t> leader = 0;
  std::atomic<int> started = 0, finished = 0, correct_answers = 0;
  std::atomic<Loop::Clock::time_point> killed_at = {}, taken_over_at = {};
};

// The first process leads, and its query never returns. The second one follows, and kills it.
void RunTakeover(Takeover& takeover, std::size_t process, const std::string& socket) {
  FleetMember member(socket, 1s);
  Loop& loop = member.EventLoop();
  const auto has_killed = [&] { return takeover.killed_at.load() != Loop::Clock::time_point(); };
  const auto query = [&]() -> Task<std::string> {
    ++takeover.started;
    if (process == 0) takeover.leader = ::getpid();
    while (process == 0) co_await loop.Sleep(1h);
    while (!has_killed()) co_await loop.Sleep(1ms);  // if the leader was too slow to renew
    takeover.taken_over_at = Loop::Clock::now();
    ++takeover.finished;
    co_return "answer to report";
  };
  const auto kill_leader = [&]() -> Task<bool> {
    while (takeover.started < 2 && member.ProcessesThatFollow("report") < 1) {
      co_await loop.Sleep(1ms);
    }
    co_await loop.Sleep(200ms);  // the leader is at work
    takeover.killed_at = Loop::Clock::now();
    co_return ::kill(takeover.leader, SIGKILL) != 0;
  };
  while (process == 1 && takeover.leader == 0) ::usleep(1000);
  std::vector<Task<bool>> asked;
  while (asked.size() < kCoroutines) asked.push_back(Ask(member, "report", query));
  if (process == 1) asked.push_back(kill_leader());
  takeover.correct_answers = member.Run(asked);
}

}  // namespace

int main(int argc, char** argv) try {
  Flags flags(argc, argv);
  const std::chrono::milliseconds query_time(flags.Number("query-ms", 100, 0, 3'600'000));
  flags.RefuseOthers();

  Processes processes;
  const OwnRedisServer server;
  const std::string socket = server.Socket();
  std::cout << "8 processes with 500 coroutines on a thread ask for 10 keys: 4000 callers.\n";

  const InSharedMemory<Shared> shared;
  const auto run = [&](std::size_t process) { RunTogether(*shared, process, socket, query_time); };
  if (const int failed = processes.Run(kProcesses, run)) return failed;
  std::cout << "with a redis::Group: " << SumOf(shared->executions) << " executions, "
            << SumOf(shared->correct_answers) << " correct answers\n";
  PrintCounts("executions of each key", shared->executions);
  PrintCounts("correct answers in each process", shared->correct_answers);
  PrintCounts("connections to the server in each process", shared->connections);

  std::cout << "The leader of another call is killed by SIGKILL while it runs the query. "
            << "Its lease is 1 s.\n";
  const InSharedMemory<Takeover> takeover;
  const auto take_over = [&](std::size_t process) { RunTakeover(*takeover, process, socket); };
  if (const int failed = processes.Run(2, take_over, /*to_be_killed=*/1)) return failed;
  const auto time = takeover->taken_over_at.load() - takeover->killed_at.load();
  std::cout << "  A caller in another process took over "
            << std::chrono::duration_cast<std::chrono::milliseconds>(time).count()
            << " ms later and ran the query again.\n"
            << "  executions: " << takeover->started << " started, " << takeover->finished
            << " finished\n  correct answers in that process: " << takeover->correct_answers
            << " of " << kCoroutines << '\n';
  return 0;
} catch (const std::exception& error) {
  std::cerr << "redis_fleet: " << error.what() << '\n';
  return 1;
}

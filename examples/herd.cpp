// SPDX-License-Identifier: MIT

// A herd of requests against a slow backend with few connections, without and with a Group.
//
//   ./herd
//
// prints a line a second, a histogram of the latencies, and (the figures vary):
//
//                    without group        with group
//   requests                 10000             10000
//   answered                  6052             10000
//   executions                6052              3174
//   deduplicated               0.0 %            68.3 %
//   latency p50             1523.0 ms           36.7 ms
//   latency p99                inf ms           51.0 ms
//
//   --rate, --seconds  requests per second, evenly spaced (2000); length of each run (5)
//   --keys, --zipf     how many keys (100); the k-th is asked for with weight 1 / k^zipf (1.1)
//   --connections      how many queries the backend serves at a time; the others wait (60)
//   --backend-ms       how long a query takes once it has a connection (50)
//   --threads          how many requests can be worked on at a time, waiting ones included (500)
//
// A request comes when it is due, however slow the answers are, and its latency counts from then.
// One that has got no connection when the run ends goes unanswered: its latency is infinite.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdio>
#include <limits>
#include <random>
#include <semaphore>
#include <singleflight/group.hpp>
#include <thread>
#include <utility>
#include <vector>

#include "support/flags.hpp"
#include "support/report.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

struct Load {
  int rate, seconds, connections, backend_ms, threads;
  std::vector<int> keys;  // what the requests ask for, in the order in which they are due
};

// Offers the load to a fresh backend. `ask(key, query)` gets the answer to one request, from
// `query()` or from another request; it is false if there was none.
template <class Ask>
Figures Run(const char* how, const Load& load, Ask ask) {
  const auto start = Clock::now() + 100ms;  // the threads are up by then
  const auto end = start + load.seconds * 1s;
  std::counting_semaphore connections(load.connections);
  std::atomic<std::size_t> next = 0, answered = 0, executions = 0;
  std::vector<double> latencies(load.keys.size(), std::numeric_limits<double>::infinity());

  const auto query = [&] {
    if (Clock::now() >= end || !connections.try_acquire_until(end)) return false;
    ++executions;
    std::this_thread::sleep_for(load.backend_ms * 1ms);
    connections.release();
    return true;
  };
  std::vector<std::jthread> threads;
  for (int i = 0; i < load.threads; ++i) {
    threads.emplace_back([&] {
      for (std::size_t mine = next++; mine < load.keys.size(); mine = next++) {
        const auto due = start + std::chrono::nanoseconds(1s) * long(mine) / load.rate;
        std::this_thread::sleep_until(due);
        if (!ask(load.keys[mine], query)) continue;
        ++answered;
        latencies[mine] = std::chrono::duration<double, std::milli>(Clock::now() - due).count();
      }
    });
  }
  for (int second = 1; second <= load.seconds; ++second) {
    std::this_thread::sleep_until(start + second * 1s);
    std::printf("%s, second %d: %d requests, %zu answered, %zu executions\n", how, second,
                second * load.rate, answered.load(), executions.load());
    std::fflush(stdout);
  }
  threads.clear();  // joins them
  std::ranges::sort(latencies);
  return {answered, executions, std::move(latencies)};
}

}  // namespace

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  Load load = {};
  load.rate = flags.Number("rate", 2000, 1, 100'000);
  load.seconds = flags.Number("seconds", 5, 1, 60);
  load.connections = flags.Number("connections", 60, 1, 10'000);
  load.backend_ms = flags.Number("backend-ms", 50, 0, 10'000);
  load.threads = flags.Number("threads", 500, 1, 4096);
  const int key_count = flags.Number("keys", 100, 1, 1'000'000);
  const double zipf = flags.Number("zipf", 1.1, 0.0, 10.0);
  flags.RefuseOthers();

  std::vector<double> weights;
  for (int k = 1; k <= key_count; ++k) weights.push_back(std::pow(k, -zipf));
  std::discrete_distribution<int> pick(weights.begin(), weights.end());
  std::mt19937 random;  // not seeded: all runs ask for the same keys
  for (int i = 0; i < load.rate * load.seconds; ++i) load.keys.push_back(pick(random));

  const Figures without =
      Run("without group", load, [](int /*key*/, const auto& query) { return query(); });

  singleflight::Group<int, bool> group;
  const Figures with = Run("with group", load,
                           [&group](int key, const auto& query) { return *group.Do(key, query); });

  PrintTable(without, with);
  PrintHistogram(without, with);
}

// SPDX-License-Identifier: MIT

// A herd of requests asks a slow backend with few connections, first without and then with a Group.
// A few keys are popular, as on most sites: the keys have a Zipf distribution.
//
//   ./herd
//
// prints a table and a histogram of the latencies within 11 seconds (the figures vary):
//
//                  without group      with group
//   requests               10000           10000
//   answered                6000           10000
//   executions              6000            3170
//   deduplicated           0.0 %          68.3 %
//   latency p50        1578.6 ms         36.7 ms
//   latency p99        > 5000 ms         50.4 ms
//
//   --rate, --seconds  requests per second, evenly spaced (2000), and the length of a run (5)
//   --keys, --zipf     how many keys (100): the k-th has the weight 1 / k^zipf (1.1)
//   --connections      how many queries the backend runs at the same time (60)
//   --backend-ms       how long a query takes once it has a connection (50)
//   --threads          how many requests can be in progress at the same time (500)
//
// A request that has no connection at the end of the run is unanswered. Its latency then counts as
// longer than the run.

#include <chrono>
#include <cmath>
#include <random>
#include <singleflight/group.hpp>
#include <vector>

#include "support/flags.hpp"
#include "support/load.hpp"
#include "support/report.hpp"

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  Load load;
  load.rate = flags.Number("rate", 2000, 1, 100'000);
  const std::chrono::seconds length(flags.Number("seconds", 5, 1, 60));
  load.deadline = length;
  load.connections = flags.Number("connections", 60, 1, 10'000);
  load.query_time = std::chrono::milliseconds(flags.Number("backend-ms", 50, 0, 10'000));
  load.threads = flags.Number("threads", 500, 1, 4096);
  const int key_count = flags.Number("keys", 100, 1, 1'000'000);
  const double zipf = flags.Number("zipf", 1.1, 0.0, 10.0);
  flags.RefuseOthers();

  std::vector<double> weights;
  for (int k = 1; k <= key_count; ++k) weights.push_back(std::pow(k, -zipf));
  std::discrete_distribution<int> pick(weights.begin(), weights.end());
  std::mt19937 random;  // not seeded, so that all runs ask for the same keys
  for (int i = 0; i < load.rate * length.count(); ++i) load.keys.push_back(pick(random));

  singleflight::Group<int, int> group;
  std::vector<Run> runs;
  runs.push_back(
      Measure("without group", load, [](Backend& backend, int key) { return backend.Query(key); }));
  runs.push_back(Measure("with group", load, [&group](Backend& backend, int key) {
    return *group.Do(key, [&] { return backend.Query(key); });
  }));

  PrintTable(runs, {kRequests, kAnswered, kExecutions, kDeduplicated, kLatencyP50, kLatencyP99});
  PrintHistogram(runs);
}

// SPDX-License-Identifier: MIT

// A herd of readers asks for a few hot keys, whose cache entries expire. The slow backend is
// protected by nothing, by the cache alone, by a Group alone, and by both: a ReadThrough.
//
//   ./cache
//
// prints within six seconds (the figures vary):
//
//                  no protection           cache    singleflight            both
//   requests                1000            1000            1000            1000
//   executions              1000             165              76              16
//   latency mean        787.9 ms         12.9 ms         27.1 ms          5.8 ms
//   latency p99        2245.3 ms        110.4 ms         50.4 ms         50.3 ms
//
//   Queries over time. Each character is 41 ms: how many queries started in it
//   (. none, # ten or more).
//   no protection   ############################################9###############
//   cache           ###.....####.....####.......................................
//   singleflight    444224432344224332434234....................................
//   both            4.....4.....4.....4.........................................
//
// When an entry expires, the cache alone lets all requests through until the first new answer: a
// stampede. The group alone runs one query per key at a time, but it runs queries all the time.
//
//   --rate, --seconds  requests per second, evenly spaced (1000), and for how long they come (1)
//   --keys             how many keys, all equally popular (4)
//   --ttl-ms           how long an entry of the cache lives (200)
//   --connections      how many queries the backend runs at the same time (20)
//   --backend-ms       how long a query takes once it has a connection (50)
//   --threads          how many requests can be in progress at the same time (200)

#include <chrono>
#include <random>
#include <singleflight/group.hpp>
#include <singleflight/read_through.hpp>
#include <vector>

#include "adapters/ttl_cache.hpp"
#include "support/flags.hpp"
#include "support/load.hpp"
#include "support/report.hpp"

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  Load load;
  load.rate = flags.Number("rate", 1000, 10, 100'000);
  const double seconds = flags.Number("seconds", 1.0, 0.1, 60.0);
  const int key_count = flags.Number("keys", 4, 1, 1'000'000);
  const std::chrono::milliseconds ttl(flags.Number("ttl-ms", 200, 1, 1'000'000));
  load.connections = flags.Number("connections", 20, 1, 10'000);
  load.query_time = std::chrono::milliseconds(flags.Number("backend-ms", 50, 0, 10'000));
  load.threads = flags.Number("threads", 200, 1, 4096);
  flags.RefuseOthers();

  std::mt19937 random;  // not seeded, so that all runs ask for the same keys
  for (int i = 0; i < int(load.rate * seconds); ++i) {
    load.keys.push_back(int(random() % unsigned(key_count)));
  }

  using Cache = TtlCache<int, int>;
  Cache alone(ttl), beside_group(ttl);
  singleflight::Group<int, int> group;
  singleflight::ReadThrough<int, int, Cache&> both(beside_group);

  std::vector<Run> runs;
  runs.push_back(
      Measure("no protection", load, [](Backend& backend, int key) { return backend.Query(key); }));
  runs.push_back(Measure("cache", load, [&](Backend& backend, int key) {
    if (const auto found = alone.Get(key)) return *found;
    const int value = backend.Query(key);
    alone.Put(key, value);
    return value;
  }));
  runs.push_back(Measure("singleflight", load, [&](Backend& backend, int key) {
    return *group.Do(key, [&] { return backend.Query(key); });
  }));
  runs.push_back(Measure("both", load, [&](Backend& backend, int key) {
    return *both.Get(key, [&] { return backend.Query(key); });
  }));

  PrintTable(runs, {kRequests, kExecutions, kLatencyMean, kLatencyP99});
  PrintOverTime(runs);
}

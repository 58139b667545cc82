// SPDX-License-Identifier: MIT

// A herd of readers asks for a few hot keys, whose cache entries expire. The slow backend is
// protected by nothing, by the cache alone, by a Group alone, by both in a ReadThrough, and by one
// with policies: it refreshes values in the background before they expire, or serves them stale.
//
//   ./cache
//
// prints within seven seconds (the figures vary):
//
//                  no protection           cache    singleflight            both        policies
//   requests                1000            1000            1000            1000            1000
//   executions              1000             159              75              16              34
//   latency mean        805.2 ms         12.4 ms         27.3 ms          6.4 ms          0.3 ms
//   latency p99        2283.1 ms        111.6 ms         51.5 ms         50.3 ms          2.2 ms
//
//   Queries over time. Each character is 42 ms: how many queries started in it
//   (. none, # ten or more).
//   no protection   ############################################################
//   cache           ..###.....2###.....###6.....................................
//   singleflight    444314441344323424333341....................................
//   both            ..4.....4.....4.....4.......................................
//   policies        ..4.213.221.311311312111....................................
//
// When an entry expires, the cache alone lets all requests through until the first new answer: a
// stampede. The group alone runs one query per key at a time, but it runs queries all the time.
// With both, a query runs when an entry has expired, and its requests wait. With the policies, a
// few more queries run, and nobody waits.
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
#include <singleflight/lru_cache.hpp>
#include <singleflight/read_through.hpp>
#include <vector>

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

  singleflight::LruCache<int, int> alone({.ttl = ttl});
  singleflight::Group<int, int> group;
  using ReadThrough = singleflight::ReadThrough<int, int>;
  ReadThrough both({.ttl = ttl});
  ReadThrough policies({.ttl = ttl, .stale_for = 10 * ttl, .early_refresh = 1});

  const auto fill = [&](auto& cache) {  // each run begins with values that have just been put
    for (int key = 0; key < key_count; ++key) cache.Put(key, key);
  };

  std::vector<Run> runs;
  runs.push_back(
      Measure("no protection", load, [](Backend& backend, int key) { return backend.Query(key); }));
  fill(alone);
  runs.push_back(Measure("cache", load, [&](Backend& backend, int key) {
    if (const auto found = alone.Get(key)) return *found;
    const int value = backend.Query(key);
    alone.Put(key, value);
    return value;
  }));
  runs.push_back(Measure("singleflight", load, [&](Backend& backend, int key) {
    return *group.Do(key, [&] { return backend.Query(key); });
  }));
  fill(both);
  runs.push_back(Measure("both", load, [&](Backend& backend, int key) {
    return *both.Get(key, [&] { return backend.Query(key); });
  }));

  fill(policies);
  // A refresh outlives its request, so its load captures by value, and is waited for in the end.
  runs.push_back(Measure(
      "policies", load,
      [&](Backend& backend, int key) {
        return *policies.Get(key, [to = &backend, key] { return to->Query(key); });
      },
      [&] { policies.Close(); }));

  PrintTable(runs, {kRequests, kExecutions, kLatencyMean, kLatencyP99});
  PrintOverTime(runs);
}

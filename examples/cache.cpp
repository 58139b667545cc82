// SPDX-License-Identifier: MIT

// A cache whose entries expire, and a herd of readers of a few hot keys before a slow backend: with
// nothing in between, the cache alone, a Group alone, and both, which is what a ReadThrough is.
//
//   ./cache
//
// prints within six seconds (the figures vary):
//
//                       no protection          cache   singleflight           both
//   requests                     1000           1000           1000           1000
//   backend executions           1000            165             76             16
//   latency mean, ms            787.9           12.9           27.1            5.8
//   latency p99, ms            2245.3          110.4           50.4           50.3
//
//   executions begun in each 41 ms (. none, # ten or more)
//   no protection  ############################################9###############
//   cache          ###.....####.....####.......................................
//   singleflight   444224432344224332434234....................................
//   both           4.....4.....4.....4.........................................
//
// The cache alone lets through all who ask between an entry's expiry and the first new answer: a
// stampede. The group alone runs one query per key at a time, but runs them all the time.
//
//   --rate, --seconds  requests per second, evenly spaced (1000); for how long they come (1)
//   --keys             how many keys, each asked for as often as any other (4)
//   --ttl-ms           how long an entry of the cache lives (200)
//   --connections      how many queries the backend serves at a time; the others wait (20)
//   --backend-ms       how long a query takes once it has a connection (50)
//   --threads          how many requests can be worked on at a time, waiting ones included (200)

#include <chrono>
#include <random>
#include <singleflight/group.hpp>
#include <singleflight/read_through.hpp>
#include <vector>

#include "adapters/ttl_cache.hpp"
#include "support/comparison.hpp"
#include "support/flags.hpp"
#include "support/load.hpp"

int main(int argc, char** argv) {
  Flags flags(argc, argv);
  Load load = {};
  load.rate = flags.Number("rate", 1000, 10, 100'000);
  const double seconds = flags.Number("seconds", 1.0, 0.1, 60.0);
  const int key_count = flags.Number("keys", 4, 1, 1'000'000);
  const std::chrono::milliseconds ttl(flags.Number("ttl-ms", 200, 1, 1'000'000));
  load.connections = flags.Number("connections", 20, 1, 10'000);
  load.backend_ms = flags.Number("backend-ms", 50, 0, 10'000);
  load.threads = flags.Number("threads", 200, 1, 4096);
  flags.RefuseOthers();

  std::mt19937 random;  // not seeded: all runs ask for the same keys
  for (int i = 0; i < int(load.rate * seconds); ++i) {
    load.keys.push_back(int(random() % unsigned(key_count)));
  }

  using Cache = TtlCache<int, int>;
  Cache alone(ttl), beside_group(ttl);
  singleflight::Group<int, int> group;
  singleflight::ReadThrough<int, int, Cache&> both(beside_group);

  std::vector<MeasuredRun> runs;
  runs.push_back(
      Run("no protection", load, [](Backend& backend, int key) { return backend.Query(key); }));
  runs.push_back(Run("cache", load, [&](Backend& backend, int key) {
    if (const auto found = alone.Get(key)) return *found;
    const int value = backend.Query(key);
    alone.Put(key, value);
    return value;
  }));
  runs.push_back(Run("singleflight", load, [&](Backend& backend, int key) {
    return *group.Do(key, [&] { return backend.Query(key); });
  }));
  runs.push_back(Run("both", load, [&](Backend& backend, int key) {
    return *both.Get(key, [&] { return backend.Query(key); });
  }));

  PrintTable(runs);
  PrintOverTime(runs);
}

// SPDX-License-Identifier: MIT
#pragma once

// All statistics of the library in one Metrics.

#include <chrono>
#include <singleflight/batcher.hpp>
#include <singleflight/group.hpp>
#include <singleflight/lru_cache.hpp>
#include <singleflight/observe.hpp>
#include <singleflight/read_through.hpp>
#include <singleflight/redis_client_options.hpp>
#include <singleflight/redis_read_through_options.hpp>

namespace test {

inline singleflight::Metrics AllMetrics() {
  singleflight::Group<int, int> group;
  static_cast<void>(group.Do(1, [] { return 1; }));
  singleflight::ReadThrough<int, int> cache;
  static_cast<void>(cache.Get(1, [] { return 1; }));
  const singleflight::redis::NodeInfo server{
      .address = "[::1]:6379",
      .state = singleflight::redis::NodeState::kUp,
      .since = std::chrono::system_clock::time_point(std::chrono::milliseconds(1'796'000'000'500))};
  const singleflight::redis::NodeInfo sentinel{
      .address = "redis:26379",
      .state = singleflight::redis::NodeState::kAway,
      .since = std::chrono::system_clock::time_point(std::chrono::seconds(1'796'000'001)),
      .why = "Connection refused",
      .is_sentinel = true};
  singleflight::Metrics metrics;
  metrics.Add("pages", group)
      .Add("users", cache)
      .Add({{"group", "odd \"\\\n\xFF"}, {"zone", "é"}}, singleflight::LruCache<int, int>())
      .Add("batches", singleflight::BatcherStats())
      .Add("fleet", singleflight::redis::ReadThroughStats())
      .Add("fleet", server)
      .Add("fleet", sentinel)
      .Add("calls", singleflight::LatencyListener());
  return metrics;
}

}  // namespace test

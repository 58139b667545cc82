// SPDX-License-Identifier: MIT

// Tests redis::ReadThrough in a Redis Cluster, where the keys, and the generation of all, are on
// different nodes.

#include <set>
#include <singleflight/many.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <string>
#include <vector>

#include "caches.hpp"
#include "cluster.hpp"
#include "outages.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

singleflight::redis::ClientOptions At(const RedisCluster& cluster, std::size_t node) {
  singleflight::redis::ClientOptions options = LongTimeouts("");
  options.port = cluster.Node(node).Port();
  return options;
}

}  // namespace

TEST_CASE("Redis Cluster: a redis::ReadThrough has its values on all nodes, and works as on one") {
  const RedisCluster cluster;
  PageOptions options = LongTtl();
  if (GENERATE(false, true)) options.local_ttl = 1h;
  CachePages here(At(cluster, 0), options), there(At(cluster, 1), options);
  if (options.local_ttl) {
    AwaitListening(here);
    AwaitListening(there);
  }
  std::vector<std::string> keys = {"", "}", "{}", "a}b{"};
  for (int i = 0; i < 20; ++i) keys.push_back("key " + std::to_string(i));
  for (const std::string& key : keys) {
    CHECK(*here.Get(key, [&] { return "of " + key; }) == "of " + key);
  }
  std::size_t on_nodes = 0;
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    on_nodes += cluster.Node(node).Keys("c:*:value").empty() ? 0U : 1U;
  }
  CHECK(on_nodes == RedisCluster::kNodes);
  std::size_t i = 0;
  for (const auto& each : DoMany(there, keys, [](std::span<const std::string> missing) {
         return std::vector<std::string>(missing.size(), "loaded again");
       })) {
    CHECK(*each == "of " + keys[i++]);
  }
  // A message takes its time, so another process hears of a change a moment later.
  here.Invalidate(keys[5]);
  here.Put(keys[6], "put");
  CHECK_FALSE(here.Peek(keys[5]).has_value());
  Await([&] { return !there.Peek(keys[5]).has_value(); });
  Await([&] { return there.Peek(keys[6]) == "put"; });
  HeldLoad load("old");
  test::Caller loading([&] { return there.Get(keys[5], load.Load()); });
  load.AwaitBegun();
  here.InvalidateAll();
  for (const std::string& key : keys) CHECK_FALSE(here.Peek(key).has_value());
  load.Finish();
  CHECK(loading.Join().value == "old");
  for (const std::string& key : keys) {
    Await([&] { return !there.Peek(key).has_value(); });
    CHECK(*here.Get(key, [] { return "new"s; }) == "new");
    CHECK(*there.Get(key, NeverRun) == "new");
  }
}

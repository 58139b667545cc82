// SPDX-License-Identifier: MIT

// Tests that Metrics take what is for a fleet: a Group, a ReadThrough and a Client.

#include <singleflight/observe.hpp>
#include <string>

#include "caches.hpp"
#include "observe/exposition.hpp"
#include "outages.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::Metrics;

namespace {

std::string NumberIn(const Metrics& metrics, const std::string& name) {
  return NumberOf(WritePrometheus(metrics), "singleflight_" + name, {{"group", "pages"}});
}

}  // namespace

TEST_CASE("Redis metrics: a group has the counts of the fleet and of its process") {
  const RedisServer server;
  RedisPages pages(ClientOptionsFor(server));
  static_cast<void>(pages.Do("k", [] { return "v"s; }));
  Metrics metrics;
  metrics.Add("pages", pages);
  CHECK(NumberIn(metrics, "redis_executions_total") == "1");
  CHECK(NumberIn(metrics, "redis_outages_total") == "0");
  CHECK(NumberIn(metrics, "executions_total") == "1");
}

TEST_CASE("Redis metrics: a cache has its counts and its load times") {
  const RedisServer server;
  CacheProcess<std::string> pages(server, {.ttl = 1h});
  for (int i = 0; i < 2; ++i) static_cast<void>(pages.Get("k", [] { return "v"s; }));
  Await([&] { return pages.LoadTimes().Count() == 1; });
  Metrics metrics;
  metrics.Add("pages", pages);
  CHECK(NumberIn(metrics, "redis_read_through_loads_total") == "1");
  CHECK(NumberIn(metrics, "redis_read_through_hits_total") == "1");
  CHECK(NumberIn(metrics, "redis_executions_total") == "1");
  CHECK(NumberIn(metrics, "load_duration_seconds_count") == "1");
}

TEST_CASE("Redis metrics: a client has a series for each server that it knows of") {
  const RedisServer server;
  RedisPages pages(ClientOptionsFor(server));
  CHECK(WritePrometheus(Metrics().Add("redis", pages.GetClient())).empty());  // not used yet
  static_cast<void>(pages.Do("k", [] { return "v"s; }));
  const std::string text = WritePrometheus(Metrics().Add("redis", pages.GetClient()));
  const ExpositionFamily::Labels labels = {
      {"group", "redis"}, {"kind", "server"}, {"server", server.Socket()}};
  CHECK(NumberOf(text, "singleflight_redis_server_up", labels) == "1");
  CHECK(NumberOf(text, "singleflight_redis_server_away", labels) == "0");
  const std::string since =
      NumberOf(text, "singleflight_redis_server_changed_timestamp_seconds", labels);
  CHECK(std::stod(since) > 1.7e9);
}

TEST_CASE("Redis metrics: a client shows that its server is away") {
  const TemporaryDirectory directory;
  const std::string nobody = directory.Path() + "/nobody";
  RedisPages pages(ShortTimeouts(nobody), LongLease());
  static_cast<void>(pages.Do("k", [] { return "v"s; }));
  Await([&] { return pages.GetClient().Nodes().at(0).state == NodeState::kAway; });
  Metrics metrics;
  metrics.Add("pages", pages).Add("redis", pages.GetClient());
  CHECK(NumberIn(metrics, "redis_outages_total") == "1");
  const ExpositionFamily::Labels labels = {
      {"group", "redis"}, {"kind", "server"}, {"server", nobody}};
  const std::string text = WritePrometheus(metrics);
  CHECK(NumberOf(text, "singleflight_redis_server_up", labels) == "0");
  CHECK(NumberOf(text, "singleflight_redis_server_away", labels) == "1");
}

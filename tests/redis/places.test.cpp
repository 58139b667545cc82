// SPDX-License-Identifier: MIT

// Tests a redis::Group whose client knows several servers. failover.test.cpp has Sentinels and
// outcomes in a failover, cluster.test.cpp a Redis Cluster.

#include <singleflight/redis.hpp>
#include <string>

#include "outages.hpp"
#include "sentinel.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::ClientOptions;
using singleflight::redis::OnOutage;

namespace {

// A server that a replica can follow at once.
RedisServerOptions Replicated() {
  return {.tcp = true, .arguments = {"--repl-diskless-sync-delay", "0"}};
}

ClientOptions SeedsAt(const RedisServer& first, const RedisServer& second) {
  ClientOptions options = LongTimeouts("");
  options.seeds = {{"127.0.0.1", first.Port()}, {"127.0.0.1", second.Port()}};
  return options;
}

// Checks that two processes share a call, whose lease is on that server.
void CheckSharesAt(const RedisServer& server, RedisPages& here, RedisPages& there) {
  RedisLeader leader(here, "k", "theirs"s);
  CHECK(LeaseField(server, "k", "token") == leader.Token());
  Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
}

}  // namespace

TEST_CASE("redis: a dead first seed is no outage") {
  RedisServer dead({.tcp = true});
  const RedisServer server({.tcp = true});
  dead.Kill();
  RedisPages here(SeedsAt(dead, server), LongLease(OnOutage::kFail));
  RedisPages there(SeedsAt(server, dead), LongLease(OnOutage::kFail));
  CheckSharesAt(server, here, there);
  CHECK(here.GetStats().outages + there.GetStats().outages == 0);
}

TEST_CASE(
    "redis: when the master is made a replica, calls are led at the new one, and none fails") {
  const RedisServer first(Replicated()), second(Replicated());
  Follow(second, first);
  RedisPages here(SeedsAt(first, second), LongLease(OnOutage::kFail));
  RedisPages there(SeedsAt(second, first), LongLease(OnOutage::kFail));
  CheckSharesAt(first, here, there);
  Await([&] { return first.Keys(LeaseOf("*")).empty(); });
  second.Ask("REPLICAOF", "NO", "ONE");
  Follow(first, second);
  CHECK(AskFor(here, "other").value == "own");  // told that the first one is read-only
  CHECK(AskFor(there, "other").value == "own");
  CheckSharesAt(second, here, there);
  CHECK(here.GetStats().outages + there.GetStats().outages == 0);
  const std::string state = here.GetClient().Describe();
  CHECK(state.find(test::At(second) + ": up since ") != std::string::npos);
}

// SPDX-License-Identifier: MIT

// Tests promise 19 in a failover: followers have the outcome, or run their own `fn`, soon after
// there is a master again. The lease lasts an hour, so nobody can have waited for its end.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "cluster.hpp"
#include "outages.hpp"
#include "sentinel.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::ClientOptions;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::size_t kFollowers = 2;
// On a busy machine, the best of a few rounds counts.
constexpr auto kSoon = 1s;
constexpr int kRounds = 4;

RedisServerOptions Replicated() {
  return {.tcp = true, .arguments = {"--repl-diskless-sync-delay", "0"}};
}

// A server that changes its role closes connections.
bool IsMaster(const RedisServer& server) {
  try {
    return server.Ask("INFO", "replication").text.find("role:master") != std::string::npos;
  } catch (const std::runtime_error&) {
    return false;
  }
}
bool IsReplicating(const RedisServer& server) {
  return server.Ask("INFO", "replication").text.find("link_status:up") != std::string::npos;
}

// Asks until the server agrees.
void Insist(const RedisServer& server, const char* command) {
  Await([&] {
    try {
      return server.Ask(command).text == "OK";
    } catch (const std::runtime_error&) {
      return false;
    }
  });
}

// Makes a replica in a cluster the master. It gives up an attempt after five seconds.
void AgreeOnFailover(const RedisServer& replica) {
  while (!IsMaster(replica)) {
    Insist(replica, "CLUSTER FAILOVER");
    const auto begun = Clock::now();
    Await([&] { return IsMaster(replica) || Since(begun) > 6s; });
  }
}

// Returns once the replica has what the master has.
void AwaitReplicated(const RedisServer& master, const RedisServer& replica) {
  const long long offset = master.Info("master_repl_offset");
  Await([&] { return replica.Info("slave_repl_offset") >= offset; });
}

struct Failover {
  std::function<void()> begin;    // at the end of `fn`
  std::function<bool()> is_over;  // whether a client can learn of the next master
};

// Followers wait for a leader. Returns how long after the failover the last of them had an outcome.
std::chrono::milliseconds TimeToOutcome(const ClientOptions& client, const std::string& key,
                                        const RedisServer& master, const RedisServer& next,
                                        const Failover& failover) {
  const Options options = WithLease(1h);
  RedisPages leading(client, options);
  std::vector<std::unique_ptr<RedisPages>> following;
  std::vector<Clock::time_point> done(kFollowers);
  std::vector<std::unique_ptr<Caller<std::string>>> followers;
  RedisLeader leader(leading, key, RedisLeader<>::Fn([&](const auto&) {
                       failover.begin();
                       return "theirs"s;
                     }));
  for (std::size_t i = 0; i < kFollowers; ++i) {
    RedisPages& pages = *following.emplace_back(std::make_unique<RedisPages>(client, options));
    followers.push_back(std::make_unique<Caller<std::string>>([&pages, &key, &its_end = done[i]] {
      auto result = pages.Do(key, [] { return "own"s; });
      its_end = Clock::now();
      return result;
    }));
  }
  AwaitFollowers(master, key, kFollowers);
  AwaitReplicated(master, next);
  CHECK(leader.Finish().value == "theirs");
  Await(failover.is_over);
  const auto back = Clock::now();
  for (auto& follower : followers) {
    const auto& outcome = follower->Join();
    CHECK((outcome.value == "theirs" || outcome.value == "own"));
  }
  // Nor does the lease keep newcomers waiting, if the next master has kept it.
  RedisPages newcomer(client, options);
  CHECK(AskFor(newcomer, key, "new").value == "new");
  Await([&] { return next.Ask("EXISTS", LeaseOf(key)).number == 0; });
  return std::chrono::duration_cast<std::chrono::milliseconds>(*std::ranges::max_element(done) -
                                                               back);
}

// Node 1 of a cluster has a replica, and a key.
struct ReplicatedCluster {
  ReplicatedCluster() {
    cluster.AddReplica(replica, 1);
    int number = 0;
    while (cluster.NodeOf(LeaseOf(std::to_string(number))) != 1) ++number;
    key = std::to_string(number);
  }
  ClientOptions Client() const {
    ClientOptions options;
    options.seeds = {{"127.0.0.1", cluster.Node(0).Port()}, {"127.0.0.1", cluster.Node(2).Port()}};
    return options;
  }

  // Whether the other nodes say that the key is there.
  bool IsAt(const RedisServer& server) const {
    return SendsTo(cluster.Node(0), server) && SendsTo(cluster.Node(2), server);
  }
  bool SendsTo(const RedisServer& node, const RedisServer& server) const {
    try {
      node.Ask("EXISTS", LeaseOf(key));
      return false;
    } catch (const std::runtime_error& error) {
      return std::string(error.what()).ends_with(":" + Port(server));
    }
  }

  RedisCluster cluster;
  RedisServer replica{
      {.tcp = true, .cluster_enabled = true, .arguments = {"--cluster-node-timeout", "60000"}}};
  std::string key;
};

struct ReplicatedServer {
  explicit ReplicatedServer(int count) {
    Follow(second, first);
    for (int i = 0; i < count; ++i) {
      sentinels.push_back(std::make_unique<Sentinel>(first, (count + 1) / 2));
    }
    for (const auto& sentinel : sentinels) {
      Await([&] {
        return sentinel->Number("num-other-sentinels") == count - 1 &&
               sentinel->Number("num-slaves") == 1;
      });
    }
  }
  ClientOptions Client() const {
    ClientOptions options;
    for (const auto& sentinel : sentinels) {
      options.sentinels.push_back({"127.0.0.1", sentinel->Server().Port()});
    }
    options.master = "shop";
    return options;
  }

  // Whether a Sentinel that is up says that the second server is the master.
  bool HasSecond() const {
    const auto address =
        sentinels.back()->Server().Ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "shop");
    return address.elements.at(1).text == Port(second);
  }

  RedisServer first{Replicated()};
  RedisServer second{Replicated()};
  std::vector<std::unique_ptr<Sentinel>> sentinels;
};

}  // namespace

TEST_CASE("No outcome is lost if a replica in a cluster takes over in agreement with its master") {
  ReplicatedCluster its;
  const RedisServer* master = &its.cluster.Node(1);
  const RedisServer* replica = &its.replica;
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    const Failover failover{[&] { AgreeOnFailover(*replica); }, [&] { return its.IsAt(*replica); }};
    best = std::min(best, TimeToOutcome(its.Client(), its.key, *master, *replica, failover));
    std::swap(master, replica);
    Await([&] { return IsReplicating(*replica); });
  }
  CHECK(best < kSoon);
}

TEST_CASE("No outcome is lost if a master in a cluster dies and its replica takes over") {
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    ReplicatedCluster its;
    const Failover failover{[&] { its.cluster.Node(1).Kill(); },
                            [&] {
                              if (!IsMaster(its.replica)) {
                                Insist(its.replica, "CLUSTER FAILOVER TAKEOVER");
                              }
                              return its.IsAt(its.replica);
                            }};
    best = std::min(
        best, TimeToOutcome(its.Client(), its.key, its.cluster.Node(1), its.replica, failover));
  }
  CHECK(best < kSoon);
}

TEST_CASE("A lease that a replica has kept after its end is ended by the process that had it") {
  RedisServer first(Replicated());
  const RedisServer second(Replicated());
  Follow(second, first);
  ClientOptions client;
  client.seeds = {{"127.0.0.1", first.Port()}, {"127.0.0.1", second.Port()}};
  RedisPages leading(client, WithLease(1h));
  RedisLeader leader(leading, "a", "old"s);
  AwaitReplicated(first, second);
  second.Ask("REPLICAOF NO ONE");
  leader.Finish();
  Await([&] { return first.Ask("EXISTS", LeaseOf("a")).number == 0; });
  REQUIRE(second.Ask("EXISTS", LeaseOf("a")).number == 1);
  REQUIRE(AskFor(leading, "b").value == "own");  // so it has been told before that "a" has landed
  first.Kill();
  RedisPages newcomer(client, WithLease(1h));
  CHECK(AskFor(newcomer, "a", "new").value == "new");
  CHECK(newcomer.GetStats().takeovers == 1);
  CHECK(newcomer.GetStats().outages == 0);
}

TEST_CASE("A leader that holds its lease keeps it, however often its followers ask") {
  const RedisServer server;
  Options options = LongLease(OnOutage::kFail);
  options.linger = 10ms;  // they ask every 5 ms
  RedisPages leading(LongTimeouts(server.Socket()), options);
  RedisPages following(LongTimeouts(server.Socket()), options);
  RedisLeader leader(leading, "a", "theirs"s);
  Caller follower([&] { return following.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  Await([&] { return Calls(server, "publish") >= 5; });
  // While the leader's process takes other leases, too.
  for (int i = 0; i < 200; ++i) CHECK(AskFor(leading, std::to_string(i)).value == "own");
  CHECK(LeaseField(server, "a", "token") == leader.Token());
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(leading.GetStats().lost_leases == 0);
}

TEST_CASE("No outcome is lost if the Sentinels are asked for a failover") {
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    ReplicatedServer its(1);
    const Failover failover{[&] {
                              Insist(its.sentinels[0]->Server(), "SENTINEL FAILOVER shop");
                              Await([&] { return IsMaster(its.second); });
                            },
                            [&] { return its.HasSecond(); }};
    best = std::min(best, TimeToOutcome(its.Client(), "a", its.first, its.second, failover));
  }
  CHECK(best < kSoon);
}

TEST_CASE("No outcome is lost if the master dies and the Sentinels choose another one") {
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    ReplicatedServer its(3);
    const Failover failover{[&] { its.first.Kill(); }, [&] { return its.HasSecond(); }};
    best = std::min(best, TimeToOutcome(its.Client(), "a", its.first, its.second, failover));
  }
  CHECK(best < kSoon);
}

// SPDX-License-Identifier: MIT

// Tests a redis::Group whose keys are spread over the nodes of a Redis Cluster.

#include "cluster.hpp"

#include <atomic>
#include <cstddef>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "outages.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::ClientOptions;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

ClientOptions At(const RedisCluster& cluster, std::size_t node) {
  ClientOptions options = LongTimeouts("");
  options.port = cluster.Node(node).Port();
  return options;
}
Options Strict() { return LongLease(OnOutage::kFail); }

std::string SlotOf(const std::string& key) {
  return std::to_string(singleflight::redis::detail::HashSlot(LeaseOf(key)));
}
std::string IdOf(const RedisServer& node) { return node.Ask("CLUSTER", "MYID").text; }

// Moves the slot of a key from one node to another, in the steps in which a real one moves.
class SlotMove {
 public:
  SlotMove(const RedisCluster& cluster, std::string key, std::size_t from, std::size_t to)
      : cluster_(cluster), key_(std::move(key)), from_(from), to_(to) {}

  void Begin() const {
    SetSlot(to_, "IMPORTING", IdOf(cluster_.Node(from_)));
    SetSlot(from_, "MIGRATING", IdOf(cluster_.Node(to_)));
  }
  void MoveLease() const {
    const std::string port = std::to_string(cluster_.Node(to_).Port());
    cluster_.Node(from_).Ask("MIGRATE", "127.0.0.1", port, LeaseOf(key_), "0", "5000");
  }
  void Finish() const {
    const std::string owner = IdOf(cluster_.Node(to_));
    SetSlot(to_, "NODE", owner);
    SetSlot(from_, "NODE", owner);
    for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
      if (node != from_ && node != to_) SetSlot(node, "NODE", owner);
    }
  }

 private:
  void SetSlot(std::size_t node, const char* state, const std::string& id) const {
    cluster_.Node(node).Ask("CLUSTER", "SETSLOT", SlotOf(key_), state, id);
  }

  const RedisCluster& cluster_;
  const std::string key_;
  const std::size_t from_, to_;
};

// Returns how often a node has answered TRYAGAIN.
long long TriedAgain(const RedisServer& node) {
  const std::string errors = node.Ask("INFO", "errorstats").text;
  constexpr std::string_view kName = "errorstat_TRYAGAIN:count=";
  const std::size_t begin = errors.find(kName);
  return begin == std::string::npos ? 0 : std::stoll(errors.substr(begin + kName.size()));
}
void AwaitTriedAgain(const RedisServer& node) {
  Await([&, before = TriedAgain(node)] { return TriedAgain(node) > before; });
}

// Returns the first key, counting up from 0, whose lease is on that node.
std::string KeyOn(const RedisCluster& cluster, std::size_t node) {
  int key = 0;
  while (cluster.NodeOf(LeaseOf(std::to_string(key))) != node) ++key;
  return std::to_string(key);
}

}  // namespace

TEST_CASE("Redis Cluster: processes that start at different nodes share a call, whatever the key") {
  const RedisCluster cluster;
  // These keys have braces, which could be taken for a tag or close one, and other odd bytes.
  std::vector<std::string> keys = {
      ""s,        "}"s,        "}x"s,         "}}"s,   "{"s,
      "{}"s,      "a}"s,       "a{b"s,        "{a}b"s, "}{a}"s,
      "\0}\r\n"s, "\xff{\0}"s, "a\r\nlease"s, ":"s,    std::string(10'000, '{')};
  for (int i = 0; i < 40; ++i) keys.push_back("key " + std::to_string(i));
  RedisPages followers(At(cluster, 1), Strict());
  RedisPages elsewhere(At(cluster, 0), Strict());
  for (const std::string& key : keys) {
    INFO(key);
    RedisLeader leader(elsewhere, key, "for " + key);
    Caller follower([&] { return followers.Do(key, NeverRun); });
    const std::string lease =
        singleflight::redis::detail::LeaseName(singleflight::redis::detail::BaseOf(kPrefix, key));
    Await([&] { return InboxesAt(cluster.Node(cluster.NodeOf(lease)), lease).size() == 1; });
    CHECK(leader.Finish().value == "for " + key);
    CHECK(follower.Join().value == "for " + key);
  }
  CHECK(followers.GetStats().remote == keys.size());
  CHECK(followers.GetStats().outages == 0);
}

TEST_CASE("Redis Cluster: the lease of a key is on the node that has the key") {
  const RedisCluster cluster;
  RedisPages group(At(cluster, 0), Strict());
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    const std::string key = KeyOn(cluster, node);
    const auto load = [&](const singleflight::redis::Lease& lease) {
      CHECK(LeaseField(cluster.Node(node), key, "token") == lease.token());
      return "own"s;
    };
    CHECK(*group.Do(key, load) == "own");
  }
}

TEST_CASE("Redis Cluster: a node that is down is an outage for its own keys only") {
  RedisCluster cluster;
  ClientOptions options = At(cluster, 0);
  options.command_timeout = 1s;  // so long its destructor tries to publish what the node had
  RedisPages group(options, Strict());
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    CHECK(AskFor(group, KeyOn(cluster, node)).value == "own");
  }
  const std::string lost = KeyOn(cluster, 2);
  const std::string first = KeyOn(cluster, 0), second = KeyOn(cluster, 1);
  cluster.Node(2).Kill();
  for (int i = 0; i < 2; ++i) {
    CheckOutage(AskFor(group, lost), OnOutage::kFail, std::errc::not_connected);
    CHECK(AskFor(group, first).value == "own");
    CHECK(AskFor(group, second).value == "own");
  }
  CHECK(group.GetStats().outages == 2);
}

TEST_CASE("Redis Cluster: an outcome reaches its followers although the slot has moved") {
  const RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  RedisPages leading(At(cluster, 0), Strict());
  RedisPages following(At(cluster, 2), Strict());
  RedisLeader leader(leading, key, "theirs"s);
  Caller follower([&] { return following.Do(key, NeverRun); });
  AwaitFollowers(cluster.Node(1), key, 1);
  const SlotMove move(cluster, key, 1, 2);
  move.Begin();
  // A call that begins meanwhile is asked for at the new node (ASK).
  move.MoveLease();
  RedisPages late(At(cluster, 0), Strict());
  Caller second([&] { return late.Do(key, NeverRun); });
  move.Finish();
  AwaitFollowers(cluster.Node(2), key, 2);
  CHECK(leader.Finish().value == "theirs");
  CHECK(follower.Join().value == "theirs");
  CHECK(second.Join().value == "theirs");
  CHECK(leading.GetStats().unpublished == 0);
  CHECK(leading.GetStats().lost_leases == 0);
  for (const RedisPages* each : {&leading, &following, &late}) {
    CHECK(each->GetStats().outages == 0);
  }
}

TEST_CASE("Redis Cluster: callers whose slot is half moved have the outcome once it has moved") {
  const RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  RedisPages leading(At(cluster, 0), Strict());
  RedisPages following(At(cluster, 2), Strict());
  RedisPages late(At(cluster, 1), Strict());
  RedisLeader leader(leading, key, "theirs"s);
  Caller follower([&] { return following.Do(key, NeverRun); });
  AwaitFollowers(cluster.Node(1), key, 1);

  // The lease is there, and other keys of the script are not: the node cannot say where to ask.
  const SlotMove first(cluster, key, 1, 2);
  first.Begin();
  Caller second([&] { return late.Do(key, NeverRun); });
  AwaitTriedAgain(cluster.Node(1));
  first.MoveLease();
  AwaitTriedAgain(cluster.Node(2));  // nor can the other one
  first.Finish();
  AwaitFollowers(cluster.Node(2), key, 2);

  // The same while the outcome is published.
  const SlotMove back(cluster, key, 2, 0);
  back.Begin();
  CHECK(leader.Finish().value == "theirs");  // it does not wait
  AwaitTriedAgain(cluster.Node(2));
  CHECK(following.Callers(key) + late.Callers(key) == 2);
  back.MoveLease();
  AwaitTriedAgain(cluster.Node(0));
  CHECK(following.Callers(key) + late.Callers(key) == 2);
  back.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(second.Join().value == "theirs");
  for (const RedisPages* each : {&leading, &following, &late}) {
    CHECK(each->GetStats().outages == 0);
    CHECK(each->GetStats().unpublished + each->GetStats().lost_leases == 0);
    CHECK(each->GetStats().takeovers + each->GetStats().told_to_run == 0);
  }
}

TEST_CASE("Redis Cluster: a caller whose slot stays half moved meets an outage, or leaves before") {
  const RedisCluster cluster;
  const std::string key = KeyOn(cluster, 1);
  ClientOptions options = At(cluster, 0);
  RedisPages patient(options, Strict());
  options.connect_timeout = options.command_timeout = 500ms;
  RedisPages pages(options);
  RedisPages strict(options, Strict());
  RedisLeader leader(patient, key, "theirs"s);
  const SlotMove move(cluster, key, 1, 2);
  move.Begin();
  CHECK(ErrorOf([&] { return strict.Do(key, NeverRun, {.timeout = 20ms}); }) ==
        std::errc::timed_out);
  CHECK(AskFor(pages, key).value == "own");
  CHECK(pages.GetStats().outages == 1);
  CHECK(pages.LastOutage().find("TRYAGAIN") != std::string::npos);
  CheckOutage(AskFor(strict, key), OnOutage::kFail, std::errc::protocol_error);
  move.MoveLease();
  move.Finish();
  Caller follower([&] { return strict.Do(key, NeverRun); });
  AwaitFollowers(cluster.Node(2), key, 1);
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
}

TEST_CASE("Redis Cluster: no outage while a slot with leases moves under load") {
  const RedisCluster cluster;
  const std::string tag = KeyOn(cluster, 1);
  RedisPages group(At(cluster, 0), Strict());
  RedisPages other(At(cluster, 2), Strict());
  std::atomic<bool> stopped = false;
  std::atomic<int> asked = 0;
  std::vector<JoiningThread> threads;
  for (RedisPages* pages : {&group, &other}) {
    for (int i = 0; i < 2; ++i) {
      threads.emplace_back([&, pages] {
        for (; !stopped; ++asked) static_cast<void>(AskFor(*pages, tag));
      });
    }
  }
  const auto more = [&] { Await([&, before = asked.load()] { return asked > before + 200; }); };
  more();
  const SlotMove move(cluster, tag, 1, 2);
  move.Begin();
  // Until the slot has moved, the new node refuses a script some of whose keys it has not:
  // TRYAGAIN.
  for (;;) {
    const RedisAnswer keys = cluster.Node(1).Ask("CLUSTER", "GETKEYSINSLOT", SlotOf(tag), "100");
    if (keys.elements.empty()) break;
    for (const RedisAnswer& key : keys.elements) {
      cluster.Node(1).Ask("MIGRATE", "127.0.0.1", std::to_string(cluster.Node(2).Port()), key.text,
                          "0", "1000");
    }
  }
  move.Finish();
  more();
  stopped = true;
  threads.clear();
  CHECK(group.GetStats().outages == 0);
  CHECK(other.GetStats().outages == 0);
  CHECK(group.GetStats().calls.failures == 0);
}

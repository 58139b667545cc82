// SPDX-License-Identifier: MIT

// Tests a redis::Client with many commands in flight while its servers are disturbed at random.
// Each command ends once, and what it says about itself is true.

#include <array>
#include <atomic>
#include <cstddef>
#include <random>
#include <string>
#include <string_view>
#include <thread>

#include "client_support.hpp"
#include "cluster.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

// Sends commands that count, from a thread of its own, with up to `depth` in flight, until Stop.
class Counting {
 public:
  Counting(TestClient& client, std::string key, int depth)
      : client_(client), key_(std::move(key)), depth_(depth), thread_([this] { Run(); }) {}

  // Returns when each command that was sent has ended.
  void Stop() {
    stopped_ = true;
    if (thread_.joinable()) thread_.join();
    Await([&] { return Ended() == sent_; });
  }
  int Ended() const { return replies + refused + not_sent + unknown; }

  std::atomic<int> replies = 0, refused = 0, not_sent = 0, unknown = 0;

 private:
  void Run() {
    while (!stopped_) {
      Await([&] { return sent_ - Ended() < depth_ || stopped_; });
      ++sent_;
      client_.Core().Loop().Post([this] {
        client_.Core().Commands().RunScript(CountScript(), std::array<std::string_view, 1>{key_},
                                            {}, [this](const Answer& answer) { Note(answer); });
      });
    }
  }
  void Note(const Answer& answer) {
    switch (answer.kind) {
      case Answer::Kind::kReply:
        ++replies;
        break;
      case Answer::Kind::kRefused:
        ++refused;
        break;
      case Answer::Kind::kNotSent:
        ++not_sent;
        break;
      case Answer::Kind::kUnknown:
        ++unknown;
        break;
    }
  }

  TestClient& client_;
  const std::string key_;
  const int depth_;
  std::atomic<int> sent_ = 0;
  std::atomic<bool> stopped_ = false;
  std::jthread thread_;
};

}  // namespace

TEST_CASE(
    "Redis client: in a storm of outages, each command ends once and says what became of it") {
  RedisServer server;
  ClientOptions options = ClientOptionsFor(server);
  options.connect_timeout = options.command_timeout = 30ms;
  TestClient client(options);
  Counting counting(client, "k", 200);
  std::minstd_rand random(7);
  for (int round = 0; round < 40; ++round) {
    const int before = counting.replies;
    Await([&] { return counting.replies > before; });
    switch (random() % 3) {
      case 0:
        server.Ask("CLIENT KILL TYPE normal");
        break;
      case 1: {
        server.Stop();
        const int ended = counting.Ended();
        Await([&] { return counting.Ended() > ended + 200; });  // the last ones were not sent
        server.Continue();
        break;
      }
      default:
        server.Ask("SCRIPT FLUSH");
    }
  }
  counting.Stop();
  CHECK(counting.refused == 0);
  CHECK(counting.not_sent > 0);
  CHECK(counting.unknown > 0);
  client.Destroy();
  Await([&] { return server.Info("connected_clients") == 1; });  // it has run what it has got
  const int count = std::stoi(server.Get("k").value());
  CHECK(count >= counting.replies);
  CHECK(count <= counting.replies + counting.unknown);
}

TEST_CASE("Redis client in a cluster: a slot that moves to and fro under load loses no command") {
  RedisCluster cluster;
  const std::string key = "{moving}";
  const std::string slot = std::to_string(detail::HashSlot(key));
  ClientOptions options;
  options.port = cluster.Node(0).Port();
  options.connect_timeout = options.command_timeout = 1min;
  TestClient client(options);
  std::size_t from = cluster.NodeOf(key);
  Counting counting(client, key, 20);
  for (int round = 0; round < 10; ++round) {
    const int before = counting.replies;
    Await([&] { return counting.replies > before + 100; });
    const std::size_t to = (from + 1) % RedisCluster::kNodes;
    RedisServer& source = cluster.Node(from);
    RedisServer& target = cluster.Node(to);
    const std::string target_id = target.Ask("CLUSTER", "MYID").text;
    target.Ask("CLUSTER", "SETSLOT", slot, "IMPORTING", source.Ask("CLUSTER", "MYID").text);
    source.Ask("CLUSTER", "SETSLOT", slot, "MIGRATING", target_id);
    source.Ask("MIGRATE", "127.0.0.1", std::to_string(target.Port()), key, "0", "5000");
    const int moved = counting.replies;
    Await([&] { return counting.replies > moved + 20; });  // by ASK
    target.Ask("CLUSTER", "SETSLOT", slot, "NODE", target_id);
    source.Ask("CLUSTER", "SETSLOT", slot, "NODE", target_id);
    from = to;
  }
  counting.Stop();
  CHECK(counting.refused == 0);
  CHECK(counting.not_sent == 0);
  CHECK(counting.unknown == 0);
  CHECK(cluster.Node(from).Get(key) == std::to_string(counting.replies));
}

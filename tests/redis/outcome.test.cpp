// SPDX-License-Identifier: MIT

// Tests promise 19: once `fn` has returned, followers in other processes have its outcome soon
// after the server can be used again. The lease lasts an hour here, so nobody can have waited for
// its end.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/future.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "outages.hpp"
#include "proxy.hpp"
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

constexpr std::size_t kFollowers = 3;
// A follower has the outcome within a second. On a busy machine, that is so in the best of a few
// rounds.
constexpr auto kSoon = 1s;
constexpr int kRounds = 4;

// The options of a user who has set nothing but the socket and the lease.
ClientOptions At(const std::string& socket) {
  ClientOptions options;
  options.unix_socket = socket;
  return options;
}
Options LongLeaseOnly() { return WithLease(1h, OnOutage::kFail); }

// A leader and followers, each with its own way to the server.
class Fleet {
 public:
  explicit Fleet(const RedisServer& its_server) : server(its_server) {
    for (std::size_t i = 0; i < kFollowers; ++i) {
      following.push_back(std::make_unique<RedisPages>(At(to_followers.Socket()), LongLeaseOnly()));
    }
  }

  const RedisServer& server;
  RedisProxy to_leader{server.Socket()};
  RedisProxy to_followers{server.Socket()};
  RedisPages leading{At(to_leader.Socket()), LongLeaseOnly()};
  std::vector<std::unique_ptr<RedisPages>> following;
};

// A follower's function, which says when its process knows that another one leads.
struct Following {
  void operator()(RedisPages::Lead) const { throw std::logic_error("fn was run"); }
  void OnFollows() const noexcept { ++*known; }

  std::atomic<std::size_t>* known;
};

// Something goes wrong at the end of `fn`, and stops going wrong later.
struct Mishap {
  std::function<void()> begin;
  std::chrono::milliseconds time;
  std::function<void()> end;
};

// Has `fn` take that long, in which the mishap begins, and returns how long after the mishap's end
// the last follower had the leader's value.
std::chrono::milliseconds TimeToOutcome(Fleet& fleet, const Mishap& mishap,
                                        std::chrono::milliseconds fn_time) {
  const auto begun = Clock::now();
  std::atomic<std::size_t> known = 0;
  std::vector<singleflight::Future<std::string>> followers;
  RedisLeader leader(fleet.leading, "a", RedisLeader<>::Fn([&](const auto&) {
                       mishap.begin();
                       Await([&] { return Since(begun) >= fn_time; });
                       return "theirs"s;
                     }));
  for (const auto& process : fleet.following) {
    followers.push_back(process->Join("a", Following{&known}));
  }
  Await([&] { return known == kFollowers; });
  const auto mishap_begins = Clock::now();
  CHECK(leader.Finish().value == "theirs");  // it does not wait for the server
  Await([&] { return Since(mishap_begins) >= mishap.time; });
  const auto back = Clock::now();
  mishap.end();
  for (auto& follower : followers) {
    const auto result = follower.Get();
    CHECK(*result == "theirs");
    CHECK(result.role() == singleflight::Role::kFollower);
  }
  return std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - back);
}

void CheckSoon(Fleet& fleet, const Mishap& mishap) {
  for (const std::chrono::milliseconds fn_time : {500ms, 10ms, 5ms}) {
    INFO("fn takes " << fn_time.count() << " ms");
    std::chrono::milliseconds best = 1h;
    for (int round = 0; round < kRounds && best >= kSoon; ++round) {
      best = std::min(best, TimeToOutcome(fleet, mishap, fn_time));
    }
    CHECK(best < kSoon);
  }
  CHECK(fleet.leading.GetStats().unpublished == 0);
  CHECK(fleet.leading.GetStats().untold == 0);
  for (const auto& process : fleet.following) {
    CHECK(process->GetStats().executions == 0);
    CHECK(process->GetStats().outages == 0);
  }
}

// A script of somebody else's that runs until it is killed. Meanwhile the server answers BUSY.
class LongScript {
 public:
  explicit LongScript(const RedisServer& server) : server_(server) {
    server.Ask("CONFIG SET lua-time-limit 1");
    thread_ = JoiningThread([&server] {
      try {
        server.Ask("EVAL", "while true do end", "0");
      } catch (const std::runtime_error&) {  // it was killed
      }
    });
    Await([&] { return IsBusy(); });
  }
  ~LongScript() { server_.Ask("SCRIPT KILL"); }

 private:
  bool IsBusy() const {
    try {
      server_.Ask("PING");
      return false;
    } catch (const std::runtime_error& error) {
      return std::string(error.what()).starts_with("BUSY");
    }
  }

  const RedisServer& server_;
  JoiningThread thread_;
};

}  // namespace

TEST_CASE("No outcome is lost if a publish meets a server that is busy with a script") {
  const RedisServer server;
  Fleet fleet(server);
  std::optional<LongScript> script;
  CheckSoon(fleet, {[&] { script.emplace(server); }, 400ms, [&] { script.reset(); }});
}

TEST_CASE("No outcome is lost if the connections of the leader's process are cut") {
  const RedisServer server;
  Fleet fleet(server);
  CheckSoon(fleet, {[&] { fleet.to_leader.GoAway(); }, 0ms, [&] { fleet.to_leader.ComeBack(); }});
}

TEST_CASE("No outcome is lost if the connections of the followers' processes are cut") {
  const RedisServer server;
  Fleet fleet(server);
  CheckSoon(fleet,
            {[&] { fleet.to_followers.GoAway(); }, 0ms, [&] { fleet.to_followers.ComeBack(); }});
}

TEST_CASE("No outcome is lost if the leader's way to the server is closed for 0.3 seconds") {
  const RedisServer server;
  Fleet fleet(server);
  CheckSoon(fleet, {[&] { fleet.to_leader.GoAway(); }, 300ms, [&] { fleet.to_leader.ComeBack(); }});
}

TEST_CASE("No outcome is lost if the followers' way to the server is closed for 0.3 seconds") {
  const RedisServer server;
  Fleet fleet(server);
  CheckSoon(fleet,
            {[&] { fleet.to_followers.GoAway(); }, 300ms, [&] { fleet.to_followers.ComeBack(); }});
}

TEST_CASE("No outcome is lost if every way to the server is closed for several seconds") {
  const RedisServer server;
  Fleet fleet(server);
  const Mishap mishap{[&] {
                        fleet.to_leader.GoAway();
                        fleet.to_followers.GoAway();
                      },
                      3s,
                      [&] {
                        fleet.to_leader.ComeBack();
                        fleet.to_followers.ComeBack();
                      }};
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    best = std::min(best, TimeToOutcome(fleet, mishap, 5ms));
  }
  CHECK(best < kSoon);
}

TEST_CASE("No outcome is lost if the server hangs for longer than a command may take") {
  RedisServer server;
  Fleet fleet(server);
  const Mishap mishap{[&] { server.Stop(); }, 2s, [&] { server.Continue(); }};
  std::chrono::milliseconds best = 1h;
  for (int round = 0; round < kRounds && best >= kSoon; ++round) {
    best = std::min(best, TimeToOutcome(fleet, mishap, 5ms));
  }
  CHECK(best < kSoon);
}

TEST_CASE("No outcome is lost if a follower's messages are, while its commands arrive") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  Options options = LongLeaseOnly();
  RedisPages leading(At(server.Socket()), options);
  RedisPages following(At(proxy.Socket()), options);
  RedisLeader leader(leading, "a", "theirs"s);
  Caller follower([&] { return following.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  // The follower's second connection is the one for messages. Whatever comes on it is held.
  Await([&] { return proxy.Connections() == 2 && proxy.Bytes(1, RedisProxy::kReplies) > 0; });
  Await([&] { return server.Ask("PUBSUB", "CHANNELS").elements.size() == 2; });
  proxy.HoldAt({RedisProxy::kReplies, proxy.Bytes(1, RedisProxy::kReplies), 1});
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(following.GetStats().executions == 0);
}

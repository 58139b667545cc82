// SPDX-License-Identifier: MIT

// Tests a redis::Group whose server is not there, dies, hangs or refuses. No caller ever hangs or
// gets a wrong value. Options::on_outage decides what it gets.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <optional>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <system_error>

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

// The server is not there. A client that is destroyed does not wait long for what it has to
// publish.
ClientOptions Nobody(const TemporaryDirectory& directory) {
  return ShortTimeouts(directory.Path() + "/nobody");
}

}  // namespace

// ---- The server is not there

TEST_CASE("Redis outage: without a server each call gets what the policy says, and is counted") {
  const TemporaryDirectory directory;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(Nobody(directory), LongLease(policy));
    for (int i = 0; i < 3; ++i) CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 3);
    CHECK(group.GetStats().executions == (policy == OnOutage::kRunLocally ? 3 : 0));
    CHECK_FALSE(group.LastOutage().empty());
  }
}

TEST_CASE("Redis outage: a TCP port where nobody listens is an outage") {
  const ReservedPort port;
  for (const OnOutage policy : kOutagePolicies) {
    ClientOptions options = ShortTimeouts("");
    options.port = port.Number();
    RedisPages group(options, LongLease(policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
  }
}

TEST_CASE("Redis outage: without a server the callers of one process still share a call") {
  const TemporaryDirectory directory;
  RedisPages group(Nobody(directory));
  const auto outcomes = AskAtOnce(8, [&] {
    return group.Do("a", [&] {
      AwaitCallers(group, "a", 8);
      return "own"s;
    });
  });
  CHECK(std::ranges::count(outcomes, std::optional("own"s), &Outcome<std::string>::value) == 8);
  CHECK(group.GetStats().executions == 1);
  CHECK(group.GetStats().outages == 1);
}

TEST_CASE(
    "Redis outage: without a server every caller of one process fails if the policy is kFail") {
  const TemporaryDirectory directory;
  RedisPages group(Nobody(directory), LongLease(OnOutage::kFail));
  const auto outcomes = AskAtOnce(8, [&] { return group.Do("a", [] { return "own"s; }); });
  CHECK(std::ranges::count(outcomes, std::optional(std::errc::not_connected),
                           &Outcome<std::string>::error) == 8);
  CHECK(group.GetStats().executions == 0);
}

TEST_CASE("Redis outage: without a server a caller gets the exception of its own function") {
  const TemporaryDirectory directory;
  RedisPages group(Nobody(directory));
  CHECK_THROWS_AS(group.Do("a", []() -> std::string { throw std::out_of_range("a"); }),
                  std::out_of_range);
}

// ---- The server dies and comes back

TEST_CASE("Redis outage: a server that dies before the call, with idle connections, is an outage") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket()), LongLease(policy));
    CHECK(AskFor(group, "a").value == "own");
    server.Kill();
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 1);
  }
}

TEST_CASE("Redis outage: a leader whose server dies while it runs gets its result at once") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket()), WithLease(500ms, policy));
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Kill();
        return "own"s;
      });
    });
    CHECK(outcome.value == "own");
    CHECK(group.GetStats().executions == 1);
    CHECK(group.GetStats().outages == 0);
    Await([&] { return group.GetStats().unpublished == 1; });  // when the lease has ended
  }
}

TEST_CASE("Redis outage: renewals that fail are counted, and tried again until one succeeds") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  RedisPages group(LongTimeouts(proxy.Socket()), WithLease(6s));
  RedisLeader leader(group, "a", "own"s);
  proxy.GoAway();
  Await([&] { return group.GetStats().failed_renewals >= 2; });  // from a third of the lease on
  const long long left = server.Ask("PTTL", LeaseOf("a")).number;
  proxy.ComeBack();
  Await([&] { return server.Ask("PTTL", LeaseOf("a")).number > left; });
  leader.Finish();
  Await([&] { return server.Keys().empty(); });
  CHECK(group.GetStats().failed_renewals >= 2);
  CHECK(group.GetStats().lost_leases + group.GetStats().unpublished == 0);
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a leader whose server dies while it runs still gets its exception") {
  RedisServer server;
  RedisPages group(ShortTimeouts(server.Socket()), WithLease(500ms));
  const auto load = [&]() -> std::string {
    server.Kill();
    throw std::out_of_range("a");
  };
  CHECK_THROWS_AS(group.Do("a", load), std::out_of_range);
  Await([&] { return group.GetStats().unpublished == 1; });
}

TEST_CASE(
    "Redis outage: a follower whose server dies waits for the rest of the lease, and no more") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages elsewhere(ShortTimeouts(server.Socket()), WithLease(1s));
    RedisLeader leader(elsewhere, "a", "theirs"s);
    RedisPages group(ShortTimeouts(server.Socket()), LongLease(policy));
    Caller follower([&] { return group.Do("a", [] { return "own"s; }); });
    AwaitFollowers(server, "a", 1);
    server.Kill();
    CheckOutage(follower.Join(), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 1);
    CHECK(leader.Finish().value == "theirs");
  }
}

TEST_CASE("Redis outage: a follower may leave while its server is away") {
  RedisServer server;
  RedisPages elsewhere(ShortTimeouts(server.Socket()), WithLease(1min));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  RedisPages group(ShortTimeouts(server.Socket()), LongLease());
  StopSource stop;
  Caller stopped([&] { return group.Do("a", NeverRun, {.stop = stop.get_token()}); });
  AwaitFollowers(server, "a", 1);
  server.Kill();
  const auto late = Keep([&] { return group.Do("a", NeverRun, {.timeout = 20ms}); });
  CHECK((late.error == std::errc::timed_out));
  stop.request_stop();
  CHECK((stopped.Join().error == std::errc::operation_canceled));
  CHECK(group.Callers("a") == 0);
  leader.Finish();
}

TEST_CASE("Redis outage: a server that comes back is used again") {
  RedisServer server;
  RedisPages group(ShortTimeouts(server.Socket()), WithLease(300ms));
  CHECK(AskFor(group, "a").value == "own");
  server.Kill();
  CHECK(AskFor(group, "a").value == "own");
  server.Start();
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "b", "theirs"s);
  // Until the client has connected again, each call meets an outage.
  Await([&] {
    return Keep([&] { return group.Do("b", NeverRun, {.timeout = 100ms}); }).error ==
           std::errc::timed_out;
  });
  Caller follower([&] { return group.Do("b", NeverRun); });
  AwaitCallers(group, "b", 1);
  AwaitFollowers(server, "b", 1);
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
}

TEST_CASE("Redis outage: a server that restarts between two calls causes no outage") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()), LongLease(OnOutage::kFail));
  const auto connected = std::chrono::steady_clock::now();
  CHECK(AskFor(group, "a").value == "own");
  Await([&] { return Since(connected) > 1100ms; });  // a connection that is lost sooner is suspect
  server.Restart();                                  // all connections and scripts are lost
  Await([&] { return group.GetClient().Nodes().at(0).state == NodeState::kUp; });
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
  CHECK(group.GetStats().unpublished == 0);
}

TEST_CASE("Redis outage: a leader whose server has lost its memory makes the lease again") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()));
  std::string before;
  const auto load = [&](const singleflight::redis::Lease& lease) {
    server.Restart();
    Await([&] { return LeaseField(server, "a", "token") == lease.token(); });
    before = LeaseField(server, "a", "fence");
    CHECK(std::to_string(lease.fence()) == before);
    CHECK(lease.Held());
    return "own"s;
  };
  CHECK(*group.Do("a", load) == "own");
  Await([&] { return server.Keys().empty(); });
  CHECK(group.GetStats().unpublished == 0);
  CHECK(group.GetStats().lost_leases == 0);
}

// ---- The server hangs

TEST_CASE("Redis outage: a caller gives up on a suspended server") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket()), WithLease(100ms, policy));
    server.Stop();
    Watchdog watch([&] { server.Continue(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
    CHECK(group.GetStats().outages == 1);
    server.Continue();
  }
}

TEST_CASE("Redis outage: a follower gives up on a suspended server when the lease has ended") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages elsewhere(ShortTimeouts(server.Socket()), WithLease(1s));
    RedisLeader leader(elsewhere, "a", "theirs"s);
    RedisPages group(ShortTimeouts(server.Socket()), WithLease(1s, policy));
    Caller follower([&] { return group.Do("a", [] { return "own"s; }); });
    AwaitFollowers(server, "a", 1);
    server.Stop();
    Watchdog watch([&] { server.Continue(); });
    CheckOutage(follower.Join(), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
    server.Continue();
    CHECK(leader.Finish().value == "theirs");
  }
}

TEST_CASE("Redis outage: a leader that has its result does not wait for a suspended server") {
  for (const std::size_t size : {1UL, 8UL << 20}) {  // the second exceeds any socket's buffer
    RedisServer server;
    RedisPages group(LongTimeouts(server.Socket()), WithLease(1s, OnOutage::kFail));
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Stop();
        return std::string(size, 'x');
      });
    });
    CHECK((outcome.value == std::string(size, 'x')));  // although its timeouts are a minute
    server.Continue();
  }
}

TEST_CASE("Redis outage: a caller gives up on a paused server") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket()), WithLease(100ms, policy));
    server.PauseFor(1h);
    Watchdog watch([&] { server.Kill(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
  }
}

TEST_CASE("Redis outage: a pause that is shorter than the timeouts is not an outage") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()), LongLease(OnOutage::kFail));
  server.PauseFor(100ms);
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE(
    "Redis outage: a late answer of a server that hung is never taken for another call's answer") {
  RedisServer server;
  RedisPages group(ShortTimeouts(server.Socket()), WithLease(100ms));
  CHECK(AskFor(group, "a").value == "own");
  server.Stop();
  Watchdog watch([&] { server.Continue(); });
  CHECK(AskFor(group, "a").value == "own");
  CHECK_FALSE(watch.Hung());
  server.Continue();
  for (int i = 0; i < 20; ++i)
    CHECK(AskFor(group, "b", std::to_string(i)).value == std::to_string(i));
}

TEST_CASE("Redis outage: a caller gives up on a reply that arrives only in part") {
  const RedisServer server;
  for (const OnOutage policy : kOutagePolicies) {
    RedisProxy proxy(server.Socket());
    proxy.HoldAt({RedisProxy::kReplies, 3});
    RedisPages group(ShortTimeouts(proxy.Socket()), WithLease(100ms, policy));
    Watchdog watch([&] { proxy.Release(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
  }
}

TEST_CASE("Redis outage: a leader whose lease expires meanwhile is told when another one leads") {
  RedisServer server;
  RedisPages pages(ShortTimeouts(server.Socket()), WithLease(200ms));
  RedisPages others(LongTimeouts(server.Socket()), LongLease(OnOutage::kFail));
  Watchdog watch([&] { server.Continue(); });
  int runs = 0;
  const auto page = pages.Do("a", [&](const singleflight::redis::Lease& lease) {
    ++runs;
    server.Stop();
    Await([&] { return !lease.Held(); });
    CHECK_FALSE(lease.stop().stop_requested());  // nobody else leads, as far as it knows
    server.Continue();
    for (bool led = false; !led;) {  // a renewal may have been on its way
      led = others
                .Do("a",
                    [&] {
                      Await([&] { return lease.stop().stop_requested(); });
                      return "theirs"s;
                    })
                .role() == singleflight::Role::kLeader;
    }
    return "ours"s;
  });
  CHECK_FALSE(watch.Hung());
  CHECK(*page == "ours");
  CHECK(runs == 1);
  CHECK(pages.GetStats().lost_leases == 1);
}

// ---- The server refuses

TEST_CASE("Redis outage: a server that wants a password gets it") {
  const RedisServer server({.password = "s p\"'\\"});
  ClientOptions options = LongTimeouts(server.Socket());
  options.password = "s p\"'\\";
  RedisPages group(options, LongLease(OnOutage::kFail));
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a server that wants a user and a password gets them") {
  const RedisServer server({.user = "alice", .password = "secret"});
  ClientOptions options = LongTimeouts(server.Socket());
  options.user = "alice";
  options.password = "secret";
  RedisPages group(options, LongLease(OnOutage::kFail));
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a password that is wrong, missing or not wanted is an outage") {
  struct Case {
    std::string servers, groups;
  };
  for (const auto& [servers, groups] :
       {Case{"secret", "wrong"}, Case{"secret", ""}, Case{"", "secret"}}) {
    const RedisServer server({.password = servers});
    for (const OnOutage policy : kOutagePolicies) {
      ClientOptions options = LongTimeouts(server.Socket());
      options.password = groups;
      RedisPages group(options, LongLease(policy));
      for (int i = 0; i < 2; ++i) CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
      CHECK(group.GetStats().outages == 2);
      CHECK(group.LastOutage().find("answered") != std::string::npos);
    }
  }
}

TEST_CASE("Redis outage: the database is the one that was asked for") {
  const RedisServer server;
  ClientOptions options = LongTimeouts(server.Socket());
  options.database = 3;
  RedisPages group(options, LongLease(OnOutage::kFail));
  std::string databases;
  const auto load = [&] {
    databases = server.Ask("INFO keyspace").text;
    return "own"s;
  };
  CHECK(*group.Do("a", load) == "own");
  CHECK(databases.find("db3:keys=1,") != std::string::npos);
}

TEST_CASE("Redis outage: a database that the server does not have is an outage") {
  const RedisServer server;
  for (const OnOutage policy : kOutagePolicies) {
    ClientOptions options = LongTimeouts(server.Socket());
    options.database = 16;
    RedisPages group(options, LongLease(policy));
    for (int i = 0; i < 2; ++i) CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
  }
  CHECK(server.Keys().empty());
}

TEST_CASE("Redis outage: a user without the rights that the group needs is an outage") {
  const RedisServer server;
  server.Ask("ACL", "SETUSER", "bob", "on", ">secret", "~other*", "&*", "+@all");
  for (const OnOutage policy : kOutagePolicies) {
    ClientOptions options = LongTimeouts(server.Socket());
    options.user = "bob";
    options.password = "secret";
    RedisPages group(options, LongLease(policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
    CHECK(group.LastOutage().find("NOPERM") != std::string::npos);
  }
}

TEST_CASE("Redis outage: a server that is out of memory is an outage until it has memory again") {
  const RedisServer server;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(server.Socket()), LongLease(policy));
    server.Ask("CONFIG SET maxmemory 1");
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
    CHECK(group.LastOutage().find("OOM") != std::string::npos);
    server.Ask("CONFIG SET maxmemory 0");
    CHECK(AskFor(group, "a").value == "own");
    CHECK(group.GetStats().outages == 1);
  }
}

TEST_CASE(
    "Redis outage: a leader whose server runs out of memory gets its result and leaves no lease") {
  for (const OnOutage policy : kOutagePolicies) {
    const RedisServer server;
    RedisPages group(LongTimeouts(server.Socket()), LongLease(policy));
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Ask("CONFIG SET maxmemory 1");
        return "own"s;
      });
    });
    CHECK(outcome.value == "own");
    Await([&] { return server.Keys().empty(); });
    CHECK(group.GetStats().unpublished == 0);
  }
}

TEST_CASE("Redis outage: a read-only replica is an outage") {
  const ReservedPort nobody;
  const RedisServer server;
  server.Ask("REPLICAOF", "127.0.0.1", std::to_string(nobody.Number()));
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(server.Socket()), LongLease(policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK(group.LastOutage().find("is a replica") != std::string::npos);
  }
}

TEST_CASE("Redis outage: an error that passes is known as one, also inside a script's error") {
  using singleflight::redis::detail::IsTransient;
  for (const char* error :
       {"BUSY Redis is busy running a script.", "LOADING Redis is loading", "MASTERDOWN Link",
        "NOREPLICAS Not enough good replicas to write.", "CLUSTERDOWN The cluster is down",
        "TRYAGAIN Multiple keys", "READONLY You can't write", "UNBLOCKED client",
        "ERR Error running script (call to f_1): @user_script:2: -NOREPLICAS Not enough"}) {
    INFO(error);
    CHECK(IsTransient(error));
  }
  for (const char* error : {"", "BUSY", "BUSYKEY Target key name already exists.", "OOM command",
                            "NOPERM this user", "ERR unknown", "ERR BUSY"}) {
    INFO(error);
    CHECK_FALSE(IsTransient(error));
  }
}

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
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

// Returns options with timeouts that pass soon, for tests in which they should pass.
Options ShortTimeouts(const std::string& socket, OnOutage policy = OnOutage::kRunLocally) {
  Options options = LongTimeouts(socket, policy);
  options.linger = options.connect_timeout = options.command_timeout = 100ms;
  return options;
}

}  // namespace

// ---- The server is not there

TEST_CASE("Redis outage: without a server each call gets what the policy says, and is counted") {
  const TemporaryDirectory directory;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(directory.Path() + "/nobody", policy));
    for (int i = 0; i < 3; ++i) CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 3);
    CHECK(group.GetStats().executions == (policy == OnOutage::kRunLocally ? 3 : 0));
    CHECK_FALSE(group.LastOutage().empty());
  }
}

TEST_CASE("Redis outage: a TCP port where nobody listens is an outage") {
  const ReservedPort port;
  for (const OnOutage policy : kOutagePolicies) {
    Options options = LongTimeouts("", policy);
    options.port = port.Number();
    RedisPages group(options);
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
  }
}

TEST_CASE("Redis outage: without a server the callers of one process still share a call") {
  const TemporaryDirectory directory;
  RedisPages group(LongTimeouts(directory.Path() + "/nobody"));
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
  RedisPages group(LongTimeouts(directory.Path() + "/nobody", OnOutage::kFail));
  const auto outcomes = AskAtOnce(8, [&] { return group.Do("a", [] { return "own"s; }); });
  CHECK(std::ranges::count(outcomes, std::optional(std::errc::not_connected),
                           &Outcome<std::string>::error) == 8);
  CHECK(group.GetStats().executions == 0);
}

TEST_CASE("Redis outage: without a server a caller gets the exception of its own function") {
  const TemporaryDirectory directory;
  RedisPages group(LongTimeouts(directory.Path() + "/nobody"));
  CHECK_THROWS_AS(group.Do("a", []() -> std::string { throw std::out_of_range("a"); }),
                  std::out_of_range);
}

TEST_CASE("Redis outage: a server that has failed is not contacted during the retry delay") {
  RedisServer server;
  Options options = LongTimeouts(server.Socket());
  options.retry_after = 1h;
  RedisPages group(options);
  server.Kill();
  CHECK(AskFor(group, "a").value == "own");
  server.Start();
  const long long connections = server.Info("total_connections_received");
  CHECK(AskFor(group, "a").value == "own");
  CHECK(server.Info("total_connections_received") == connections + 1);  // Info's own connection
  CHECK(group.GetStats().outages == 2);
}

// ---- The server dies and comes back

TEST_CASE("Redis outage: a server that dies before the call, with idle connections, is an outage") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(LongTimeouts(server.Socket(), policy));
    CHECK(AskFor(group, "a").value == "own");
    server.Kill();
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 1);
  }
}

TEST_CASE("Redis outage: a leader whose server dies while it runs still gets its result") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(LongTimeouts(server.Socket(), policy));
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Kill();
        return "own"s;
      });
    });
    CHECK(outcome.value == "own");
    CHECK(group.GetStats().executions == 1);
    CHECK(group.GetStats().unpublished == 1);
  }
}

TEST_CASE("Redis outage: a leader whose server dies while it runs still gets its exception") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()));
  const auto load = [&]() -> std::string {
    server.Kill();
    throw std::out_of_range("a");
  };
  CHECK_THROWS_AS(group.Do("a", load), std::out_of_range);
  CHECK(group.GetStats().unpublished == 1);
}

TEST_CASE("Redis outage: a server that dies while a follower waits is an outage") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages elsewhere(LongTimeouts(server.Socket()));
    RedisLeader leader(elsewhere, "a", "theirs"s);
    RedisPages group(LongTimeouts(server.Socket(), policy));
    Caller follower([&] { return group.Do("a", [] { return "own"s; }); });
    Await([&] { return server.BlockedClients() == 1; });
    server.Kill();
    CheckOutage(follower.Join(), policy, std::errc::not_connected);
    CHECK(group.GetStats().outages == 1);
    CHECK(leader.Finish().value == "theirs");
  }
}

TEST_CASE("Redis outage: a server that comes back is used again") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()));
  CHECK(AskFor(group, "a").value == "own");
  server.Kill();
  CHECK(AskFor(group, "a").value == "own");
  server.Start();
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  Caller follower([&] { return group.Do("a", [] { return "own"s; }); });
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(group.GetStats().remote == 1);
  CHECK(group.GetStats().outages == 1);
}

TEST_CASE("Redis outage: a server that restarts between two calls causes no outage") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket(), OnOutage::kFail));
  CHECK(AskFor(group, "a").value == "own");
  server.Restart();  // all connections and scripts are lost
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
  CHECK(group.GetStats().unpublished == 0);
}

TEST_CASE("Redis outage: a leader whose server lost the lease in a restart publishes nothing") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket()));
  const auto outcome = Keep([&] {
    return group.Do("a", [&] {
      server.Restart();
      return "own"s;
    });
  });
  CHECK(outcome.value == "own");
  CHECK(group.GetStats().unpublished == 1);
  CHECK(server.Keys().empty());
}

// ---- The server hangs

TEST_CASE("Redis outage: a caller gives up on a suspended server") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket(), policy));
    server.Stop();
    Watchdog watch([&] { server.Continue(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
    CHECK(group.GetStats().outages == 1);
    server.Continue();
  }
}

TEST_CASE("Redis outage: a follower that waits gives up on a suspended server within the bound") {
  RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
  options.linger = 5s;
  options.connect_timeout = options.command_timeout = 1s;  // enough to start waiting
  RedisPages group(options);
  Caller follower([&] { return group.Do("a", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  server.Stop();
  Watchdog watch([&] { server.Continue(); });
  const auto stopped = std::chrono::steady_clock::now();
  CheckOutage(follower.Join(), OnOutage::kFail, std::errc::not_connected);
  const auto noticed = std::chrono::steady_clock::now();
  CHECK_FALSE(watch.Hung());
  const auto bound = options.linger + 2 * (options.connect_timeout + options.command_timeout);
  CHECK(noticed - stopped < bound + 2s);  // the machine may need 2 s more
  server.Continue();
  CHECK(leader.Finish().value == "theirs");
}

TEST_CASE("Redis outage: a leader that has its result gives up on a suspended server") {
  for (const std::size_t size : {1UL, 16UL << 20}) {  // the second exceeds any socket's buffer
    RedisServer server;
    Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
    options.command_timeout = 1s;  // enough time to take the lease
    RedisPages group(options);
    std::optional<Watchdog> watch;
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Stop();
        watch.emplace([&] { server.Continue(); });
        return std::string(size, 'x');
      });
    });
    CHECK((outcome.value == std::string(size, 'x')));
    CHECK_FALSE(watch->Hung());
    CHECK(group.GetStats().unpublished == 1);
    server.Continue();
  }
}

TEST_CASE("Redis outage: a caller gives up on a paused server") {
  for (const OnOutage policy : kOutagePolicies) {
    RedisServer server;
    RedisPages group(ShortTimeouts(server.Socket(), policy));
    server.PauseFor(1h);
    Watchdog watch([&] { server.Kill(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
  }
}

TEST_CASE("Redis outage: a leader that has its result gives up on a paused server") {
  RedisServer server;
  Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
  options.command_timeout = 1s;  // enough time to take the lease
  RedisPages group(options);
  std::optional<Watchdog> watch;
  const auto outcome = Keep([&] {
    return group.Do("a", [&] {
      server.PauseFor(1h);
      watch.emplace([&] { server.Kill(); });
      return "own"s;
    });
  });
  CHECK(outcome.value == "own");
  CHECK_FALSE(watch->Hung());
  CHECK(group.GetStats().unpublished == 1);
}

TEST_CASE("Redis outage: a pause that is shorter than the timeouts is not an outage") {
  RedisServer server;
  RedisPages group(LongTimeouts(server.Socket(), OnOutage::kFail));
  server.PauseFor(100ms);
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a server that resumes in time costs its followers nothing") {
  RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  RedisPages group(LongTimeouts(server.Socket(), OnOutage::kFail));
  Caller follower([&] { return group.Do("a", [] { return "own"s; }); });
  Await([&] { return server.BlockedClients() == 1; });
  server.Stop();
  server.Continue();
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
}

TEST_CASE(
    "Redis outage: a late answer of a server that hung is never taken for another call's answer") {
  RedisServer server;
  RedisPages group(ShortTimeouts(server.Socket()));
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
    RedisPages group(ShortTimeouts(proxy.Socket(), policy));
    Watchdog watch([&] { proxy.Release(); });
    CheckOutage(AskFor(group, "a"), policy, std::errc::not_connected);
    CHECK_FALSE(watch.Hung());
  }
}

// ---- The server refuses

TEST_CASE("Redis outage: a server that wants a password gets it") {
  const RedisServer server({.password = "s p\"'\\"});
  Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
  options.password = "s p\"'\\";
  RedisPages group(options);
  CHECK(AskFor(group, "a").value == "own");
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a server that wants a user and a password gets them") {
  const RedisServer server({.user = "alice", .password = "secret"});
  Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
  options.user = "alice";
  options.password = "secret";
  RedisPages group(options);
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
      Options options = LongTimeouts(server.Socket(), policy);
      options.password = groups;
      RedisPages group(options);
      for (int i = 0; i < 2; ++i)
        CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
      CHECK(group.GetStats().outages == 2);
    }
  }
}

TEST_CASE("Redis outage: the database is the one that was asked for") {
  const RedisServer server;
  Options options = LongTimeouts(server.Socket(), OnOutage::kFail);
  options.database = 3;
  RedisPages group(options);
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
    Options options = LongTimeouts(server.Socket(), policy);
    options.database = 16;
    RedisPages group(options);
    for (int i = 0; i < 2; ++i) CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
  }
  CHECK(server.Keys().empty());
}

TEST_CASE("Redis outage: a user without the rights that the group needs is an outage") {
  const RedisServer server;
  server.Ask("ACL", "SETUSER", "bob", "on", ">secret", "~other*", "+@all");
  for (const OnOutage policy : kOutagePolicies) {
    Options options = LongTimeouts(server.Socket(), policy);
    options.user = "bob";
    options.password = "secret";
    RedisPages group(options);
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
  }
}

TEST_CASE("Redis outage: a server that is out of memory is an outage until it has memory again") {
  const RedisServer server;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(server.Socket(), policy));
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
    RedisPages group(LongTimeouts(server.Socket(), policy));
    const auto outcome = Keep([&] {
      return group.Do("a", [&] {
        server.Ask("APPEND", LeaseOf("a"), "+");  // so that there is an outcome to publish
        server.Ask("CONFIG SET maxmemory 1");
        return "own"s;
      });
    });
    CHECK(outcome.value == "own");
    CHECK(server.Get(LeaseOf("a")) == std::nullopt);
  }
}

TEST_CASE("Redis outage: a read-only replica is an outage") {
  const ReservedPort nobody;
  const RedisServer server;
  server.Ask("REPLICAOF", "127.0.0.1", std::to_string(nobody.Number()));
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(server.Socket(), policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
    CHECK(group.LastOutage().find("READONLY") != std::string::npos);
  }
}

// SPDX-License-Identifier: MIT

// Tests foreign data under the names that a redis::Group uses. The group never changes such data,
// and a caller gets what Options::on_outage says.

#include <singleflight/redis.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "outages.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

// Checks that a call for "a" is an outage if `prepare` has put something under the lease's name.
// Also checks that this stays as it was.
template <class Prepare>
void CheckForeignLease(Prepare prepare) {
  const RedisServer server;
  prepare(server, LeaseOf("a"));
  const auto dump = [&] { return server.Ask("DUMP", LeaseOf("a")).text; };
  const std::string before = dump();
  REQUIRE_FALSE(before.empty());
  const bool expires = server.Ask("PTTL", LeaseOf("a")).number >= 0;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages group(LongTimeouts(server.Socket(), policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
    CHECK(group.GetStats().outages == 1);
    static_cast<void>(ErrorOf([&] { return group.Forget("a"); }));
    CHECK((dump() == before));
    CHECK((server.Ask("PTTL", LeaseOf("a")).number >= 0) == expires);
    CHECK(server.Keys() == std::vector{LeaseOf("a")});
  }
}

const std::string kSomeToken = "0123456789abcdef0123456789abcdef";

}  // namespace

TEST_CASE("Redis outage: a list under the lease's name is an outage, and is left alone") {
  CheckForeignLease([](const RedisServer& server, const std::string& lease) {
    server.Ask("RPUSH", lease, "1", "2");
    server.Ask("PEXPIRE", lease, "3600000");
  });
}

TEST_CASE("Redis outage: a string that is not a token is an outage, and is left alone") {
  for (const std::string& text :
       {""s, "+"s, "text"s, kSomeToken.substr(1), kSomeToken + "0", kSomeToken + "++",
        kSomeToken.substr(1) + "g", kSomeToken.substr(1) + "A", kSomeToken.substr(1) + "\n",
        kSomeToken + "\n", "\n" + kSomeToken, std::string(32, '\0'), std::string(32, '%')}) {
    INFO(text);
    CheckForeignLease([&](const RedisServer& server, const std::string& lease) {
      server.Ask("SET", lease, text, "PX", "3600000");
    });
  }
}

TEST_CASE("Redis outage: a token that never expires is an outage, and is left alone") {
  for (const std::string& text : {kSomeToken, kSomeToken + "+"}) {
    CheckForeignLease([&](const RedisServer& server, const std::string& lease) {
      server.Ask("SET", lease, text);
    });
  }
}

TEST_CASE("Redis outage: a string under the outcome's name is an outage, and is left alone") {
  for (const OnOutage policy : kOutagePolicies) {
    const RedisServer server;
    RedisPages elsewhere(LongTimeouts(server.Socket(), policy));
    RedisLeader leader(elsewhere, "a", "theirs"s);
    const std::string token = server.Get(LeaseOf("a")).value();
    REQUIRE(token.size() == 32);
    const std::string stream = "singleflight:{a}:" + token;
    server.Ask("SET", stream, "foreign");
    RedisPages group(LongTimeouts(server.Socket(), policy));
    CheckOutage(AskFor(group, "a"), policy, std::errc::protocol_error);
    CHECK(leader.Finish().value == "theirs");
    CHECK(elsewhere.GetStats().unpublished == 1);
    CHECK(server.Get(stream) == "foreign");
    CHECK(server.Ask("PTTL", stream).number == -1);
    CHECK(server.Ask("PTTL", LeaseOf("a")).number != -1);
  }
}

TEST_CASE("Redis outage: a foreign entry in the outcome's stream is skipped") {
  const RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  const std::string stream = "singleflight:{a}:" + server.Get(LeaseOf("a")).value();
  server.Ask("XADD", stream, "1-1", "foreign", "entry");
  RedisPages group(LongTimeouts(server.Socket(), OnOutage::kFail));
  Caller follower([&] { return group.Do("a", NeverRun); });
  Await([&] { return group.GetStats().undecodable == 1 && server.BlockedClients() == 1; });
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(group.GetStats().undecodable == 1);
}

TEST_CASE(
    "Redis outage: a foreign entry in the outcome's stream does not hide that the leader is dead") {
  RedisServer server;
  server.Ask("SET", LeaseOf("a"), kSomeToken, "PX", "2000");
  server.Ask("XADD", "singleflight:{a}:" + kSomeToken, "1-1", "foreign", "entry");
  Options options = LongTimeouts(server.Socket());
  options.linger = 100ms;
  RedisPages group(options);
  Watchdog watch([&] { server.Kill(); });
  CHECK(AskFor(group, "a").value == "own");
  CHECK_FALSE(watch.Hung());
  CHECK(group.GetStats().undecodable == 1);
  CHECK(group.GetStats().takeovers == 1);
}

TEST_CASE("Redis outage: foreign data under a forgotten call's name is left alone") {
  const RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", "theirs"s);
  const std::string name = "singleflight:{a}:forgotten:" + server.Get(LeaseOf("a")).value();
  server.Ask("RPUSH", name, "1", "2");
  RedisPages group(LongTimeouts(server.Socket(), OnOutage::kFail));
  static_cast<void>(ErrorOf([&] { return group.Forget("a"); }));
  CHECK(server.Ask("LLEN", name).number == 2);
}

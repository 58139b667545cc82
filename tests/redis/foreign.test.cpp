// SPDX-License-Identifier: MIT

// Tests foreign data under the names that a redis::Group uses. The group does not change a foreign
// lease, and a caller gets what Options::on_outage says.

#include <singleflight/redis.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "outages.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::Role;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;
using singleflight::redis::Stats;

namespace {

const std::string kLease = LeaseName("t", "a");
const std::string kSomeToken = "0123456789abcdef0123456789abcdef";
const std::string kSomeFence = "0000000000000001";

// Checks that a call for "a" is an outage if `prepare` has put something under the lease's name.
// Also checks that this stays as it was.
template <class Prepare>
void CheckForeignLease(Prepare prepare) {
  const RedisServer server;
  prepare(server, kLease);
  const auto dump = [&] { return server.Ask("DUMP", kLease).text; };
  const std::string before = dump();
  REQUIRE_FALSE(before.empty());
  const bool expires = server.Ask("PTTL", kLease).number >= 0;
  for (const OnOutage policy : {OnOutage::kRunLocally, OnOutage::kFail}) {
    RedisPages group(server, {.on_outage = policy});
    const Outcome<std::string> outcome = Keep([&] { return group.Do("a", [] { return "own"s; }); });
    if (policy == OnOutage::kRunLocally) {
      CHECK(outcome.value == "own");
      CHECK(outcome.role == Role::kLeader);
    } else {
      CHECK(outcome.error == std::errc::protocol_error);
    }
    CHECK(group.GetStats().outages == 1);
    CHECK(group.LastOutage() == kLease + " holds something that is no lease");
    CHECK_FALSE(group.Forget("a"));
    // A later call is answered after the Forget.
    static_cast<void>(Keep([&] { return group.Do("a", [] { return "own"s; }); }));
    CHECK(group.GetStats().outages == 2);
    CHECK((dump() == before));
    CHECK((server.Ask("PTTL", kLease).number >= 0) == expires);
    CHECK(server.Keys() == std::vector{kLease});
  }
}

// In one step, since a leader who finds no lease makes it again.
void ReplaceLease(const RedisServer& server) {
  server.Ask("EVAL", "redis.call('DEL', KEYS[1]) redis.call('RPUSH', KEYS[1], 'foreign')", "1",
             kLease);
}

}  // namespace

TEST_CASE("Redis outage: a list or a string at the lease's place is an outage, and is left alone") {
  CheckForeignLease([](const RedisServer& server, const std::string& lease) {
    server.Ask("RPUSH", lease, "1", "2");
    server.Ask("PEXPIRE", lease, "3600000");
  });
  CheckForeignLease([](const RedisServer& server, const std::string& lease) {
    server.Ask("SET", lease, kSomeToken);
  });
}

TEST_CASE("Redis outage: a hash that is no lease is an outage, and is left alone") {
  for (const std::string field : {"name", "token", "fence", "inbox", "tag", "lasts"}) {
    CheckForeignLease([&](const RedisServer& server, const std::string& lease) {
      server.Ask("HSET", lease, field, kSomeToken);
      server.Ask("PEXPIRE", lease, "3600000");
    });
  }
}

TEST_CASE("Redis outage: a lease that never expires is an outage, and is left alone") {
  CheckForeignLease([](const RedisServer& server, const std::string& lease) {
    server.Ask("HSET", lease, "token", kSomeToken, "fence", kSomeFence, "tag", "string", "inbox",
               "t:inbox:" + kSomeToken, "lasts", "3600000");
  });
}

TEST_CASE("Redis outage: a foreign value at the outcome's place does not keep it from followers") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "a", "theirs"s);
  Caller follower([&] { return there.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  server.Ask("RPUSH", OutcomeName("t", "a", leader.Token()), "foreign");
  CHECK(leader.Finish().value == "theirs");
  CHECK(follower.Join().value == "theirs");
}

TEST_CASE("Redis outage: a foreign value at a forgotten call's place leaves the call its outcome") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "a", "theirs"s);
  Caller follower([&] { return there.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  server.Ask("RPUSH", ForgottenName("t", "a", leader.Token()), "1");
  CHECK(here.Forget("a"));
  CHECK(leader.Finish().value == "theirs");
  CHECK(follower.Join().value == "theirs");
}

TEST_CASE("Redis outage: a foreign value at a forgotten call's place is none for a follower") {
  const RedisServer server;
  Options asks_often = LongLease(OnOutage::kFail);
  asks_often.linger = 100ms;
  RedisPages here(server), there(server, asks_often);
  RedisLeader leader(here, "a", "theirs"s);
  Caller follower([&] { return there.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  server.Ask("RPUSH", ForgottenName("t", "a", leader.Token()), "1");
  const long long asked = Calls(server, "hexists");
  Await([&] { return Calls(server, "hexists") > asked || there.GetStats().outages > 0; });
  CHECK(leader.Finish().value == "theirs");
  CHECK(follower.Join().value == "theirs");
  CHECK(there.LastOutage() == "");
}

TEST_CASE("Redis outage: a foreign value at a forgotten call's place does not keep a lease lost") {
  const RedisServer server;
  RedisPages here(server, WithLease(1500ms, OnOutage::kFail));
  RedisLeader leader(here, "a", "theirs"s);
  server.Ask("RPUSH", ForgottenName("t", "a", leader.Token()), "1");
  server.Ask("DEL", kLease);
  Await([&] {
    return LeaseField(server, "a", "token") == leader.Token() ||
           here.GetStats().failed_renewals > 0;
  });
  CHECK(leader.Finish().value == "theirs");
  AwaitAnswers(here);
  CHECK(here.GetStats() == Stats{.executions = 1, .calls = here.GetStats().calls});
}

TEST_CASE("Redis outage: a foreign value in place of a lease leaves its followers the outcome") {
  const RedisServer server;
  RedisPages here(server, LongLease());
  RedisLeader leader(here, "a", "theirs"s);
  const std::string outcome = OutcomeName("t", "a", leader.Token());
  ReplaceLease(server);
  CHECK(leader.Finish().value == "theirs");
  Await([&] { return here.GetStats().unpublished == 1 || here.GetStats().untold == 1; });
  CHECK(here.GetStats().untold == 0);
  CHECK(server.Ask("EXISTS", outcome).number == 1);
  CHECK(server.Ask("LRANGE", kLease, "0", "-1").elements.size() == 1);
}

TEST_CASE("Redis outage: a leader that finds a foreign value in place of its lease has lost it") {
  const RedisServer server;
  RedisPages here(server, WithLease(1500ms, OnOutage::kFail));
  RedisLeader leader(here, "a", "theirs"s);
  ReplaceLease(server);
  Await([&] { return here.GetStats().lost_leases == 1 || here.GetStats().failed_renewals > 0; });
  CHECK(here.GetStats().failed_renewals == 0);
  CHECK(leader.Finish().value == "theirs");
}

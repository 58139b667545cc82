// SPDX-License-Identifier: MIT

// These tests cut the connection between a redis::Group and its server after each byte that a
// leader or a follower sends or receives. No caller ever hangs, or gets a wrong or partial value.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <optional>
#include <singleflight/redis.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "outages.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::Role;
using singleflight::redis::Lease;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

// Returns a value in which a cut or a careless parser would show.
std::string AllBytes(char first) {
  std::string bytes(1, first);
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  return bytes + "\r\n$5\r\n";
}
const std::string kOwn = AllBytes('o');
const std::string kTheirs = AllBytes('t');

// A Conversation holds how many bytes a proxy's only connection has forwarded each way.
struct Conversation {
  explicit Conversation(const RedisProxy& proxy)
      : requests(proxy.Bytes(0, RedisProxy::kRequests)),
        replies(proxy.Bytes(0, RedisProxy::kReplies)) {
    REQUIRE(proxy.Connections() == 1);
  }
  std::uint64_t requests, replies;
};

// Collects what a check has found wrong.
class Failures {
 public:
  void Unless(bool holds, std::string_view what) {
    if (!holds) (text_ += what) += ". ";
  }
  const std::string& Text() const { return text_; }

 private:
  std::string text_;
};

// Calls `check(at, complaints)` for each place from 0 to `last`. Many calls run at the same time,
// since they mostly wait for other threads and for the server.
template <class Check>
void CheckEach(std::uint64_t last, Check check) {
  std::vector<Failures> complaints(last + 1);
  std::atomic<std::uint64_t> next = 0;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t at; (at = next++) <= last;) {
        try {
          check(at, complaints[at]);
        } catch (const std::exception& error) {
          complaints[at].Unless(false, error.what());
        }
      }
    });
  }
  threads.clear();
  for (std::uint64_t at = 0; at <= last; ++at) {
    INFO("the cut is after " << at << " bytes");
    CHECK(complaints[at].Text() == "");
  }
}

// All keys have one length, so that all conversations about them have one, too.
std::string NumberedKey(std::uint64_t number) { return std::to_string(1'000'000 + number); }

// Leads a call whose lease is marked as followed, so that there is an outcome to publish.
Outcome<std::string> Lead(RedisPages& group, const RedisServer& server, const std::string& key) {
  return Keep([&] {
    return group.Do(key, [&](const Lease& lease) {
      if (!lease.token().empty()) server.Ask("APPEND", LeaseOf(key), "+");
      return kOwn;
    });
  });
}

Conversation LeadersConversation(const RedisServer& server) {
  const RedisProxy proxy(server.Socket());
  RedisPages group(LongTimeouts(proxy.Socket()));
  REQUIRE(Lead(group, server, NumberedKey(0)).value == kOwn);
  server.Ask("FLUSHALL");
  return Conversation(proxy);
}

// Returns the names on the server that never expire, and those of outcomes published twice.
std::vector<std::string> Unwanted(const RedisServer& server) {
  std::vector<std::string> names;
  const auto script =
      "local unwanted = {} "
      "for _, name in ipairs(redis.call('KEYS', '*')) do "
      "  local told = redis.call('TYPE', name).ok == 'stream' and redis.call('XLEN', name) or 1 "
      "  if told ~= 1 or redis.call('PTTL', name) <= 0 then table.insert(unwanted, name) end "
      "end "
      "return unwanted";
  for (const RedisAnswer& name : server.Ask("EVAL", script, "0").elements) {
    names.push_back(name.text);
  }
  return names;
}

// Checks leaders whose first connection is cut at any place of that way. They get their result, and
// publish it.
void CheckLeadersCutOnce(RedisProxy::Way way) {
  const RedisServer server;
  const Conversation bytes = LeadersConversation(server);
  const std::uint64_t last = way == RedisProxy::kRequests ? bytes.requests : bytes.replies;
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    RedisProxy proxy(server.Socket());
    proxy.CutAt({way, at, 0});
    RedisPages group(LongTimeouts(proxy.Socket(), OnOutage::kFail));
    const auto outcome = Lead(group, server, NumberedKey(at));
    const auto stats = group.GetStats();
    complain.Unless(outcome.value == kOwn, "the value should be the leader's own");
    complain.Unless(outcome.shared, "it should be shared");
    complain.Unless(stats.executions == 1, "there should be one execution");
    complain.Unless(stats.unpublished == 0, "it should be published");
    complain.Unless(stats.outages == 0, "there should be no outage");
    complain.Unless(proxy.Actions() == 1, "there should be one cut");
  });
  CHECK(server.Keys("*:lease").empty());
  CHECK(server.Ask("DBSIZE").number == static_cast<long long>(last + 1));  // the outcomes
  CHECK(Unwanted(server).empty());
}

// Checks leaders whose every connection is cut at any place of that way. They get their result if
// they run at all, and leave nothing on the server that never expires.
void CheckLeadersCutAlways(RedisProxy::Way way, OnOutage policy) {
  const RedisServer server;
  const Conversation bytes = LeadersConversation(server);
  const std::uint64_t last = way == RedisProxy::kRequests ? bytes.requests : bytes.replies;
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    RedisProxy proxy(server.Socket());
    proxy.CutAt({way, at});
    RedisPages group(LongTimeouts(proxy.Socket(), policy));
    const auto outcome = Lead(group, server, NumberedKey(at));
    const auto stats = group.GetStats();
    if (policy == OnOutage::kFail && stats.outages == 1) {
      complain.Unless(outcome.error == std::errc::not_connected,
                      "the caller should get the outage");
      complain.Unless(stats.executions == 0, "there should be no execution");
    } else {
      complain.Unless(outcome.value == kOwn, "the value should be the leader's own");
      complain.Unless(stats.executions == 1, "there should be one execution");
    }
    complain.Unless(proxy.Actions() > 0, "there should be a cut");
  });
  CHECK(Unwanted(server).empty());
}

// On this server another process seems to lead the call for "a", and has just published kTheirs.
// Any number of callers can follow it.
class PublishedServer {
 public:
  PublishedServer() {
    RedisPages group(LongTimeouts(server.Socket()));
    const auto lead = [&](const Lease& lease) {
      token = lease.token();
      server.Ask("APPEND", LeaseOf("a"), "+");
      return kTheirs;
    };
    REQUIRE(*group.Do("a", lead) == kTheirs);
    TakeLease();
  }
  void TakeLease() { server.Ask("SET", LeaseOf("a"), token + "+", "PX", "3600000"); }
  std::string Stream() const { return "singleflight:{a}:" + token; }

  RedisServer server;
  std::string token;
};

Conversation FollowersConversation(const RedisServer& server) {
  const RedisProxy proxy(server.Socket());
  RedisPages group(LongTimeouts(proxy.Socket()));
  REQUIRE(AskFor(group, "a", kOwn).value == kTheirs);
  return Conversation(proxy);
}

// Checks that followers whose first connection is cut at any place of that way get the leader's
// result.
void CheckFollowersCutOnce(RedisProxy::Way way) {
  const PublishedServer told;
  const Conversation bytes = FollowersConversation(told.server);
  const std::uint64_t last = way == RedisProxy::kRequests ? bytes.requests : bytes.replies;
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    RedisProxy proxy(told.server.Socket());
    proxy.CutAt({way, at, 0});
    RedisPages group(LongTimeouts(proxy.Socket(), OnOutage::kFail));
    const auto outcome = AskFor(group, "a", kOwn);
    const auto stats = group.GetStats();
    complain.Unless(outcome.value == kTheirs, "the value should be the leader's");
    complain.Unless(outcome.role == Role::kFollower, "the caller should be a follower");
    complain.Unless(stats.remote == 1, "the value should come from another process");
    complain.Unless(stats.executions == 0, "there should be no execution");
    complain.Unless(stats.outages == 0, "there should be no outage");
    complain.Unless(proxy.Actions() == 1, "there should be one cut");
  });
  CHECK(told.server.Get(LeaseOf("a")) == told.token + "+");
}

// Checks that followers whose every connection is cut at any place of that way get the leader's
// result, or what the policy says.
void CheckFollowersCutAlways(RedisProxy::Way way, OnOutage policy) {
  const PublishedServer told;
  const Conversation bytes = FollowersConversation(told.server);
  const std::uint64_t last = way == RedisProxy::kRequests ? bytes.requests : bytes.replies;
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    RedisProxy proxy(told.server.Socket());
    proxy.CutAt({way, at});
    RedisPages group(LongTimeouts(proxy.Socket(), policy));
    const auto outcome = AskFor(group, "a", kOwn);
    const auto stats = group.GetStats();
    if (stats.outages == 0) {
      complain.Unless(outcome.value == kTheirs, "the value should be the leader's");
      complain.Unless(stats.remote == 1, "the value should come from another process");
      complain.Unless(stats.executions == 0, "there should be no execution");
    } else if (policy == OnOutage::kRunLocally) {
      complain.Unless(outcome.value == kOwn, "the value should be the caller's own");
      complain.Unless(stats.executions == 1, "there should be one execution");
    } else {
      complain.Unless(outcome.error == std::errc::not_connected,
                      "the caller should get the outage");
      complain.Unless(stats.executions == 0, "there should be no execution");
    }
    complain.Unless(proxy.Actions() > 0, "there should be a cut");
  });
  CHECK(told.server.Get(LeaseOf("a")) == told.token + "+");
}

}  // namespace

TEST_CASE(
    "Redis outage: a leader publishes even if its connection is cut once after any byte of its "
    "requests") {
  CheckLeadersCutOnce(RedisProxy::kRequests);
}

TEST_CASE(
    "Redis outage: a leader publishes even if its connection is cut once after any byte of its "
    "replies") {
  CheckLeadersCutOnce(RedisProxy::kReplies);
}

TEST_CASE(
    "Redis outage: with kRunLocally a leader gets its result even if every connection is cut after "
    "any byte of its requests") {
  CheckLeadersCutAlways(RedisProxy::kRequests, OnOutage::kRunLocally);
}

TEST_CASE(
    "Redis outage: with kFail a leader gets its result or the outage if every connection is cut "
    "after any byte of its requests") {
  CheckLeadersCutAlways(RedisProxy::kRequests, OnOutage::kFail);
}

TEST_CASE(
    "Redis outage: with kRunLocally a leader gets its result even if every connection is cut after "
    "any byte of its replies") {
  CheckLeadersCutAlways(RedisProxy::kReplies, OnOutage::kRunLocally);
}

TEST_CASE(
    "Redis outage: with kFail a leader gets its result or the outage if every connection is cut "
    "after any byte of its replies") {
  CheckLeadersCutAlways(RedisProxy::kReplies, OnOutage::kFail);
}

TEST_CASE(
    "Redis outage: a follower gets the result even if its connection is cut once after any byte of "
    "its requests") {
  CheckFollowersCutOnce(RedisProxy::kRequests);
}

TEST_CASE(
    "Redis outage: a follower gets the result even if its connection is cut once after any byte of "
    "its replies") {
  CheckFollowersCutOnce(RedisProxy::kReplies);
}

TEST_CASE(
    "Redis outage: with kRunLocally a follower gets the leader's result or its own if every "
    "connection is cut after any byte of its requests") {
  CheckFollowersCutAlways(RedisProxy::kRequests, OnOutage::kRunLocally);
}

TEST_CASE(
    "Redis outage: with kFail a follower gets the leader's result or the outage if every "
    "connection is cut after any byte of its requests") {
  CheckFollowersCutAlways(RedisProxy::kRequests, OnOutage::kFail);
}

TEST_CASE(
    "Redis outage: with kRunLocally a follower gets the leader's result or its own if every "
    "connection is cut after any byte of its replies") {
  CheckFollowersCutAlways(RedisProxy::kReplies, OnOutage::kRunLocally);
}

TEST_CASE(
    "Redis outage: with kFail a follower gets the leader's result or the outage if every "
    "connection is cut after any byte of its replies") {
  CheckFollowersCutAlways(RedisProxy::kReplies, OnOutage::kFail);
}

TEST_CASE("Redis outage: a follower whose connection is cut while it waits connects again") {
  const RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  RedisLeader leader(elsewhere, "a", kTheirs);
  RedisProxy proxy(server.Socket());
  RedisPages group(LongTimeouts(proxy.Socket(), OnOutage::kFail));
  Caller follower([&] { return group.Do("a", [] { return kOwn; }); });
  Await([&] { return server.BlockedClients() == 1; });
  proxy.CutAt({RedisProxy::kRequests, proxy.Bytes(0, RedisProxy::kRequests), 0});
  Await([&] { return proxy.Connections() == 2 && server.BlockedClients() == 1; });
  leader.Finish();
  CHECK((follower.Join().value == kTheirs));
  CHECK(group.GetStats().outages == 0);
}

TEST_CASE("Redis outage: a lease is renewed although the connection is cut during the renewal") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  Options options = LongTimeouts(proxy.Socket(), OnOutage::kFail);
  options.lease = 4s;
  RedisPages group(options);
  const auto left = [&] { return server.Ask("PTTL", LeaseOf("a")).number; };
  const auto load = [&] {
    proxy.CutAt({RedisProxy::kRequests, proxy.Bytes(0, RedisProxy::kRequests) + 10, 0});
    Await([&, before = left()]() mutable {
      const long long last = std::exchange(before, left());
      return before > last;
    });
    return "own"s;
  };
  CHECK(*group.Do("a", load) == "own");
  CHECK(proxy.Actions() == 1);
  CHECK(group.GetStats().unpublished == 0);
}

TEST_CASE("Redis outage: any damaged byte of an outcome makes a follower run its own function") {
  PublishedServer told;
  const Conversation bytes = FollowersConversation(told.server);
  const std::size_t size = told.server.Ask("XRANGE", told.Stream(), "-", "+")
                               .elements.at(0)
                               .elements.at(1)
                               .elements.at(1)
                               .text.size();
  REQUIRE(size > kTheirs.size());
  const std::uint64_t end = bytes.replies - 2;  // without the final "\r\n"
  for (std::uint64_t at = end - size; at < end; ++at) {
    INFO(at);
    told.TakeLease();
    RedisProxy proxy(told.server.Socket());
    proxy.CorruptAt({RedisProxy::kReplies, at}, static_cast<unsigned char>(1U << at % 8));
    // The leader has published its outcome and given its lease back.
    proxy.CallAt({RedisProxy::kReplies, at}, [&] { told.server.Ask("DEL", LeaseOf("a")); });
    RedisPages group(LongTimeouts(proxy.Socket(), OnOutage::kFail));
    CHECK((AskFor(group, "a", kOwn).value == kOwn));
    CHECK(group.GetStats().undecodable == 1);
    CHECK(group.GetStats().executions == 1);
  }
}

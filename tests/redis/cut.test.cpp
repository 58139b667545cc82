// SPDX-License-Identifier: MIT

// These tests cut the connections between a redis::Group and its server after each byte that a
// leader or a follower sends or receives. No caller ever hangs, or gets a wrong or partial value,
// and no outcome is lost.

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
using singleflight::redis::ClientOptions;
using singleflight::redis::Lease;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

// A client's connections, in the order in which they are made.
constexpr std::size_t kCommands = 0;
constexpr std::size_t kMessages = 1;

// Returns a value in which a cut or a careless parser would show.
std::string AllBytes(char first) {
  std::string bytes(1, first);
  for (int byte = 0; byte < 256; ++byte) bytes.push_back(static_cast<char>(byte));
  return bytes + "\r\n$5\r\n";
}
const std::string kOwn = AllBytes('o');
const std::string kTheirs = AllBytes('t');

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

// Calls `check(at, complaints)` for each `step`th place from 0 to `last`. Many calls run at the
// same time, since they mostly wait for other threads and for the server.
template <class Check>
void CheckEach(std::uint64_t last, Check check, std::uint64_t step = 1) {
  std::vector<Failures> complaints(last + 1);
  std::atomic<std::uint64_t> next = 0;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t at; (at = next.fetch_add(step)) <= last;) {
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

// Leads a call whose lease is marked as followed, so that there is an outcome to keep.
Outcome<std::string> Lead(RedisPages& group, const RedisServer& server, const std::string& key) {
  return Keep([&] {
    return group.Do(key, [&](const Lease& lease) {
      const char* const mark =
          "if redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], 'f:x', '1') end";
      if (!lease.token().empty()) server.Ask("EVAL", mark, "1", LeaseOf(key));
      return kOwn;
    });
  });
}

// Returns the names on the server that never expire.
std::vector<std::string> Immortal(const RedisServer& server) {
  std::vector<std::string> names;
  for (const std::string& name : server.Keys()) {
    if (server.Ask("PTTL", name).number == -1) names.push_back(name);  // -2: it has expired
  }
  return names;
}

// A process behind a proxy, whose two connections are up.
struct Connected {
  Connected(const RedisServer& server, const Options& options) : proxy(server.Socket()) {
    pages.emplace(LongTimeouts(proxy.Socket()), options);
    AwaitSubscribed(server, *pages);
    Await([&] { return server.Keys("*lease").empty(); });
    executions = pages->GetStats().executions;
  }
  std::uint64_t Bytes(std::size_t connection, RedisProxy::Way way) const {
    return proxy.Bytes(connection, way);
  }
  // Cuts a connection so many bytes from now, once.
  void CutLater(std::size_t connection, RedisProxy::Way way, std::uint64_t bytes) {
    proxy.CutAt({way, Bytes(connection, way) + bytes, connection});
  }

  RedisProxy proxy;
  std::optional<RedisPages> pages;
  std::uint64_t executions = 0;  // so far
};

// Returns how many bytes a leader's conversation has that way.
std::uint64_t LeadersBytes(const RedisServer& server, RedisProxy::Way way) {
  Connected its(server, LongLease());
  const std::uint64_t before = its.Bytes(kCommands, way);
  REQUIRE(Lead(*its.pages, server, NumberedKey(0)).value == kOwn);
  Await([&] { return server.Keys("*lease").empty(); });
  its.pages.reset();
  server.Ask("FLUSHALL");
  return its.Bytes(kCommands, way) - before;
}

// Checks leaders whose connection is cut once, at any place of that way. They get their result, and
// publish it.
void CheckLeadersCutOnce(RedisProxy::Way way) {
  const RedisServer server;
  const std::uint64_t last = LeadersBytes(server, way);
  REQUIRE(last > 20);
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    RedisProxy proxy(server.Socket());
    RedisPages group(LongTimeouts(proxy.Socket()), LongLease(OnOutage::kFail));
    AwaitSubscribed(server, group);
    const std::uint64_t executions = group.GetStats().executions;
    const std::string key = NumberedKey(at);
    proxy.CutAt({way, proxy.Bytes(kCommands, way) + at, kCommands});
    const auto outcome = Lead(group, server, key);
    AwaitPublished(group);
    const auto stats = group.GetStats();
    complain.Unless(outcome.value == kOwn, "the value should be the leader's own");
    complain.Unless(outcome.role == Role::kLeader, "the caller should be a leader");
    complain.Unless(stats.executions == executions + 1, "there should be one execution");
    complain.Unless(stats.unpublished == 0, "it should be published");
    complain.Unless(stats.untold == 0, "it should be told");
    complain.Unless(stats.outages == 0, "there should be no outage");
    complain.Unless(server.Ask("EXISTS", LeaseOf(key)).number == 0, "its lease should be gone");
    complain.Unless(server.Keys("t:{" + key + "}:outcome:*").size() == 1, "it should be kept once");
  });
  CHECK(Immortal(server).empty());
}

// Checks leaders whose every connection is cut at any place of that way. They get their result if
// they run at all, and leave nothing on the server that never expires.
void CheckLeadersCutAlways(RedisProxy::Way way, OnOutage policy) {
  const RedisServer server;
  const std::uint64_t last = 400 + LeadersBytes(server, way);  // with the handshake
  CheckEach(
      last,
      [&](std::uint64_t at, Failures& complain) {
        RedisProxy proxy(server.Socket());
        proxy.CutAt({way, at});
        ClientOptions options = LongTimeouts(proxy.Socket());
        options.command_timeout = 100ms;  // so long its destructor tries to publish
        RedisPages group(options, LongLease(policy));
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
      },
      5);
  CHECK(Immortal(server).empty());
}

// Returns how many bytes a follower's conversation has on that connection, that way.
std::uint64_t FollowersBytes(const RedisServer& server, std::size_t connection,
                             RedisProxy::Way way) {
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  Connected its(server, LongLease());
  const std::uint64_t before = its.Bytes(connection, way);
  RedisLeader leader(elsewhere, NumberedKey(0), kTheirs);
  Caller follower([&] { return its.pages->Do(NumberedKey(0), NeverRun); });
  AwaitFollowers(server, NumberedKey(0), 1);
  leader.Finish();
  REQUIRE(follower.Join().value == kTheirs);
  return its.Bytes(connection, way) - before;
}

// Checks that followers whose connection is cut once, at any place of that way, get the leader's
// result.
void CheckFollowersCutOnce(std::size_t connection, RedisProxy::Way way) {
  const RedisServer server;
  const std::uint64_t last = FollowersBytes(server, connection, way);
  REQUIRE(last > 20);
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  CheckEach(last, [&](std::uint64_t at, Failures& complain) {
    const std::string key = NumberedKey(at);
    RedisProxy proxy(server.Socket());
    RedisPages group(LongTimeouts(proxy.Socket()), LongLease(OnOutage::kFail));
    AwaitSubscribed(server, group);
    const std::uint64_t executions = group.GetStats().executions;
    proxy.CutAt({way, proxy.Bytes(connection, way) + at, connection});
    RedisLeader leader(elsewhere, key, kTheirs);
    Caller follower([&] { return group.Do(key, [] { return kOwn; }); });
    AwaitFollowers(server, key, 1);
    leader.Finish();
    const auto outcome = follower.Join();
    const auto stats = group.GetStats();
    // If the first answer was lost, the leader may have finished before the follower knew of it.
    const bool may_lead = connection == kCommands && (way == RedisProxy::kReplies || at == last);
    if (may_lead && outcome.value == kOwn) {
      complain.Unless(outcome.role == Role::kLeader, "the caller should be a leader");
      complain.Unless(stats.executions == executions + 1, "there should be one execution");
    } else {
      complain.Unless(outcome.value == kTheirs, "the value should be the leader's");
      complain.Unless(outcome.role == Role::kFollower, "the caller should be a follower");
      complain.Unless(stats.remote == 1, "the value should come from another process");
      complain.Unless(stats.executions == executions, "there should be no execution");
    }
    complain.Unless(stats.outages == 0, "there should be no outage");
  });
  CHECK(Immortal(server).empty());
}

// Checks that followers whose every connection is cut at any place of that way get the leader's
// result, or what the policy says.
void CheckFollowersCutAlways(RedisProxy::Way way, OnOutage policy) {
  const RedisServer server;
  RedisPages elsewhere(LongTimeouts(server.Socket()), WithLease(1s));
  RedisLeader leader(elsewhere, "a", kTheirs);
  CheckEach(
      1000,
      [&](std::uint64_t at, Failures& complain) {
        RedisProxy proxy(server.Socket());
        proxy.CutAt({way, at});
        ClientOptions options = LongTimeouts(proxy.Socket());
        options.command_timeout = 100ms;  // so long its destructor tries to publish
        RedisPages group(options, LongLease(policy));
        const auto outcome =
            Keep([&] { return group.Do("a", [] { return kOwn; }, {.timeout = 1500ms}); });
        const auto stats = group.GetStats();
        if (stats.outages == 0) {  // nothing was cut, or what was is no harm
          complain.Unless(outcome.error == std::errc::timed_out, "the leader has not finished");
          complain.Unless(stats.executions == 0, "there should be no execution");
        } else if (policy == OnOutage::kRunLocally) {
          complain.Unless(outcome.value == kOwn, "the value should be the caller's own");
          complain.Unless(stats.executions == 1, "there should be one execution");
        } else {
          complain.Unless(outcome.error == std::errc::not_connected,
                          "the caller should get the outage");
          complain.Unless(stats.executions == 0, "there should be no execution");
        }
      },
      29);
  CHECK(leader.Finish().value == kTheirs);
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
    "Redis outage: a leader gets its result, or the outage, if every connection is cut after any "
    "byte of its requests") {
  for (const OnOutage policy : kOutagePolicies)
    CheckLeadersCutAlways(RedisProxy::kRequests, policy);
}

TEST_CASE(
    "Redis outage: a leader gets its result, or the outage, if every connection is cut after any "
    "byte of its replies") {
  for (const OnOutage policy : kOutagePolicies) CheckLeadersCutAlways(RedisProxy::kReplies, policy);
}

TEST_CASE(
    "Redis outage: a follower gets the result even if its connection is cut once after any byte of "
    "its requests") {
  CheckFollowersCutOnce(kCommands, RedisProxy::kRequests);
}

TEST_CASE(
    "Redis outage: a follower gets the result even if its connection is cut once after any byte of "
    "its replies") {
  CheckFollowersCutOnce(kCommands, RedisProxy::kReplies);
}

TEST_CASE(
    "Redis outage: a follower gets the result even if its connection is cut once after any byte of "
    "a message") {
  CheckFollowersCutOnce(kMessages, RedisProxy::kReplies);
}

TEST_CASE(
    "Redis outage: a follower gets what the policy says if every connection is cut after any byte "
    "of its requests") {
  for (const OnOutage policy : kOutagePolicies) {
    CheckFollowersCutAlways(RedisProxy::kRequests, policy);
  }
}

TEST_CASE(
    "Redis outage: a follower gets what the policy says if every connection is cut after any byte "
    "of its replies") {
  for (const OnOutage policy : kOutagePolicies) {
    CheckFollowersCutAlways(RedisProxy::kReplies, policy);
  }
}

TEST_CASE("Redis outage: a lease is renewed although the connection is cut during the renewal") {
  const RedisServer server;
  Connected its(server, WithLease(3s, OnOutage::kFail));
  const auto left = [&] { return server.Ask("PTTL", LeaseOf("a")).number; };
  const auto load = [&] {
    its.CutLater(kCommands, RedisProxy::kRequests, 10);
    Await([&, before = left()]() mutable {
      const long long last = std::exchange(before, left());
      return before > last;
    });
    return "own"s;
  };
  CHECK(*its.pages->Do("a", load) == "own");
  CHECK(its.proxy.Actions() == 1);
  CHECK(its.pages->GetStats().lost_leases == 0);
  CHECK(its.pages->GetStats().outages == 0);
}

TEST_CASE("Redis outage: any damaged byte of an outcome makes a follower run its own function") {
  const RedisServer server;
  const std::uint64_t bytes = FollowersBytes(server, kMessages, RedisProxy::kReplies);
  const std::uint64_t size = singleflight::redis::detail::kPayloadHeader + kTheirs.size();
  REQUIRE(bytes > size + 2);
  RedisPages elsewhere(LongTimeouts(server.Socket()));
  CheckEach(size - 1, [&](std::uint64_t at, Failures& complain) {
    const std::string key = NumberedKey(at);
    RedisProxy proxy(server.Socket());
    RedisPages group(LongTimeouts(proxy.Socket()), LongLease(OnOutage::kFail));
    AwaitSubscribed(server, group);
    const std::uint64_t executions = group.GetStats().executions;
    RedisLeader leader(elsewhere, key, kTheirs);
    Caller follower([&] { return group.Do(key, [] { return kOwn; }); });
    AwaitFollowers(server, key, 1);
    const std::uint64_t place =
        proxy.Bytes(kMessages, RedisProxy::kReplies) + bytes - 2 - size + at;  // before "\r\n"
    proxy.CorruptAt({RedisProxy::kReplies, place, kMessages},
                    static_cast<unsigned char>(1U << at % 8));
    leader.Finish();
    complain.Unless(follower.Join().value == kOwn, "the value should be the follower's own");
    complain.Unless(group.GetStats().undecodable == 1, "the outcome should not decode");
    complain.Unless(group.GetStats().executions == executions + 1, "there should be one execution");
  });
}

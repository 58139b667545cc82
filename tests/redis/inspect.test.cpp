// SPDX-License-Identifier: MIT

// Tests Inspect of a redis::Group and of a redis::ReadThrough: the calls of this process.

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <future>
#include <optional>
#include <ostream>
#include <singleflight/redis.hpp>
#include <singleflight/redis_call_info.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::CallInfo;
using singleflight::redis::CallPhase;

namespace singleflight::redis {

// Catch2 prints this type with this operator.
inline std::ostream& operator<<(std::ostream& out, CallPhase phase) {
  constexpr const char* kNames[] = {"kAsking", "kFollowing", "kLeading"};
  return out << kNames[static_cast<unsigned char>(phase)];
}

}  // namespace singleflight::redis

namespace {

// Returns the calls, sorted by key.
template <class G>
std::vector<CallInfo> SortedCalls(const G& group) {
  std::vector<CallInfo> calls = group.Inspect();
  std::ranges::sort(calls, {}, [](const CallInfo& call) { return call.key; });
  return calls;
}
// Returns the phase of the only call, if there is one.
template <class G>
std::optional<CallPhase> OnlyPhase(const G& group) {
  const std::vector<CallInfo> calls = group.Inspect();
  if (calls.size() != 1) return std::nullopt;
  return calls[0].phase;
}

}  // namespace

TEST_CASE(
    "redis: Inspect says of each call of this process how many callers it has and who leads") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  CHECK(here.Inspect().empty());
  RedisLeader led(here, "ours", "v"s), led_there(there, "theirs", "v"s), empty(here, "", "v"s);
  test::Caller follower([&] { return here.Do("ours", NeverRun); });
  test::Caller remote([&] { return here.Do("theirs", NeverRun); });
  AwaitCallers(here, "ours", 2);
  AwaitFollowers(server, "theirs", 1);
  Await([&] { return SortedCalls(here).at(2).phase != CallPhase::kAsking; });
  const std::vector<CallInfo> calls = SortedCalls(here);
  CHECK(OnlyPhase(there) == CallPhase::kLeading);
  led.Finish(), led_there.Finish();
  REQUIRE(calls.size() == 3);
  CHECK(calls[0].key == "");
  CHECK(calls[0].callers == 1);
  CHECK(calls[0].phase == CallPhase::kLeading);
  CHECK(calls[1].key == "ours");
  CHECK(calls[1].callers == 2);
  CHECK(calls[1].phase == CallPhase::kLeading);
  CHECK(calls[2].key == "theirs");
  CHECK(calls[2].callers == 1);
  CHECK(calls[2].phase == CallPhase::kFollowing);
  for (const CallInfo& call : calls) {
    CHECK_FALSE(call.forgotten);
    CHECK(call.since == std::nullopt);
  }
}

TEST_CASE("redis: Inspect shows a forgotten call beside its successor") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  RedisLeader first(pages, "k", "old"s);
  REQUIRE(pages.Forget("k"));
  RedisLeader second(pages, "k", "new"s);
  const std::vector<CallInfo> calls = pages.Inspect();
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].forgotten != calls[1].forgotten);
  for (const CallInfo& call : calls) CHECK(call.phase == CallPhase::kLeading);
}

TEST_CASE("redis: Inspect shows that a call still asks while no server answers") {
  RedisServer server;
  RedisPages pages(server, LongLease());
  CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  server.Stop();
  test::Caller asking([&] { return pages.Do("k", [] { return "v"s; }); });
  AwaitCallers(pages, "k", 1);
  CHECK(OnlyPhase(pages) == CallPhase::kAsking);
  server.Continue();
  CHECK(asking.Join().value == "v");
  CHECK(pages.Inspect().empty());
}

TEST_CASE("redis: Inspect shows that a process leads once it has taken over") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  std::promise<void> begun, finish;
  RedisLeader first(here, "k", "v"s);
  test::Caller follower([&] {
    return there.Do("k", [&] {
      begun.set_value();
      finish.get_future().wait();
      return "w"s;
    });
  });
  Await([&] { return OnlyPhase(there) == CallPhase::kFollowing; });
  REQUIRE(here.Cancel("k"));
  begun.get_future().wait();
  CHECK(OnlyPhase(there) == CallPhase::kLeading);
  finish.set_value();
  CHECK(follower.Join().value == "w");
}

TEST_CASE("redis: Inspect says since when a call is in flight if the group is timed") {
  const RedisServer server;
  singleflight::redis::Options options = LongLease();
  options.group.timed = true;
  RedisPages pages(server, options);
  const auto before = std::chrono::steady_clock::now();
  RedisLeader leader(pages, "k", "v"s);
  const std::vector<CallInfo> calls = pages.Inspect();
  REQUIRE(calls.size() == 1);
  REQUIRE(calls[0].since);
  CHECK(*calls[0].since >= before);
  CHECK(*calls[0].since <= std::chrono::steady_clock::now());
}

TEST_CASE("redis::ReadThrough: Inspect shows loads in the background beside the calls") {
  const RedisServer server;
  PageOptions options = Stale();
  options.fleet.group.timed = true;
  CachePages pages(server, options), there(server, options);
  PutExpired(server, pages, "stale");
  HeldLoad refresh("new"), load("v");
  CHECK(*pages.Get("stale", refresh.Load()) == "old");
  test::Caller leader([&] { return pages.Get("k", load.Load()); });
  refresh.AwaitBegun(), load.AwaitBegun();
  test::Caller follower([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  Await([&] { return OnlyPhase(there) != CallPhase::kAsking; });
  const auto followed = OnlyPhase(there);
  const std::vector<CallInfo> calls = SortedCalls(pages);
  refresh.Finish(), load.Finish();
  CHECK(followed == CallPhase::kFollowing);
  REQUIRE(calls.size() == 2);
  CHECK(calls[0].key == "k");
  CHECK(calls[1].key == "stale");
  for (const CallInfo& call : calls) {
    CHECK(call.phase == CallPhase::kLeading);
    CHECK(call.since.has_value());
  }
}

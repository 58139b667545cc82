// SPDX-License-Identifier: MIT

// Tests one redis::ReadThrough in several real processes: no page is loaded twice while it is
// fresh, no Get sees a value from before an Invalidate, and a process may die at any byte of a put.

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "history.hpp"
#include "members.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "support/temporary_directory.hpp"

using namespace test;
using namespace std::string_literals;

namespace {

constexpr std::size_t kProcesses = 3;
constexpr int kPages = 50;

std::list<RedisMember> StartFleet(const RedisServer& server, std::chrono::milliseconds ttl,
                                  std::chrono::milliseconds local = {}) {
  std::list<RedisMember> fleet;
  for (std::size_t i = 0; i < kProcesses; ++i) {
    fleet.emplace_back("process" + std::to_string(i), server.Socket());
    fleet.back().MakeCache(ttl, local);
  }
  return fleet;
}

// Returns how many loads a process has reported, and notes when each page's began.
std::size_t TakeLoads(RedisMember& member,
                      std::map<std::string, std::vector<std::int64_t>>& begun) {
  const std::size_t count = member.Unread("rendered");
  for (std::size_t i = 0; i < count; ++i) {
    const auto [page, moment] = member.AwaitAny("rendered");
    begun[page].push_back(std::stoll(moment));
  }
  return count;
}

}  // namespace

TEST_CASE("redis::ReadThrough: 3 processes that ask for 50 pages load each of them once") {
  const RedisServer server;
  std::list<RedisMember> fleet = StartFleet(server, 1h, GENERATE(0ms, 3'600'000ms));
  constexpr int kThreads = 4;
  for (RedisMember& member : fleet) {
    member.Command("pages " + std::to_string(kPages) + ' ' + std::to_string(kThreads));
  }
  std::map<std::string, std::vector<std::int64_t>> begun;
  std::size_t loads = 0;
  for (RedisMember& member : fleet) {
    for (int i = 0; i < kThreads; ++i) CHECK(member.AwaitReport("asked") == "50");
    loads += TakeLoads(member, begun);
    CHECK(member.Unread("failed") == 0);
    CHECK(member.End() == "exit 0");
  }
  CHECK(loads == kPages);
  CHECK(begun.size() == kPages);
}

TEST_CASE("redis::ReadThrough: 3 processes load no page again while its value is fresh") {
  const RedisServer server;
  const bool is_local = GENERATE(false, true);
  std::list<RedisMember> fleet = StartFleet(server, 1s, is_local ? 1000ms : 0ms);
  for (RedisMember& member : fleet) {
    member.Command("steady " + std::to_string(kPages) + " 1");
  }
  std::map<std::string, std::vector<std::int64_t>> begun;
  const auto enough = [&] {
    std::size_t pages = 0;
    for (const auto& [page, moments] : begun) pages += moments.size() >= 4 ? 1U : 0U;
    return pages == kPages;
  };
  while (!enough()) {
    for (RedisMember& member : fleet) {
      member.GetStats();  // reads what it has reported
      TakeLoads(member, begun);
    }
  }
  for (RedisMember& member : fleet) {
    member.Command("stop");
    static_cast<void>(member.AwaitReport("asked"));
    TakeLoads(member, begun);
    CHECK(member.Unread("failed") == 0);
    CHECK(member.End() == "exit 0");
  }
  int duplicates = 0;
  for (auto& [page, moments] : begun) {
    std::ranges::sort(moments);
    for (std::size_t i = 1; i < moments.size(); ++i) {
      // A value is put after its load has begun, and is fresh for a second from then on. The clocks
      // of the server and of this test may differ by less than a part in a hundred.
      if (moments[i] - moments[i - 1] < 990'000'000) ++duplicates;
    }
  }
  CHECK(duplicates == 0);
}

TEST_CASE("redis::ReadThrough: no Get sees a value older than an Invalidate that has returned") {
  // Also while connections are cut. With local caches, this is promised in the process that calls
  // Invalidate.
  const bool is_local = GENERATE(false, true);
  CAPTURE(is_local);
  const RedisServer server;
  const TemporaryDirectory directory;
  const std::string file = directory.Path() + "/history";
  const SharedHistory history(file);
  for (auto& key : history->keys) key.version = 1;
  std::list<RedisProxy> proxies;
  std::list<RedisMember> fleet;
  constexpr int kThreads = 3, kTimes = 1'500;
  for (std::size_t i = 0; i < kProcesses; ++i) {
    proxies.emplace_back(server.Socket());
    fleet.emplace_back("process" + std::to_string(i), proxies.back().Socket(),
                       RedisMemberOptions{.lease = 1s, .linger = 1s});
    fleet.back().MakeCache(50ms, is_local ? 1000ms : 0ms);
    const bool is_promised = !is_local || i == 0;
    fleet.back().Command("history " + file + ' ' + std::to_string(kThreads) + ' ' +
                         std::to_string(kTimes) + (is_promised ? " 1 1" : " 0 0"));
  }
  constexpr std::uint64_t kAll = kProcesses * kThreads * kTimes;
  auto proxy = proxies.begin();
  for (std::uint64_t step = kAll / 20; step < kAll; step += kAll / 20) {
    AwaitInTime([&] { return history->steps >= step; });
    proxy->GoAway();
    proxy->ComeBack();
    if (++proxy == proxies.end()) proxy = proxies.begin();
  }
  std::uint64_t gets = 0, bad = 0;
  for (RedisMember& member : fleet) {
    for (int i = 0; i < kThreads; ++i) {
      const std::string report = member.AwaitReport("remembered");
      gets += std::stoull(report);
      bad += std::stoull(report.substr(report.find(' ')));
    }
    CHECK(member.End() == "exit 0");
  }
  CHECK(bad == 0);
  CHECK(gets > kAll / 10);  // in an outage, asking fails fast
}

TEST_CASE("redis::ReadThrough: a process that is killed at any byte of a put leaves no harm") {
  // What others get is its value, if that was put, or else what they load themselves.
  const RedisServer server;
  PageOptions options = LongTtl();
  options.fleet.lease = options.fleet.linger = 300ms;
  CachePages there(server, options, "cache");
  REQUIRE_FALSE(there.Peek("key").has_value());  // there is a generation
  // How many bytes the process sends for a put, and what it receives.
  std::uint64_t size = 0, replies = 0;
  const auto run = [&](std::size_t number, std::optional<RedisProxy::Place> place) {
    const std::string key = "key" + std::to_string(1000 + number);
    RedisProxy proxy(server.Socket());
    RedisMember member("member", proxy.Socket(), {.lease = 300ms, .linger = 300ms});
    member.MakeCache(1h);
    member.Command("get " + key);
    static_cast<void>(member.AwaitReport("loading", key));
    const std::string lease = CacheName(server, key, "lease", "cache");
    test::Caller follower([&] { return there.Get(key, [] { return "own"s; }); });
    AwaitInTime([&] { return InboxesAt(server, lease).size() == 1; });
    const std::uint64_t sent = proxy.Bytes(0, RedisProxy::kRequests);
    const std::uint64_t heard = proxy.Bytes(0, RedisProxy::kReplies);
    if (place) {
      place->bytes += place->way == RedisProxy::kRequests ? sent : heard;
      proxy.CallAt(*place, [pid = member.Pid()] { ::kill(pid, SIGKILL); });
    }
    member.Order(key, "return");
    const std::string value = follower.Join().value.value_or("nothing");
    CHECK((value == "member:" + key || value == "own"));
    CHECK(*there.Get(key, NeverRun) == value);
    if (place) {
      CHECK(member.AwaitEnd() == "signal 9");
    } else {
      CHECK(value == "member:" + key);
      AwaitInTime([&] { return server.Ask("EXISTS", lease).number == 0; });
      size = proxy.Bytes(0, RedisProxy::kRequests) - sent;
      replies = proxy.Bytes(0, RedisProxy::kReplies) - heard;
    }
  };
  run(0, std::nullopt);  // the server knows the scripts from then on
  run(1, std::nullopt);
  std::size_t number = 2;
  for (std::uint64_t at = 0; at <= size; at += 29) {
    run(number++, RedisProxy::Place{RedisProxy::kRequests, at, 0});
  }
  run(number, RedisProxy::Place{RedisProxy::kReplies, 1, 0});
}

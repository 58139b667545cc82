// SPDX-License-Identifier: MIT

// Tests one redis::ReadThrough in several real processes: no page is loaded twice while it is
// fresh, no Get sees a value from before an Invalidate, and a process may die at any byte of a put.

#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <map>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
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
#include "support/threads.hpp"

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

// ---- Killed

namespace {

// A lease that lasts as long as a test, and one that ends soon after its process. The latter may be
// renewed, and may be lost if the machine stalls.
constexpr std::chrono::milliseconds kLastingLease = 1min, kBriefLease = 300ms;

// Where a process dies whose load has returned, and what another one gets then, and afterwards.
struct DeathInPut {
  std::optional<RedisProxy::Place> place;  // counted from when its load returns. None: it lives
  std::chrono::milliseconds lease;
  std::string key;
  std::string end = {};  // how the process finished
  std::optional<std::string> followed = {}, kept = {};
  std::uint64_t requests = 0, replies = 0;  // bytes of its put, if it lives
};

// A process asks for the cache's generation once more when its subscription is confirmed, which
// nothing announces. Waits until its first connection has come to rest.
void AwaitRest(const RedisProxy& proxy) {
  const auto bytes = [&] {
    return proxy.Bytes(0, RedisProxy::kRequests) + proxy.Bytes(0, RedisProxy::kReplies);
  };
  std::uint64_t before = bytes();
  for (int quiet = 0; quiet < 5;) {
    std::this_thread::sleep_for(10ms);
    const std::uint64_t now = bytes();
    quiet = now == before ? quiet + 1 : 0;
    before = now;
  }
}

void Play(const RedisServer& server, CachePages& there, DeathInPut& death) {
  RedisProxy proxy(server.Socket());
  RedisMember member("member", proxy.Socket(), {.lease = death.lease});
  member.MakeCache(1h);
  member.Command("get " + death.key);
  static_cast<void>(member.AwaitReport("loading", death.key));
  const std::string lease = CacheName(server, death.key, "lease", "cache");
  const auto token = [&] { return server.Ask("HGET", lease, "token").text; };
  const std::string its_token = token();
  test::Caller follower([&] { return there.Get(death.key, [] { return "own"s; }); });
  AwaitInTime([&] { return !InboxesAt(server, lease).empty() || token() != its_token; });
  if (death.lease == kLastingLease) AwaitRest(proxy);  // a brief one is renewed
  const std::uint64_t sent = proxy.Bytes(0, RedisProxy::kRequests);
  const std::uint64_t heard = proxy.Bytes(0, RedisProxy::kReplies);
  if (death.place) {
    RedisProxy::Place place = *death.place;
    place.bytes += place.way == RedisProxy::kRequests ? sent : heard;
    place.connection = 0;
    proxy.CallAt(place, [pid = member.Pid()] {
      ::kill(pid, SIGKILL);
      siginfo_t ended;
      ::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT);
    });
    proxy.CutAt(place);  // what it had sent beyond the place is lost
  }
  member.Order(death.key, "return");
  death.followed = follower.Join().value;
  death.kept = Keep([&] { return there.Get(death.key, NeverRun); }).value;
  if (death.place) {
    death.end = member.AwaitEnd();
    return;
  }
  AwaitInTime([&] { return server.Ask("EXISTS", lease).number == 0; });
  death.end = member.End();
  death.requests = proxy.Bytes(0, RedisProxy::kRequests) - sent;
  death.replies = proxy.Bytes(0, RedisProxy::kReplies) - heard;
}

// Plays all deaths, many at a time, since the followers mostly wait.
void PlayAll(const RedisServer& server, CachePages& there, std::vector<DeathInPut>& deaths) {
  std::atomic<std::size_t> next = 0;
  std::mutex mutex;
  std::string error;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 24; ++i) {
    threads.emplace_back([&] {
      try {
        for (std::size_t mine; (mine = next++) < deaths.size();) Play(server, there, deaths[mine]);
      } catch (const std::exception& exception) {
        const std::lock_guard lock(mutex);
        error = exception.what();
      }
    });
  }
  threads.clear();
  if (!error.empty()) throw std::runtime_error(error);
}

}  // namespace

TEST_CASE("redis::ReadThrough: a process that is killed at any byte of a put leaves no harm") {
  // Others get its value, if all of the put has arrived, or else what they load themselves.
  const RedisServer server;
  CachePages there(server, LongTtl(), "cache");
  REQUIRE_FALSE(there.Peek("key").has_value());  // there is a generation
  int number = 1000;
  const auto key = [&] { return "key" + std::to_string(number++); };  // they have one length
  std::optional<DeathInPut> lives;
  for (int i = 0; i < 2; ++i) {  // the server knows the scripts afterwards
    lives.emplace(DeathInPut{std::nullopt, kLastingLease, key()});
    Play(server, there, *lives);
    REQUIRE(lives->end == "exit 0");
    REQUIRE(lives->followed == "member:" + lives->key);
  }
#ifdef UNDER_SANITIZER
  constexpr std::uint64_t kStep = 29;
#else
  constexpr std::uint64_t kStep = 1;
#endif
  std::vector<DeathInPut> deaths;
  using Place = RedisProxy::Place;
  for (std::uint64_t at = 0; at < lives->requests; at += kStep) {
    deaths.push_back({Place{RedisProxy::kRequests, at}, kBriefLease, key()});
  }
  const std::size_t in_vain = deaths.size();
  deaths.push_back({Place{RedisProxy::kRequests, lives->requests}, kLastingLease, key()});
  for (std::uint64_t at = 1; at <= lives->replies; ++at) {
    deaths.push_back({Place{RedisProxy::kReplies, at}, kLastingLease, key()});
  }
  PlayAll(server, there, deaths);
  for (std::size_t i = 0; i < deaths.size(); ++i) {
    const DeathInPut& death = deaths[i];
    CAPTURE(i, in_vain, death.place->bytes);
    CHECK(death.end == "signal 9");
    CHECK((death.followed == (i < in_vain ? "own" : "member:" + death.key)));
    CHECK(death.kept == death.followed);
  }
}

TEST_CASE(
    "redis::ReadThrough: a process killed in its load is replaced by one of those that wait") {
  const RedisServer server;
  CachePages here(server, LongTtl(), "cache");
  RedisMember killed("killed", server.Socket(), {.lease = 1s}), other("other", server.Socket());
  for (RedisMember* member : {&killed, &other}) member->MakeCache(1h);
  other.Order("key", "return");
  killed.Command("get key");
  static_cast<void>(killed.AwaitReport("loading", "key"));
  std::atomic<int> runs = 0;
  test::Caller waiting([&] { return here.Get("key", Counted(runs, "here"s)); });
  other.Command("get key");
  const std::string lease = CacheName(server, "key", "lease", "cache");
  AwaitInTime([&] { return InboxesAt(server, lease).size() == 2; });
  CHECK(runs == 0);
  killed.Kill();
  const std::string value = waiting.Join().value.value_or("nothing");
  CHECK(other.AwaitOutcome("key").value == value);
  CHECK(value == (runs == 1 ? "here" : "other:key"));
  CHECK(static_cast<std::size_t>(runs) + other.Unread("loading") == 1);
  CHECK(here.GetStats().fleet.takeovers == static_cast<std::uint64_t>(runs));
  CHECK(*here.Get("key", NeverRun) == value);
  CHECK(other.End() == "exit 0");
}

// SPDX-License-Identifier: MIT

// Tests what an outage costs: while the server is away, callers run on at once, and the client
// alone tries it again. Also what a server may forget or get wrong: its memory, and the time.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
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

// Returns how many calls one thread makes in a tenth of a second.
int CountLocalRuns(RedisPages& pages) {
  const auto begun = std::chrono::steady_clock::now();
  int count = 0;
  for (; Since(begun) < 100ms; ++count) static_cast<void>(AskFor(pages, "a"));
  return count;
}

}  // namespace

TEST_CASE("While the server hangs, calls run as fast as if nobody listened at its port") {
  RedisServer server({.tcp = true});
  const ReservedPort nobody;
  ClientOptions hanging = ShortTimeouts("");
  hanging.port = server.Port();
  ClientOptions closed = hanging;
  closed.port = nobody.Number();
  RedisPages there(hanging, WithLease(100ms));
  RedisPages nowhere(closed, WithLease(100ms));
  REQUIRE(AskFor(there, "a").value == "own");
  server.Stop();
  Watchdog watch([&] { server.Continue(); });
  Await([&] {  // it has been noticed
    static_cast<void>(AskFor(there, "a"));
    return there.GetClient().Nodes().at(0).state == NodeState::kAway;
  });
  int best_there = 0;
  int best_nowhere = 0;
  for (int round = 0; round < 30; ++round) {  // in turn, on a machine with other work
    best_there = std::max(best_there, CountLocalRuns(there));
    best_nowhere = std::max(best_nowhere, CountLocalRuns(nowhere));
    if (round >= 2 && best_there >= best_nowhere * 9 / 10) break;
  }
  CHECK(best_there >= best_nowhere * 9 / 10);
  CHECK_FALSE(watch.Hung());
  server.Continue();
}

TEST_CASE("While the server is away, only the client tries it again, however many callers ask") {
  const TemporaryDirectory directory;
  const RedisProxy proxy(directory.Path() + "/nobody");  // accepts, and closes at once
  RedisPages pages(ShortTimeouts(proxy.Socket()), WithLease(100ms));
  REQUIRE(AskFor(pages, "a").value == "own");
  const auto begun = std::chrono::steady_clock::now();
  const std::size_t before = proxy.Connections();
  for (int i = 0; i < 2000; ++i) CHECK(AskFor(pages, "a").value == "own");
  // The pauses are 25 ms at least, and grow.
  CHECK(proxy.Connections() - before <= 1 + static_cast<std::size_t>(Since(begun).count()) / 25);
  CHECK(pages.GetStats().outages == 2001);
}

TEST_CASE("A clock that is set back freezes no key, as a lease has no more left than it lasts") {
  const RedisServer server;
  RedisPages first(LongTimeouts(server.Socket()), WithLease(500ms));
  RedisPages second(LongTimeouts(server.Socket()), WithLease(500ms));
  std::optional<RedisLeader<>> leader(std::in_place, first, "a", "theirs"s);
  // What a lease would look like that was made before the clock was set back by an hour.
  const std::string later =
      std::to_string(std::stoll(LeaseField(server, "a", "fence")) + 3'600'000'000LL);
  RedisPages dead(LongTimeouts(server.Socket()), WithLease(500ms));
  server.Ask("HSET", LeaseOf("b"), "token", std::string(32, 'a'), "fence", later, "who", "x:1",
             "since", later.substr(0, 10), "tag", LeaseField(server, "a", "tag"), "inbox",
             "t:inbox:x", "lasts", "300");
  server.Ask("PEXPIRE", LeaseOf("b"), "3600300");
  CHECK(AskFor(second, "b").value == "own");  // after 300 ms
  CHECK(second.GetStats().takeovers == 1);
  CHECK(server.Ask("PTTL", LeaseOf("a")).number <= 500);
  leader->Finish();
}

TEST_CASE("After the server has forgotten everything, followers have the outcome all the same") {
  for (const std::string how : {"FLUSHALL", "restart", "eviction"}) {
    INFO(how);
    RedisServer server;
    Options options = LongLease(OnOutage::kFail);  // nobody waits for the end of a lease
    options.linger = 400ms;
    RedisPages leading(LongTimeouts(server.Socket()), options);
    RedisPages following(LongTimeouts(server.Socket()), options);
    RedisLeader leader(leading, "a", "theirs"s);
    Caller follower([&] { return following.Do("a", [] { return "own"s; }); });
    AwaitFollowers(server, "a", 1);
    const auto forgotten = std::chrono::steady_clock::now();
    if (how == "FLUSHALL") server.Ask("FLUSHALL");
    if (how == "restart") server.Restart();
    if (how == "eviction") server.Ask("DEL", LeaseOf("a"));
    leader.Finish();
    // Whoever asks next finds the outcome, or leads.
    const auto& outcome = follower.Join();
    CHECK((outcome.value == "theirs" || outcome.value == "own"));
    CHECK(Since(forgotten) < options.linger / 2 + 2s);  // 2 s for a busy machine
    CHECK(following.GetStats().outages == 0);
  }
}

TEST_CASE("A full backlog of a Unix socket is no outage") {
  const TemporaryDirectory directory;
  const std::string path = directory.Path() + "/socket";
  const UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const sockaddr_un address = UnixAddress(path);
  REQUIRE(::bind(*listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address)) == 0);
  REQUIRE(::listen(*listener, 0) == 0);
  std::vector<UniqueFd> others;
  for (;;) {  // fill it
    UniqueFd other = ConnectTo(path, SOCK_NONBLOCK);
    if (*other < 0) break;
    others.push_back(std::move(other));
  }
  RedisPages pages(LongTimeouts(path), LongLease(OnOutage::kFail));
  const auto outcome = Keep([&] { return pages.Do("a", NeverRun, {.timeout = 100ms}); });
  CHECK((outcome.error == std::errc::timed_out));  // it still waits for its turn
  CHECK(pages.GetStats().outages == 0);
  CHECK(pages.GetClient().Nodes().at(0).state == NodeState::kConnecting);
}

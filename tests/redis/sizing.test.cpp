// SPDX-License-Identifier: MIT

// Tests what a fleet costs: connections, threads and memory do not grow with callers, keys and
// groups.

#include <malloc.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <deque>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "client_support.hpp"
#include "outages.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::ClientOptions;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

using Pages = singleflight::redis::Group<std::string>;

// Returns how many connections the server has, without the one that asks.
long long Connections(const RedisServer& server) { return server.Info("connected_clients") - 1; }

Options Strict() { return LongLease(OnOutage::kFail); }

// Returns how many bytes this process has allocated and not freed.
std::ptrdiff_t LiveBytes() {
  const auto info = ::mallinfo2();
  return static_cast<std::ptrdiff_t>(info.uordblks + info.hblkhd);
}

// An executor on which nothing may run.
struct NoExecutor {
  template <class Task>
  void operator()(Task&&) const {
    throw std::logic_error("it was asked to run something");
  }
};

}  // namespace

TEST_CASE(
    "10,000 keys that a process follows cost it two connections, one thread, and 2 KiB each") {
  constexpr std::size_t kKeys = 10'000;
  const RedisServer server;
  std::vector<std::string> keys;
  for (std::size_t i = 0; i < kKeys; ++i) keys.push_back("key " + std::to_string(i));
  // Another process seems to lead them all.
  const auto lead = [&](const std::string& key, const std::string& token) {
    return server.Ask("HSET", LeaseOf(key), "token", token, "fence", "1700000000000000", "who",
                      "x:1", "since", "1700000000", "tag", "string", "inbox", "t:inbox:x", "lasts",
                      "3600000");
  };
  lead("keys", std::string(32, '0'));
  server.Ask("PEXPIRE", LeaseOf("keys"), "3600000");
  const std::string copy =
      "for i = 0, ARGV[1] - 1 do "
      "  local key = 't:{key ' .. i .. '}:lease' "
      "  redis.call('COPY', KEYS[1], key) "
      "  redis.call('HSET', key, 'token', string.format('%032x', i)) "
      "end";
  server.Ask("EVAL", copy, "1", LeaseOf("keys"), std::to_string(kKeys));

  RedisPages pages(LongTimeouts(server.Socket()), Strict());
  AwaitSubscribed(server, pages);
  const std::size_t threads = CountThreads();
  std::vector<singleflight::Future<std::string>> futures;
  futures.reserve(kKeys);
  const std::ptrdiff_t before = LiveBytes();
  for (const std::string& key : keys) {
    futures.push_back(DoAsync(pages, key, NeverRun, NoExecutor{}));
  }
  Await([&] { return Calls(server, "hexists") >= static_cast<long long>(kKeys); });
  Await([&] { return InboxesAt(server, LeaseOf(keys.back())).size() == 1; });
  CHECK(Connections(server) == 2);
  CHECK(CountThreads() <= threads);
  const std::ptrdiff_t each = (LiveBytes() - before) / static_cast<std::ptrdiff_t>(kKeys);
  INFO("bytes for each key: " << each);
  CHECK(each <= 2048);
}

TEST_CASE("50 groups of one client share its two connections and its thread") {
  const RedisServer server;
  singleflight::redis::Client client(LongTimeouts(server.Socket()));
  std::deque<Pages> groups;
  for (int i = 0; i < 50; ++i) groups.emplace_back(client, "group " + std::to_string(i), Strict());
  for (Pages& group : groups) CHECK(*group.Do("a", [] { return "own"s; }) == "own");
  Await([&] { return Connections(server) == 2; });
  Await([&] {  // each has its inbox
    return server.Ask("PUBSUB", "CHANNELS", "group *:inbox:*").elements.size() == 50;
  });
  CHECK(server.Info("total_connections_received") > 0);
  CHECK(Connections(server) == 2);
}

TEST_CASE("1,000 callers in 4 processes open no connection after the start") {
  constexpr int kProcesses = 4;
  constexpr int kCallers = 250;
  const RedisServer server;
  std::deque<RedisPages> processes;
  for (int i = 0; i < kProcesses; ++i) {
    processes.emplace_back(LongTimeouts(server.Socket()), Strict());
    AwaitSubscribed(server, processes.back());
  }
  REQUIRE(Connections(server) == 2 * kProcesses);
  const long long before = server.Info("total_connections_received");
  std::latch all_follow(1);
  std::atomic<int> served = 0;
  {
    std::vector<JoiningThread> callers;
    for (RedisPages& pages : processes) {
      for (int i = 0; i < kCallers; ++i) {
        callers.emplace_back([&pages, i, &all_follow, &served] {
          const auto outcome = Keep([&] {
            return pages.Do("key " + std::to_string(i % 10), [&] {
              all_follow.wait();
              return "value"s;
            });
          });
          served += outcome.value == "value" ? 1 : 0;
        });
      }
    }
    for (RedisPages& pages : processes) {
      Await([&] {
        std::size_t waiting = 0;
        for (int key = 0; key < 10; ++key) waiting += pages.Callers("key " + std::to_string(key));
        return waiting == kCallers;
      });
    }
    all_follow.count_down();
  }
  CHECK(served == kProcesses * kCallers);
  CHECK(server.Info("total_connections_received") == before + 1);  // this one's own
  CHECK(Connections(server) == 2 * kProcesses);
}

TEST_CASE("A server that allows 20 connections serves 8 processes of 300 callers") {
  constexpr int kProcesses = 8;
  constexpr int kCallers = 300;
  const RedisServer server({.arguments = {"--maxclients", "20"}});
  std::deque<RedisPages> processes;
  for (int i = 0; i < kProcesses; ++i) {
    processes.emplace_back(LongTimeouts(server.Socket()), Strict());
  }
  std::atomic<int> served = 0;
  std::vector<JoiningThread> threads;
  for (RedisPages& pages : processes) {
    for (int i = 0; i < 30; ++i) {  // each thread is ten callers, one after the other
      threads.emplace_back([&pages, &served, i] {
        for (int caller = 0; caller < kCallers / 30; ++caller) {
          served += AskFor(pages, std::to_string((i + caller) % 40)).value == "own" ? 1 : 0;
        }
      });
    }
  }
  threads.clear();
  CHECK(served == kProcesses * kCallers);
  for (RedisPages& pages : processes) CHECK(pages.GetStats().outages == 0);
  CHECK(Connections(server) == 2 * kProcesses);
}

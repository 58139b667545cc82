// SPDX-License-Identifier: MIT

// Tests outcomes that cannot be told to other processes: too large for somebody on the way, refused
// by the server, or too slow for the network. All processes that follow are told so at one time,
// and run their own `fn` at the same time.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <latch>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::redis::ClientOptions;
using singleflight::redis::Lease;
using singleflight::redis::OnOutage;
using singleflight::redis::Options;

namespace {

constexpr std::size_t kFollowers = 3;
constexpr std::size_t kMebibyte = 1'048'576;

Options Patient() { return LongLease(OnOutage::kFail); }

// Checks that a leader whose `fn` does what `end` does gets its outcome, and that the followers all
// run theirs at once: each waits until all of them run. A lease lasts an hour.
void CheckUntold(const RedisServer& server, RedisPages& leading, std::function<std::string()> end,
                 const std::optional<std::string>& value, const std::string& message = {}) {
  std::vector<std::unique_ptr<RedisPages>> following;
  for (std::size_t i = 0; i < kFollowers; ++i) {
    following.push_back(std::make_unique<RedisPages>(LongTimeouts(server.Socket()), Patient()));
    AwaitSubscribed(server, *following.back());
  }
  RedisLeader leader(leading, "a", RedisLeader<>::Fn([&](const Lease&) { return end(); }));
  std::vector<std::unique_ptr<Caller<std::string>>> followers;
  std::latch all_run(kFollowers);
  for (std::size_t i = 0; i < kFollowers; ++i) {
    followers.push_back(std::make_unique<Caller<std::string>>([&, i] {
      return following[i]->Do("a", [&] {
        all_run.arrive_and_wait();
        return "own"s;
      });
    }));
  }
  AwaitFollowers(server, "a", kFollowers);
  CHECK((leader.Finish().value == value));
  CHECK((leader.Finish().message == message));
  for (std::size_t i = 0; i < kFollowers; ++i) {
    CHECK(followers[i]->Join().value == "own");
    CHECK(followers[i]->Join().role == singleflight::Role::kLeader);
    const singleflight::redis::Stats stats = following[i]->GetStats();
    CHECK(stats.told_to_run == 1);
    CHECK(stats.executions == 3);  // two of them were for the subscription
    CHECK(stats.remote == 0);
    CHECK(stats.takeovers == 0);
    CHECK(stats.outages == 0);
  }
  Await([&] { return server.Ask("EXISTS", LeaseOf("a")).number == 0; });
  CHECK(leading.GetStats().untold == 1);
  CHECK(leading.GetStats().unpublished == 0);
}

void CheckUntold(const RedisServer& server, RedisPages& leading, const std::string& value) {
  CheckUntold(
      server, leading, [&] { return value; }, value);
}

std::string Large(std::size_t size) { return std::string(size, 'x'); }

}  // namespace

TEST_CASE("An outcome over max_value is not told, and every other process runs at once") {
  const RedisServer server;
  Options options = Patient();
  options.max_value = 1000;
  RedisPages leading(LongTimeouts(server.Socket()), options);
  CheckUntold(server, leading, Large(1001));
}

TEST_CASE("An outcome of exactly max_value is told") {
  const RedisServer server;
  Options options = Patient();
  options.max_value = 1000;
  RedisPages leading(LongTimeouts(server.Socket()), options);
  RedisPages following(LongTimeouts(server.Socket()), Patient());
  RedisLeader leader(leading, "a", Large(1000));
  Caller follower([&] { return following.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  leader.Finish();
  CHECK((follower.Join().value == Large(1000)));
  CHECK(leading.GetStats().untold == 0);
}

TEST_CASE("An exception whose message is over max_value is not told") {
  const RedisServer server;
  Options options = Patient();
  options.max_value = 1000;
  RedisPages leading(LongTimeouts(server.Socket()), options);
  const auto end = [&]() -> std::string { throw std::runtime_error(Large(1001)); };
  CheckUntold(server, leading, end, std::nullopt, Large(1001));
}

TEST_CASE("An outcome larger than the client's queue is not told") {
  const RedisServer server;
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = kMebibyte;
  RedisPages leading(options, Patient());
  CheckUntold(server, leading, Large(kMebibyte));
}

TEST_CASE("An outcome that is nearly as large as the client's queue is told") {
  const RedisServer server;
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = kMebibyte;
  RedisPages leading(options, Patient());
  RedisPages following(LongTimeouts(server.Socket()), Patient());
  const std::string value = Large(kMebibyte - 16'384);
  RedisLeader leader(leading, std::string(3000, 'k'), value);
  Caller follower([&] { return following.Do(std::string(3000, 'k'), NeverRun); });
  AwaitFollowers(server, std::string(3000, 'k'), 1);
  leader.Finish();
  CHECK((follower.Join().value == value));
}

TEST_CASE("An outcome that the client's queue has no room for beside its long key is not told") {
  const RedisServer server;
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = kMebibyte;
  const std::string key(20'000, 'k');
  const std::string value = Large(kMebibyte - 3 * key.size());  // the key is in three names
  RedisPages leading(options, WithLease(3s, OnOutage::kFail));
  RedisPages following(LongTimeouts(server.Socket()), WithLease(3s, OnOutage::kFail));
  RedisLeader leader(leading, key, value);
  Caller follower([&] { return following.Do(key, [] { return "own"s; }); });
  AwaitFollowers(server, key, 1);
  CHECK((leader.Finish().value == value));
  CHECK(follower.Join().value == "own");
  CHECK(following.GetStats().told_to_run == 1);
  CHECK(following.GetStats().takeovers == 0);
  Await([&] { return server.Ask("EXISTS", LeaseOf(key)).number == 0; });
  CHECK(leading.GetStats().untold == 1);
  CHECK(leading.GetStats().unpublished == 0);
}

TEST_CASE("redis::ReadThrough: a value that the queue has no room for keeps no lease") {
  const RedisServer server;
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = kMebibyte / 4;
  const std::string key(10'000, 'k');  // it is in six names
  PageOptions cache = LongTtl();
  cache.fleet.lease = 2s;
  CachePages leading(options, cache);
  std::size_t told = 0;
  std::size_t untold = 0;
  for (std::size_t size = options.max_queued_bytes - 50'000; told == 0; size -= 500) {
    CHECK(*leading.Get(key, [&] { return Large(size); }) == Large(size));
    Await([&] { return server.Ask("EXISTS", CacheName(server, key, "lease")).number == 0; });
    const bool has = Has(server, key, "value");
    ++(has ? told : untold);
  }
  CHECK(untold > 0);
  CHECK(leading.GetStats().fleet.untold == untold);
  CHECK(leading.GetStats().fleet.unpublished == 0);
}

TEST_CASE("An outcome over the server's limit for a string is not told") {
  RedisServer server({.tcp = true});
  server.Ask("CONFIG SET proto-max-bulk-len 1mb");
  for (const bool over_tcp : {false, true}) {
    INFO("over TCP: " << over_tcp);
    ClientOptions options = LongTimeouts(over_tcp ? "" : server.Socket());
    options.port = server.Port();
    RedisPages leading(options, Patient());
    CheckUntold(server, leading, Large(4 * kMebibyte));
  }
}

TEST_CASE("An outcome is told although the server is out of memory") {
  const RedisServer server;
  RedisPages leading(LongTimeouts(server.Socket()), Patient());
  Options options = Patient();
  options.linger = 100ms;  // the follower asks again each 50 ms
  RedisPages following(LongTimeouts(server.Socket()), options);
  RedisLeader leader(leading, "a", "theirs"s);
  Caller follower([&] { return following.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  server.Ask("CONFIG SET maxmemory 1");
  const long long asked = server.Info("total_commands_processed");
  Await([&] { return server.Info("total_commands_processed") > asked + 1000; });
  CHECK(following.GetStats().outages == 0);
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(leading.GetStats().untold == 0);
}

TEST_CASE("An outcome that the server does not let the user keep is not told") {
  const RedisServer server;
  server.Ask("ACL SETUSER few on >secret ~* &* +@all -set");
  ClientOptions options = LongTimeouts(server.Socket());
  options.user = "few";
  options.password = "secret";
  RedisPages leading(options, Patient());
  CheckUntold(server, leading, "value");
}

TEST_CASE("An outcome that is too slow for the network is not told") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  Options options = Patient();
  options.lease = 5s;  // a fifth of it is the time that an outcome has
  RedisPages leading(LongTimeouts(proxy.Socket()), options);
  const auto end = [&] {
    proxy.LimitTo(256 * 1024);
    return Large(7 * kMebibyte);  // 28 seconds
  };
  CheckUntold(server, leading, end, Large(7 * kMebibyte));
}

TEST_CASE("An outcome for which the server closes the connection costs no other call an outage") {
  const RedisServer server;
  server.Ask("CONFIG SET proto-max-bulk-len 1mb");
  RedisPages leading(LongTimeouts(server.Socket()), Patient());
  RedisPages following(LongTimeouts(server.Socket()), Patient());
  RedisLeader leader(leading, "large", Large(4 * kMebibyte));
  const auto connected = std::chrono::steady_clock::now();
  Caller follower([&] { return following.Do("large", [] { return "own"s; }); });
  AwaitFollowers(server, "large", 1);
  Await([&] { return Since(connected) > 1100ms; });  // one that is lost sooner looks like an outage
  std::atomic<bool> stopped = false;
  std::atomic<int> asked = 0;
  std::vector<JoiningThread> others;
  for (int i = 0; i < 4; ++i) {
    others.emplace_back([&, i] {
      for (int next = 0; !stopped; ++next, ++asked) {
        static_cast<void>(Keep([&] {
          return leading.Do(std::to_string(i) + " " + std::to_string(next),
                            [] { return "small"s; });
        }));
      }
    });
  }
  Await([&] { return asked > 100; });
  leader.Finish();
  CHECK(follower.Join().value == "own");
  Await([&, before = asked.load()] { return asked > before + 100; });
  stopped = true;
  others.clear();
  CHECK(leading.GetStats().outages == 0);
  CHECK(leading.GetStats().untold == 1);
}

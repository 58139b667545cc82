// SPDX-License-Identifier: MIT

// Tests InspectFleet, which lists the leases that a fleet has under a prefix.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <new>
#include <optional>
#include <singleflight/redis.hpp>
#include <singleflight/redis_call_info.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "cluster.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace std::string_literals;
using singleflight::KeyResult;
using singleflight::StopSource;
using singleflight::redis::ClientOptions;
using singleflight::redis::LeaseInfo;
using singleflight::redis::OnOutage;
using singleflight::redis::detail::LeasePattern;
using singleflight::redis::detail::LeasePlace;
using singleflight::redis::detail::ReadLeaseName;

namespace {

using Leases = std::vector<LeaseInfo>;

template <class Group>
std::vector<std::string> KeysOf(const Group& leases) {
  std::vector<std::string> keys;
  for (const LeaseInfo& lease : leases) keys.push_back(lease.key);
  std::ranges::sort(keys);
  return keys;
}

// Makes leases that look like those of another process: `count` of them, whose keys are numbers.
// Then there are as many names of other kinds.
void MakeLeases(const RedisServer& server, int count) {
  server.Ask("EVAL", R"lua(
    for i = 1, tonumber(ARGV[1]) do
      local name = 't:{' .. i .. '}:lease'
      redis.call('HSET', name, 'token', string.format('%032d', i), 'fence',
                 string.format('%016d', i), 'who', 'there:7', 'since', '1', 'tag', 'string',
                 'inbox', 't:inbox:x', 'lasts', '1000000')
      redis.call('PEXPIRE', name, 1000000)
      redis.call('SET', 'other:' .. i, 'x')
    end
  )lua",
             "0", std::to_string(count));
}

ClientOptions AtNode(const RedisCluster& cluster, std::size_t node) {
  ClientOptions options = LongTimeouts("");
  options.port = cluster.Node(node).Port();
  return options;
}

}  // namespace

// ---- What is there

TEST_CASE("redis: InspectFleet says who leads a call and how many processes follow it") {
  const RedisServer server;
  RedisPages leading(server, LongLease()), one(server), other(server), looking(server);
  CHECK(looking.InspectFleet().empty());
  std::string token;
  std::uint64_t fence = 0;
  RedisLeader<> leader(leading, "k", [](const auto&) { return "v"s; });
  {
    test::Caller follower([&] { return one.Do("k", NeverRun); });
    test::Caller same_process([&] { return one.Do("k", NeverRun); });
    test::Caller another([&] { return other.Do("k", NeverRun); });
    AwaitFollowers(server, "k", 2);
    token = LeaseField(server, "k", "token");
    fence = std::stoull(LeaseField(server, "k", "fence"));
    const Leases leases = looking.InspectFleet();
    REQUIRE(leases.size() == 1);
    LeaseInfo lease = leases.front();
    CHECK((lease.age >= 0ms && lease.age < 1h));
    CHECK((lease.left > 0ms && lease.left <= 1h));
    std::string host(256, '\0');
    REQUIRE(::gethostname(host.data(), host.size()) == 0);
    lease.age = lease.left = {};
    CHECK((lease == LeaseInfo{.key = "k",
                              .host = host.c_str(),
                              .pid = ::getpid(),
                              .token = token,
                              .fence = fence,
                              .followers = 2}));
    CHECK((leading.InspectFleet().size() == 1));
    leader.Finish();
  }
  CHECK(looking.InspectFleet().empty());
}

TEST_CASE("redis: InspectFleet tells a lease's age and what is left of it by the server's clock") {
  const RedisServer server;
  RedisPages pages(server);
  MakeLeases(server, 1);  // it was made a microsecond after 1970 began
  const auto since_1970 = std::chrono::duration_cast<std::chrono::milliseconds>(ServerTime(server));
  const Leases leases = pages.InspectFleet();
  REQUIRE(leases.size() == 1);
  CHECK(leases[0].age >= since_1970);
  CHECK(leases[0].age < since_1970 + 1h);
  CHECK(leases[0].left <= 1000s);
  CHECK(leases[0].left > 1000s - 10min);
  CHECK(leases[0].host == "there");
  CHECK(leases[0].pid == 7);
  server.Ask("HSET", LeaseOf("1"), "fence", "9999999999999999");  // the clock was set back
  CHECK(pages.InspectFleet().at(0).age == 0ms);
}

TEST_CASE("redis: InspectFleet finds every key and no lease of another prefix") {
  const RedisServer server;
  const std::vector<std::string> keys = {
      "",   "*",        "[a-z]", "a}b{",     "k",
      "k?", "x}:lease", "}",     "}y",       "}:lease",
      "\\", "{",        "a\nb",  "\xff\0z"s, "k}:forgotten:0123456789abcdef0123456789abcdef"};
  for (const std::string& prefix : {"t"s, "t*"s, "[t]"s, "t?x\\"s, "^t-z"s}) {
    INFO(prefix);
    RedisPages pages(server, {}, prefix), similar(server, {}, prefix + "t");
    RedisPages before(server, {}, "x" + prefix), below(server, {}, prefix + ":t");
    std::vector<std::unique_ptr<RedisLeader<>>> leaders;
    for (const std::string& key : keys) {
      for (RedisPages* const each : {&pages, &similar, &before, &below}) {
        leaders.push_back(std::make_unique<RedisLeader<>>(*each, key, "v"s));
      }
    }
    std::vector<std::string> sorted = keys;
    std::ranges::sort(sorted);
    CHECK(KeysOf(pages.InspectFleet()) == sorted);
  }
}

TEST_CASE("redis: InspectFleet lists a forgotten call beside the one that has taken its place") {
  const RedisServer server;
  RedisPages here(server, LongLease()), there(server, LongLease());
  RedisLeader first(here, "k", "old"s);
  REQUIRE(here.Forget("k"));
  Await([&] { return !server.Keys(ForgottenName("t", "k", first.Token())).empty(); });
  RedisLeader second(there, "k", "new"s);
  const Leases leases = there.InspectFleet();
  REQUIRE(leases.size() == 2);
  CHECK(leases[0].token == first.Token());  // the oldest first
  CHECK(leases[0].forgotten);
  CHECK(leases[1].token == second.Token());
  CHECK_FALSE(leases[1].forgotten);
}

TEST_CASE("redis: InspectFleet lists a lease once although it is found under two names") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  RedisLeader leader(pages, "k", "v"s);
  // As if it were forgotten between two steps.
  server.Ask("COPY", LeaseOf("k"), ForgottenName("t", "k", leader.Token()));
  for (int i = 0; i < 5; ++i) {
    const Leases leases = pages.InspectFleet();
    REQUIRE(leases.size() == 1);
    CHECK(leases[0].forgotten);
    server.Ask("SET", "other:" + std::to_string(i), "x");
  }
}

TEST_CASE("redis: InspectFleet passes over what a stranger has written") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  RedisLeader leader(pages, "k", "v"s);
  const std::string token = leader.Token();
  server.Ask("SET", LeaseOf("text"), "x");
  server.Ask("RPUSH", LeaseOf("list"), "x");
  server.Ask("HSET", LeaseOf("empty"), "a", "b");
  server.Ask("HSET", LeaseOf("short"), "token", "1", "fence", "2", "who", "3", "inbox", "4");
  server.Ask("PEXPIRE", LeaseOf("short"), "1000000");
  server.Ask("COPY", LeaseOf("k"), LeaseOf("for ever"));
  server.Ask("PERSIST", LeaseOf("for ever"));
  server.Ask("COPY", LeaseOf("k"), ForgottenName("t", "k", std::string(32, '0')));
  server.Ask("COPY", LeaseOf("k"), "t:{k}:forgotten:" + token + "0");
  server.Ask("COPY", LeaseOf("k"), "t:{k:lease");
  server.Ask("COPY", LeaseOf("k"), "t:{}:lease");
  server.Ask("COPY", LeaseOf("k"), "t.{.}k:lease");
  server.Ask("COPY", LeaseOf("k"), OutcomeName("t", "k", token));
  const Leases leases = pages.InspectFleet();
  REQUIRE(leases.size() == 1);
  CHECK(leases[0].key == "k");
  server.Ask("HSET", LeaseOf("k"), "who", "nobody");
  CHECK(pages.InspectFleet().at(0).host == "nobody");
  CHECK(pages.InspectFleet().at(0).pid == 0);
  server.Ask("HSET", LeaseOf("k"), "who", "a:b:c");
  CHECK(pages.InspectFleet().at(0).host == "a:b");
  CHECK(pages.InspectFleet().at(0).pid == 0);
  CHECK(pages.LastOutage() == "");
}

TEST_CASE("redis: InspectFleet scans in steps and looks at each lease once") {
  constexpr int kLeases = 3000;
  const RedisServer server;
  RedisPages pages(server);
  MakeLeases(server, kLeases);
  server.Ask("CONFIG RESETSTAT");
  const Leases leases = pages.InspectFleet();
  REQUIRE(leases.size() == kLeases);
  for (int i = 0; i < kLeases; ++i) {
    REQUIRE(leases[static_cast<std::size_t>(i)].key == std::to_string(i + 1));
  }
  CHECK(Calls(server, "keys") == 0);
  CHECK(Calls(server, "scan") >= 2 * kLeases / 1000);
  CHECK(Calls(server, "hmget") >= kLeases);
  CHECK(Calls(server, "hmget") < kLeases + 300);  // a name may come twice while the table changes
  CHECK(pages.GetStats() == singleflight::redis::Stats());
}

TEST_CASE("redis: InspectFleet finds all leases whatever the client's limits are") {
  constexpr std::size_t kLeases = 600;
  const RedisServer server;
  MakeLeases(server, kLeases);
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = GENERATE(8192U, 65'536U, 1U << 26U);
  options.max_reply_bytes = GENERATE(1024U, 4096U, 1U << 24U);
  CAPTURE(options.max_queued_bytes, options.max_reply_bytes);
  RedisPages pages(options);
  CHECK(pages.InspectFleet().size() == kLeases);
  CHECK(pages.LastOutage() == "");
  server.Ask("SCRIPT", "FLUSH");
  CHECK(pages.InspectFleet().size() == kLeases);
  CHECK(pages.LastOutage() == "");
}

TEST_CASE("redis: InspectFleet leaves room in the queue for calls") {
  const RedisServer server;
  MakeLeases(server, 5000);
  ClientOptions options = LongTimeouts(server.Socket());
  options.max_queued_bytes = 100'000;
  RedisPages pages(options, LongLease(OnOutage::kFail));
  std::promise<std::size_t> found;
  pages.InspectFleetThen([&](const KeyResult<Leases>& leases) {
    found.set_value(leases.error() == nullptr ? leases->size() : 0);
  });
  auto future = found.get_future();
  do {
    CHECK(*pages.Do("k", [] { return "v"s; }) == "v");
  } while (future.wait_for(0s) != std::future_status::ready);
  CHECK(future.get() >= 5000);
  CHECK(pages.GetStats().outages == 0);
}

TEST_CASE("redis: InspectFleet finds the leases on every node of a Cluster") {
  const RedisCluster cluster;
  RedisPages pages(AtNode(cluster, 0), LongLease(OnOutage::kFail));
  RedisPages looking(AtNode(cluster, 1), LongLease(OnOutage::kFail));
  std::vector<std::unique_ptr<RedisLeader<>>> leaders;
  std::vector<std::string> keys;
  std::array<bool, RedisCluster::kNodes> used = {};
  for (int i = 0; i < 12; ++i) {
    keys.push_back(std::to_string(i));
    used.at(cluster.NodeOf(keys.back())) = true;
    leaders.push_back(std::make_unique<RedisLeader<>>(pages, keys.back(), "v"s));
  }
  REQUIRE((used[0] && used[1] && used[2]));
  std::ranges::sort(keys);
  CHECK(KeysOf(looking.InspectFleet()) == keys);
  CHECK(KeysOf(pages.InspectFleet()) == keys);
}

// ---- A cache

TEST_CASE("redis::ReadThrough: InspectFleet lists the loads and asks about no value") {
  const RedisServer server;
  CachePages loading(server, LongTtl()), following(server, LongTtl()), looking(server, LongTtl());
  for (int i = 0; i < 100; ++i) loading.Put(std::to_string(i), "v");
  HeldLoad held("v"), empty("v");
  test::Caller leader([&] { return loading.Get("k", held.Load()); });
  test::Caller nameless([&] { return loading.Get("", empty.Load()); });
  held.AwaitBegun(), empty.AwaitBegun();
  test::Caller follower([&] { return following.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  const auto hmget = [&server] { return Calls(server, "hmget"); };
  long long before;
  do {  // who begins to follow asks once more, some time later
    before = hmget();
    std::this_thread::sleep_for(50ms);
  } while (hmget() != before);
  const Leases leases = looking.InspectFleet();
  const long long asked = hmget();
  const RedisAnswer sent =
      server.Ask("SCAN", "0", "MATCH", LeasePattern("c", true), "COUNT", "999");
  held.Finish(), empty.Finish();
  CHECK(asked == before + 2);
  CHECK(sent.elements.at(1).elements.size() == 2);  // the server sends no name of a value
  REQUIRE(KeysOf(leases) == std::vector{""s, "k"s});
  for (const LeaseInfo& lease : leases) {
    CHECK(lease.followers == (lease.key == "k" ? 1 : 0));
    CHECK(lease.pid == ::getpid());
    CHECK_FALSE(lease.forgotten);
  }
}

TEST_CASE("redis::ReadThrough: InspectFleet shows loads that were invalidated as forgotten") {
  const RedisServer server;
  CachePages loading(server, LongTtl()), looking(server, LongTtl());
  HeldLoad first("v"), second("v"), third("v");
  test::Caller one([&] { return loading.Get("all", first.Load()); });
  first.AwaitBegun();
  looking.InvalidateAll();
  test::Caller other([&] { return loading.Get("one", second.Load()); });
  second.AwaitBegun();
  looking.Invalidate("one");
  test::Caller newest([&] { return loading.Get("none", third.Load()); });
  third.AwaitBegun();
  CachePages stranger(server, LongTtl());  // which has not learned the generation
  const std::vector<Leases> seen = {looking.InspectFleet(), stranger.InspectFleet()};
  first.Finish(), second.Finish(), third.Finish();
  for (const Leases& leases : seen) {
    REQUIRE(KeysOf(leases) == std::vector{"all"s, "none"s, "one"s});
    for (const LeaseInfo& lease : leases) CHECK(lease.forgotten == (lease.key != "none"));
  }
}

TEST_CASE("redis::ReadThrough: InspectFleet does not count a process that waits for its own load") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages pages(server, options), looking(server, options);
  PutExpired(server, pages, "k");
  HeldLoad held("new");
  test::Caller waiting([&] { return pages.Get("k", held.Load()); });
  held.AwaitBegun();
  const Leases leases = looking.InspectFleet();
  held.Finish();
  REQUIRE(leases.size() == 1);
  CHECK(leases[0].followers == 0);
  CHECK(waiting.Join().value == "new");
}

// ---- When something is wrong

TEST_CASE("redis: InspectFleet says that a server is away whatever callers do in an outage") {
  RedisServer server;
  for (const OnOutage policy : kOutagePolicies) {
    RedisPages pages(ShortTimeouts(server.Socket()), LongLease(policy));
    server.Kill();
    CHECK(ErrorOf([&] { return pages.InspectFleet(); }) == std::errc::not_connected);
    CHECK(pages.GetStats().outages == 0);  // of calls
    CHECK_FALSE(pages.LastOutage().empty());
    server.Start();
    Await([&] { return ErrorOf([&] { return pages.InspectFleet(); }) == std::nullopt; });
  }
}

TEST_CASE("redis: InspectFleet says what a user has no right to") {
  const RedisServer server;
  server.Ask("ACL SETUSER app on >PASSWORD ~* &* +@all -scan");
  ClientOptions client = LongTimeouts(server.Socket());
  client.user = "app";
  client.password = "PASSWORD";
  RedisPages pages(client);
  CHECK(ErrorOf([&] { return pages.InspectFleet(); }) == std::errc::protocol_error);
  CHECK(pages.LastOutage().find("scan") != std::string::npos);
  server.Ask("ACL SETUSER app +scan -ping");  // which is of no importance
  CHECK(pages.InspectFleet().empty());
}

TEST_CASE("redis: InspectFleet does not take half a Cluster for all of it") {
  const RedisCluster cluster;
  for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
    cluster.Node(node).Ask("ACL SETUSER app on >PASSWORD ~* &* +@all -cluster|slots");
  }
  ClientOptions client = AtNode(cluster, 0);
  client.user = "app";
  client.password = "PASSWORD";
  RedisPages pages(client, LongLease(OnOutage::kFail));
  for (int i = 0; i < 12; ++i) {  // redirections teach it some
    CHECK(*pages.Do(std::to_string(i), [] { return "v"s; }) == "v");
  }
  CHECK(ErrorOf([&] { return pages.InspectFleet(); }) == std::errc::protocol_error);
  CHECK(pages.LastOutage().find("CLUSTER SLOTS") != std::string::npos);
}

TEST_CASE("redis: InspectFleet gives up after its timeout or when it is stopped") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(pages.InspectFleet().empty());
  server.Stop();
  CHECK(ErrorOf([&] { return pages.InspectFleet({.timeout = 10ms}); }) == std::errc::timed_out);
  StopSource stop;
  std::promise<void> asks;
  std::optional<std::errc> error;
  {
    JoiningThread asking([&] {
      asks.set_value();
      error = ErrorOf([&] { return pages.InspectFleet({.stop = stop.get_token()}); });
    });
    asks.get_future().wait();
    stop.request_stop();
  }
  CHECK(error == std::errc::operation_canceled);
  server.Continue();
  CHECK(pages.InspectFleet().empty());
}

TEST_CASE("redis: InspectFleet stops scanning when its caller has left") {
  constexpr int kLeases = 5000;
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  ClientOptions client = LongTimeouts(proxy.Socket());
  RedisPages pages(client);
  CHECK(pages.InspectFleet().empty());
  MakeLeases(server, kLeases);
  HeldAnswer held(proxy);  // that to the first command
  std::optional<std::errc> error;
  {
    JoiningThread asking(
        [&] { error = ErrorOf([&] { return pages.InspectFleet({.timeout = 10ms}); }); });
  }
  CHECK(error == std::errc::timed_out);
  server.Ask("CONFIG RESETSTAT");
  proxy.Release();
  AwaitAnswers(pages);
  CHECK(Calls(server, "scan") == 0);
}

TEST_CASE("redis: InspectFleet asks again where an answer was lost") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  RedisPages pages(LongTimeouts(proxy.Socket()));
  MakeLeases(server, 20);
  REQUIRE(pages.InspectFleet().size() == 20);
  const std::uint64_t before = proxy.Bytes(kForCommands, RedisProxy::kReplies);
  REQUIRE(pages.InspectFleet().size() == 20);
  const std::uint64_t size = proxy.Bytes(kForCommands, RedisProxy::kReplies) - before;
  for (std::uint64_t at = 1; at < size; at += size / 15) {
    INFO(at << " of " << size);
    RedisProxy cutting(server.Socket());
    RedisPages cut(LongTimeouts(cutting.Socket()));
    REQUIRE(cut.InspectFleet().size() == 20);
    const auto end = EndOfReplies(cutting);
    cutting.CutAt({RedisProxy::kReplies, end.bytes + at, kForCommands});
    const Leases leases = cut.InspectFleet();
    CHECK(leases.size() == 20);
    CHECK(cut.LastOutage() == "");
  }
}

// ---- With a callback

TEST_CASE("redis: InspectFleetThen gives the leases to its callback on a thread of the client's") {
  const RedisServer server;
  RedisPages pages(server, LongLease());
  RedisLeader leader(pages, "k", "v"s);
  std::promise<std::pair<std::vector<std::string>, bool>> told;
  pages.InspectFleetThen([&, movable = std::make_unique<int>(1)](KeyResult<Leases> leases) {
    told.set_value({KeysOf(*leases), IsOnLoop(pages)});
  });
  const auto [keys, is_on_loop] = told.get_future().get();
  CHECK(keys == std::vector{"k"s});
  CHECK_FALSE(is_on_loop);
}

TEST_CASE("redis: InspectFleetThen gives an outage to its callback") {
  RedisServer server;
  RedisPages pages(ShortTimeouts(server.Socket()));
  server.Kill();
  std::promise<std::exception_ptr> told;
  pages.InspectFleetThen([&](const KeyResult<Leases>& leases) { told.set_value(leases.error()); });
  const std::exception_ptr error = told.get_future().get();
  CHECK(ErrorOf([&]() -> int { std::rethrow_exception(error); }) == std::errc::not_connected);
}

TEST_CASE("redis: the destructor waits for the callback of InspectFleetThen and no longer") {
  RedisServer server;
  MakeLeases(server, 5000);
  for (const bool is_cache : {false, true}) {
    singleflight::redis::Client client(ClientOptionsFor(server));
    std::optional<std::errc> error;
    int calls = 0;
    {
      std::unique_ptr<singleflight::redis::Group<std::string>> group;
      std::unique_ptr<singleflight::redis::ReadThrough<std::string>> cache;
      const auto then = [&](const KeyResult<Leases>& leases) {
        ++calls;
        error = ErrorOf([&] { return leases->size(); });
      };
      server.Stop();
      if (is_cache) {
        cache =
            std::make_unique<singleflight::redis::ReadThrough<std::string>>(client, "t", LongTtl());
        cache->InspectFleetThen(then);
      } else {
        group = std::make_unique<singleflight::redis::Group<std::string>>(client, "t");
        group->InspectFleetThen(then);
      }
      JoiningThread destroys([&] { group = nullptr, cache = nullptr; });
      server.Continue();
    }
    CHECK(calls == 1);
    CHECK((error == std::nullopt || error == std::errc::operation_canceled));
  }
}

// ---- Names

TEST_CASE("redis: an InspectFleet that had no memory to begin holds up no destructor") {
  const RedisServer server;
  bool has_begun = false;
  for (std::size_t failures = 0; !has_begun; ++failures) {
    RedisPages pages(server);
    CHECK(pages.InspectFleet().empty());
    std::promise<void> told;
    try {
      const FailAllocations failing(failures);
      pages.InspectFleetThen([&](const auto&) { told.set_value(); });
      has_begun = true;
    } catch (const std::bad_alloc&) {
    }
    if (!has_begun) continue;
    told.get_future().wait();
    CHECK(failures > 2);
  }
}

TEST_CASE("redis: the name of a lease is read as what BaseOf has made of a key") {
  const std::string token(32, 'a');
  for (const std::string& prefix : {"p"s, "p:1234567890123456"s}) {
    const bool is_cache = prefix != "p";
    for (const std::string& key : {""s, "}"s, "k"s, "a}"s, "}:lease"s, "{"s, "a:{b}:lease"s}) {
      INFO(prefix << ", key '" << key << "'");
      const std::string base = singleflight::redis::detail::BaseOf(prefix, key);
      const auto present = ReadLeaseName(base + ":lease", "p", is_cache);
      REQUIRE(present);
      CHECK(present->key == key);
      CHECK(present->token == "");
      CHECK(present->generation == (is_cache ? "1234567890123456" : ""));
      const auto forgotten = ReadLeaseName(base + ":forgotten:" + token, "p", is_cache);
      REQUIRE(forgotten);
      CHECK(forgotten->key == key);
      CHECK(forgotten->token == token);
      CHECK_FALSE(ReadLeaseName(base + ":outcome:" + token, "p", is_cache));
      CHECK_FALSE(ReadLeaseName(base + ":value", "p", is_cache));
      CHECK_FALSE(ReadLeaseName(base + ":lease", "p", !is_cache));
      CHECK_FALSE(ReadLeaseName(base + ":lease", "q", is_cache));
    }
  }
  for (const char* const name : {"", "p", "p:", "p:lease", "p:{:lease", "p:{}:lease", "p:}:lease",
                                 "p.{.}k:lease", "p:{}k}:lease", "p:forgotten:x", "p.{.:lease"}) {
    INFO(name);
    CHECK_FALSE(ReadLeaseName(name, "p", false));
    CHECK_FALSE(ReadLeaseName(name, "p", true));
  }
}

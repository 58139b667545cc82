// SPDX-License-Identifier: MIT

// Tests how redis::ReadThrough finds a value that it expects on the server: by one MGET, in place
// of a script. Whatever that cannot tell must be asked by the script.

#include <atomic>
#include <cstddef>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <system_error>

#include "caches.hpp"
#include "cluster.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// How often the server ran these since Reset.
struct Commands {
  explicit Commands(const RedisServer& its_server) : server(its_server) {}
  void Reset() const { server.Ask("CONFIG", "RESETSTAT"); }
  long long Looks() const { return Calls(server, "mget"); }
  long long Scripts() const { return Calls(server, "evalsha") + Calls(server, "eval"); }
  const RedisServer& server;
};

// Has `pages` get the value of "k" in a way that makes it expect a hit the next time.
void Expect(CachePages& pages, const std::string& value) {
  REQUIRE(*pages.Get("k", NeverRun) == value);
}

}  // namespace

TEST_CASE("redis::ReadThrough: a value that was there is found by one MGET the next time") {
  const RedisServer server;
  const Commands commands(server);
  CachePages pages(server, GENERATE(false, true) ? Stale() : LongTtl());
  pages.Put("k", "v");
  Expect(pages, "v");
  commands.Reset();
  for (int i = 0; i < 3; ++i) CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(commands.Looks() == 3);
  CHECK(commands.Scripts() == 0);
  CHECK(pages.GetStats().hits == 4);
  CHECK(pages.GetStats().stale == 0);
}

TEST_CASE("redis::ReadThrough: a value that was not there is asked for by the script at once") {
  const RedisServer server;
  const Commands commands(server);
  CachePages pages(server, LongTtl());
  CHECK_FALSE(pages.Peek("k").has_value());  // the generation is known
  commands.Reset();
  CHECK(*pages.Get("k", [] { return "v"s; }) == "v");
  CHECK(commands.Looks() == 0);
  Expect(pages, "v");
  pages.Invalidate("k");
  CHECK(*pages.Get("k", [] { return "w"s; }) == "w");  // it looks, in vain
  pages.Invalidate("k");
  commands.Reset();
  CHECK(*pages.Get("k", [] { return "x"s; }) == "x");
  CHECK(commands.Looks() == 0);
}

TEST_CASE("redis::ReadThrough: with a local cache or early_refresh no MGET is used") {
  const RedisServer server;
  const Commands commands(server);
  PageOptions options = LongTtl();
  GENERATE(false, true) ? static_cast<void>(options.early_refresh = 1)
                        : static_cast<void>(options.local_ttl = 1h);
  CachePages pages(server, options);
  pages.Put("k", "v");
  for (int i = 0; i < 3; ++i) CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(commands.Looks() == 0);
}

TEST_CASE("redis::ReadThrough: a value that has expired since it was found is refreshed") {
  const RedisServer server;
  CachePages pages(server, Stale());
  pages.Put("k", "old");
  Expect(pages, "old");
  SECTION("its marker has expired") { Age(server, "k", 1h + 1s); }
  SECTION("the marker is another value's") {
    Age(server, "k", 1h + 1s);
    server.Ask("SET", CacheName(server, "k", "fresh"), std::string(32, 'a'));
  }
  std::atomic<int> runs = 0;
  CHECK(*pages.Get("k", Counted(runs, "new"s)) == "old");
  CHECK(pages.GetStats().stale == 1);
  Await([&] { return pages.Peek("k") == "new"; });
  CHECK(runs == 1);
}

TEST_CASE("redis::ReadThrough: the marker of a value expires when that is no longer fresh") {
  const RedisServer server;
  PageOptions options = Stale();
  options.ttl = 10min;
  CachePages pages(server, options);
  GENERATE(false, true) ? pages.Put("k", "v")
                        : static_cast<void>(*pages.Get("k", [] { return "v"s; }));
  Await([&] { return Has(server, "k", "value"); });
  const auto of_value = TimeLeft(server, "k"), of_marker = TimeLeft(server, "k", "fresh");
  CHECK(of_value > 1h);
  CHECK(of_marker <= 10min);
  CHECK(of_marker > 9min);
  pages.Invalidate("k");
  CHECK_FALSE(Has(server, "k", "fresh"));
}

TEST_CASE("redis::ReadThrough: a value that is gone with its marker still there is loaded") {
  const RedisServer server;
  CachePages pages(server, Stale());
  pages.Put("k", "old");
  Expect(pages, "old");
  SECTION("it was evicted") { server.Ask("DEL", CacheName(server, "k", "value")); }
  SECTION("it is of another kind") {
    server.Ask("DEL", CacheName(server, "k", "value"));
    server.Ask("RPUSH", CacheName(server, "k", "value"), "a list");
  }
  SECTION("it is too short") { server.Ask("SET", CacheName(server, "k", "value"), "short"); }
  CHECK(*pages.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: damaged bytes that a look has found are loaded again") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "old");
  Expect(pages, "old");
  server.Ask("APPEND", CacheName(server, "k", "value"), "x");
  CHECK(*pages.Get("k", [] { return "new"s; }) == "new");
  CHECK(*pages.Get("k", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: a look finds nothing of an earlier generation") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "old");
  Expect(pages, "old");
  // No message tells of these.
  SECTION("there is a later one") {
    server.Ask("SET", "c:generation", std::to_string(std::stoll(GenerationOf(server)) + 1));
  }
  SECTION("there is none") { server.Ask("DEL", "c:generation"); }
  CHECK(*pages.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: what is no generation at its place harms no look") {
  const RedisServer server;
  const Commands commands(server);
  CachePages pages(server, LongTtl());
  pages.Put("k", "v");
  Expect(pages, "v");
  server.Ask("DEL", "c:generation");
  server.Ask("RPUSH", "c:generation", "a list");
  commands.Reset();
  CHECK(*pages.Get("k", NeverRun) == "v");  // the script goes on with what is known
  CHECK(commands.Scripts() == 1);
}

TEST_CASE("redis::ReadThrough: a look is not believed if its names are of an earlier generation") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages pages(LongTimeouts(proxy.Socket()), LongTtl());
  pages.Put("k", "old");
  Expect(pages, "old");
  // Another process has invalidated all, of which the message is late.
  const std::string later = std::to_string(std::stoll(GenerationOf(server)) + 1);
  server.Ask("SET", "c:generation", later);
  const HeldAnswer answer(proxy);
  test::Caller caller([&] { return pages.Get("k", [] { return "new"s; }); });
  answer.AwaitAnswered();
  const auto emptied = pages.GetStats().emptied;
  server.Ask("PUBLISH", "c:generation", later);
  Await([&] { return pages.GetStats().emptied > emptied; });
  proxy.Release();
  CHECK(caller.Join().value == "new");
}

TEST_CASE("redis::ReadThrough: a look whose answer is lost is asked again") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages pages(LongTimeouts(proxy.Socket()), LongTtl());
  pages.Put("k", "v");
  Expect(pages, "v");
  const Commands commands(server);
  commands.Reset();
  RedisProxy::Place place = EndOfReplies(proxy);
  place.bytes += 3;
  proxy.CutAt(place);
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(commands.Looks() == 1);
  CHECK(commands.Scripts() >= 1);
}

TEST_CASE("redis::ReadThrough: a user who may not MGET looks once, and then asks by the script") {
  const RedisServer server;
  server.Ask("ACL SETUSER few on >secret ~* &* +@all -mget");
  redis::ClientOptions client = LongTimeouts(server.Socket());
  client.user = "few";
  client.password = "secret";
  CachePages pages(client, LongTtl());
  pages.Put("k", "v");
  for (int i = 0; i < 4; ++i) CHECK(*pages.Get("k", NeverRun) == "v");
  const std::string stats = server.Ask("INFO", "commandstats").text;
  const std::string looks = stats.substr(stats.find("cmdstat_mget:calls=0"));
  CHECK(looks.substr(0, looks.find('\r')).ends_with(",rejected_calls=1,failed_calls=0"));
}

TEST_CASE("redis::ReadThrough: whoever leaves while a look is under way leaves nothing behind") {
  RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "v");
  Expect(pages, "v");
  server.Stop();
  StopSource stop;
  test::Caller leaving([&] { return pages.Get("k", NeverRun, {.stop = stop.get_token()}); });
  Await([&] { return pages.GetStats().fleet.calls.in_flight == 1; });
  test::Caller next([&] { return pages.Get("k", NeverRun); });
  stop.request_stop();
  CHECK(leaving.Join().error == std::errc::operation_canceled);
  server.Continue();
  CHECK(next.Join().value == "v");
  CHECK(*pages.Get("k", NeverRun) == "v");
}

TEST_CASE(
    "redis::ReadThrough: a server that dies after a look was sent is an outage as any other") {
  RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "v");
  Expect(pages, "v");
  server.Kill();
  Await([&] {
    return Keep([&] { return pages.Get("k", NeverRun); }).error == std::errc::not_connected;
  });
  server.Start();
  Await([&] { return Keep([&] { return pages.Get("k", [] { return "v"s; }); }).value == "v"; });
}

TEST_CASE("Redis Cluster: a redis::ReadThrough finds a value that was there by one MGET") {
  const RedisCluster cluster;
  redis::ClientOptions options = LongTimeouts("");
  options.port = cluster.Node(0).Port();
  CachePages pages(options, Stale());
  const auto looks = [&] {
    long long sum = 0;
    for (std::size_t node = 0; node < RedisCluster::kNodes; ++node) {
      sum += Calls(cluster.Node(node), "mget");
    }
    return sum;
  };
  for (const std::string key : {"", "}", "{}", "a}b{", "key 1", "key 2", "key 3"}) {
    pages.Put(key, "of " + key);
    for (int i = 0; i < 3; ++i) CHECK(*pages.Get(key, NeverRun) == "of " + key);
  }
  CHECK(looks() == 14);
}

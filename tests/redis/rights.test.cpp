// SPDX-License-Identifier: MIT

// Tests the list of rights in include/singleflight/README.md: a user who has them, and no others,
// is enough for a group, and the group uses each of them.

#include <cstddef>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <optional>
#include <singleflight/redis.hpp>
#include <singleflight/redis_read_through.hpp>
#include <sstream>
#include <string>
#include <vector>

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

// Returns the commands between two markers in the manual.
std::vector<std::string> ListedCommands(const std::string& marker = "rights") {
  const std::filesystem::path here = __FILE__;
  std::ifstream file(here.parent_path() / "../../include/singleflight/README.md");
  const std::string manual(std::istreambuf_iterator<char>(file), {});
  const std::size_t begin = manual.find("<!-- " + marker + ":");
  const std::size_t end = manual.find("<!-- /" + marker + " -->");
  REQUIRE((begin != manual.npos && end != manual.npos && begin < end));
  std::istringstream lines(manual.substr(begin, end - begin));
  std::vector<std::string> commands;
  for (std::string line; std::getline(lines, line);) {
    if (line.starts_with("ACL ")) commands.push_back(line);
  }
  return commands;
}

}  // namespace

TEST_CASE("The rights in the manual are enough for a group, and it uses each of them") {
  const RedisServer server;
  std::vector<std::string> rights;
  for (const std::string& command : ListedCommands()) {
    server.Ask(command.c_str());
    std::istringstream words(command);
    for (std::string word; words >> word;) {
      if (word.starts_with("+")) rights.push_back(word.substr(1));
    }
  }
  REQUIRE(rights.size() > 10);
  server.Ask("CONFIG RESETSTAT");
  ClientOptions client = LongTimeouts(server.Socket());
  client.user = "app";
  client.password = "PASSWORD";
  Options options = WithLease(600ms, OnOutage::kFail);
  options.linger = 100ms;  // a follower asks again soon
  {
    RedisPages leading(client, options, "shop:pages");
    RedisPages following(client, options, "shop:pages");
    for (const std::string& key : {"a"s, ""s, "}"s, "a}b{"s, "*"s}) {
      INFO("key '" << key << "'");
      const long long followed = Calls(server, "hexists");
      const long long renewed = Calls(server, "pexpire");
      RedisLeader leader(leading, key, std::string(20'000, 'x'));  // too large for a message
      Caller follower([&] { return following.Do(key, NeverRun); });
      Await([&] { return Calls(server, "hexists") > followed + 1; });
      Await([&] { return Calls(server, "pexpire") > renewed + 1; });
      leader.Finish();
      CHECK((follower.Join().value == std::string(20'000, 'x')));
    }
    {
      RedisLeader leader(leading, "f", "old"s);
      static_cast<void>(leading.Forget("f"s));
      Await([&] { return Calls(server, "rename") >= 1; });
      CHECK(leading.InspectFleet().size() == 1);
      CHECK(leader.Finish().value == "old");
    }
    for (const RedisPages* each : {&leading, &following}) {
      CHECK(each->LastOutage() == "");
      CHECK(each->GetStats().untold == 0);
      CHECK(each->GetStats().unpublished == 0);
      CHECK(each->GetStats().failed_renewals == 0);
    }
  }
  CHECK(server.Ask("ACL LOG").elements.empty());  // nothing was refused
  // Neither does anything go unused. A group unsubscribes when it goes before its client does.
  {
    singleflight::redis::Client its(client);
    singleflight::redis::Group<std::string> pages(its, "shop:pages", options);
    CHECK(*pages.Do("a", [] { return "x"s; }) == "x");
  }
  for (const std::string& right : rights) {
    if (right == "unsubscribe") continue;  // on its way when the client goes
    INFO(right);
    CHECK(Calls(server, right) > 0);
  }
}

TEST_CASE("The rights in the manual are enough for a cache") {
  const RedisServer server;
  for (const std::string& command : ListedCommands()) server.Ask(command.c_str());
  const std::vector<std::string> added = ListedCommands("cache rights");
  REQUIRE(added.size() == 2);
  for (const std::string& command : added) server.Ask(command.c_str());
  server.Ask("CONFIG RESETSTAT");
  ClientOptions client = LongTimeouts(server.Socket());
  client.user = "app";
  client.password = "PASSWORD";
  {
    singleflight::redis::Client one(client), other(client);
    using Cache = singleflight::redis::ReadThrough<std::string>;
    const singleflight::redis::ReadThroughOptions<std::string> options = {
        .ttl = 10ms,
        .stale_for = 1h,
        .local_ttl = 1ms,
        .fleet = {.lease = 10s, .on_outage = OnOutage::kFail}};
    Cache cache(one, "shop:cache", options), others(other, "shop:cache", options);
    for (const std::string& key : {"a"s, ""s, "}"s, "a}b{"s, "*"s}) {
      INFO("key '" << key << "'");
      const auto stale = others.GetStats().stale;
      CHECK(*cache.Get(key, [] { return "old"s; }) == "old");
      Await([&] {  // it expires
        static_cast<void>(others.Get(key, [] { return "old"s; }));
        return others.GetStats().stale > stale;
      });
      others.Invalidate(key);
      CHECK(cache.Peek(key) == std::nullopt);
      others.Put(key, "new");
      CHECK(cache.Peek(key) == "new");
    }
    Await([&] {  // the message comes
      others.Invalidate("b");
      return cache.GetStats().invalidations > 0;
    });
    const auto emptied = cache.GetStats().emptied;
    others.InvalidateAll();
    CHECK(cache.InspectFleet().empty());
    CHECK(cache.Peek("a") == std::nullopt);
    Await([&] { return cache.GetStats().emptied > emptied; });
    for (const Cache* each : {&cache, &others}) {
      CHECK(each->LastOutage() == "");
      CHECK(each->GetStats().fleet.unpublished == 0);
    }
  }
  CHECK(server.Ask("ACL LOG").elements.empty());  // nothing was refused
}

TEST_CASE("A group works over IPv6, with a password") {
  const RedisServer server({.tcp = true, .password = "secret", .arguments = {"--bind", "::1"}});
  ClientOptions client = LongTimeouts("");
  client.host = "::1";
  client.port = server.Port();
  client.password = "secret";
  RedisPages leading(client, LongLease(OnOutage::kFail));
  RedisPages following(client, LongLease(OnOutage::kFail));
  RedisLeader leader(leading, "a", "theirs"s);
  Caller follower([&] { return following.Do("a", NeverRun); });
  AwaitFollowers(server, "a", 1);
  leader.Finish();
  CHECK(follower.Join().value == "theirs");
  CHECK(leading.GetClient().Describe().starts_with("[::1]:"));
}

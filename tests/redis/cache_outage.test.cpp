// SPDX-License-Identifier: MIT

// Tests what a redis::ReadThrough does while its server cannot be used, or refuses a part: what
// callers get, what Peek returns, and what the log says.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <system_error>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// Values of the local cache expire at once, and may be used for another hour.
PageOptions StaleLocal() {
  PageOptions options = LongTtl();
  options.local_ttl = 1ns;
  options.stale_for = 1h;
  return options;
}

std::string MessageOfOutage(const std::function<void()>& change) {
  try {
    change();
    return "none";
  } catch (const std::system_error& error) {
    CHECK((error.code() == std::errc::protocol_error));
    return error.what();
  }
}

std::optional<std::errc> ErrorOfPeek(CachePages& pages) {
  return ErrorOf([&] { return pages.Peek("k"); });
}

}  // namespace

// ---- Peek

TEST_CASE("redis::ReadThrough: while the server is away, Peek sees expired local values, as Get") {
  RedisServer server;
  CachePages pages(server, StaleLocal());
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  REQUIRE(pages.GetStats().local_hits == 0);
  server.Kill();
  CHECK(pages.Peek("k") == "v");
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(pages.Peek("k") == "v");
  CHECK((ErrorOf([&] { return pages.Peek("other"); }) == std::errc::not_connected));
  CHECK_FALSE(pages.LastOutage().empty());
  server.Start();  // it has lost the value
  Await([&] { return !pages.Peek("k").has_value(); });
}

TEST_CASE("redis::ReadThrough: without stale_for, Peek sees no expired local value in an outage") {
  RedisServer server;
  PageOptions options = StaleLocal();
  options.stale_for = {};
  CachePages pages(server, options);
  AwaitListening(pages);
  PutAndHear(pages, "k", "v"s);
  REQUIRE(*pages.Get("k", NeverRun) == "v");
  server.Kill();
  CHECK((ErrorOfPeek(pages) == std::errc::not_connected));
}

TEST_CASE("redis::ReadThrough: an expired local value that was invalidated is not seen by Peek") {
  RedisServer server;
  CachePages here(server, StaleLocal()), there(server, LongTtl());
  AwaitListening(here);
  PutAndHear(here, "k", "v"s);
  REQUIRE(*here.Get("k", NeverRun) == "v");
  const auto heard = here.GetStats().invalidations;
  SECTION("here") { here.Invalidate("k"); }
  SECTION("elsewhere") {
    there.Invalidate("k");
    Await([&] { return here.GetStats().invalidations > heard; });
  }
  server.Kill();
  CHECK((ErrorOfPeek(here) == std::errc::not_connected));
}

TEST_CASE("redis::ReadThrough: if there was never a server, Peek sees what was loaded here") {
  PageOptions options = StaleLocal();
  options.fleet.on_outage = redis::OnOutage::kRunLocally;
  CachePages pages(LongTimeouts("/nowhere/socket"), options);
  CHECK((ErrorOfPeek(pages) == std::errc::not_connected));
  REQUIRE(*pages.Get("k", [] { return "v"s; }) == "v");
  CHECK(pages.Peek("k") == "v");
  CHECK(*pages.Get("k", NeverRun) == "v");
  CHECK(pages.GetStats().local_hits == 0);
  CHECK(pages.GetStats().loads == 1);
}

TEST_CASE("redis::ReadThrough: loads while no server can be used leave no memory behind") {
  PageOptions options = LongTtl();
  options.fleet.on_outage = redis::OnOutage::kRunLocally;
  CachePages pages(LongTimeouts("/nowhere/socket"), options);
  const auto live_after = [&pages](int loads) {
    for (int i = 0; i < loads; ++i) REQUIRE(*pages.Get("k", [] { return "v"s; }) == "v");
    return live_allocations.load();
  };
  const std::ptrdiff_t after_few = live_after(200);
  CHECK(live_after(2'000) < after_few + 500);
}

// ---- A user who may not subscribe

TEST_CASE("redis::ReadThrough: if the user may not hear of changes, no local value is used") {
  // The log says so, once, and values are kept here as soon as the user may.
  const RedisServer server;
  CachePages there(server, LongTtl());
  there.Put("k", "old");  // there is a generation
  const std::string refused = GENERATE("c:generation"s, "c:invalidations"s);
  const std::string allowed = refused == "c:generation" ? "c:invalidations" : "c:generation";
  server.Ask(("ACL SETUSER few on >secret resetchannels ~* +@all &c:inbox:* &" + allowed).c_str());
  redis::ClientOptions client = LongTimeouts(server.Socket());
  client.user = "few";
  client.password = "secret";
  PageOptions options = LongTtl();
  options.local_ttl = options.stale_for = 1h;
  CachePages here(client, options);
  REQUIRE(*here.Get("k", NeverRun) == "old");
  Await([&] { return !here.LastOutage().empty(); });
  INFO(here.LastOutage());
  CHECK(here.LastOutage().starts_with(server.Socket() + ": refuses the channel " + refused +
                                      ": NOPERM "));
  CHECK(here.LastOutage().ends_with(": so the local cache is not used"));
  CHECK(here.LastOutage().find('\n') == std::string::npos);
  const auto hits = here.GetStats().local_hits;
  for (const std::string& value : {"new"s, "newer"s, "newest"s}) {
    there.Put("k", value);
    CHECK(*here.Get("k", NeverRun) == value);
    CHECK(here.Peek("k") == value);
    there.InvalidateAll();
    there.Put("k", value + "!");
    CHECK(*here.Get("k", NeverRun) == value + "!");
  }
  CHECK(here.GetStats().local_hits == hits);
  CHECK(here.GetStats().fleet.outages == 1);
  server.Ask(("ACL SETUSER few &" + refused).c_str());
  Await([&] { return *here.Get("k", NeverRun) == "newest!" && here.GetStats().local_hits > hits; });
  there.Put("k", "heard");
  Await([&] { return *here.Get("k", NeverRun) == "heard"; });
}

TEST_CASE("redis::ReadThrough: if the user may not publish a change, the change says so") {
  const RedisServer server;
  CachePages there(server, LongTtl());
  there.Put("k", "old");
  server.Ask("ACL SETUSER few on >secret resetchannels ~* +@all &c:inbox:*");
  redis::ClientOptions client = LongTimeouts(server.Socket());
  client.user = "few";
  client.password = "secret";
  CachePages here(client, LongTtl());
  for (const auto& change : std::vector<std::function<void()>>{[&] { here.Invalidate("k"); },
                                                               [&] { here.Put("k", "new"); },
                                                               [&] { here.InvalidateAll(); }}) {
    const std::string why = MessageOfOutage(change);
    INFO(why);
    CHECK(why.starts_with("singleflight::redis: " + server.Socket() + ": "));
    CHECK(why.find("channel") != std::string::npos);
    CHECK(why.find('\n') == std::string::npos);
  }
}

// ---- A generation that does not last

namespace {

// Removes the generation from a server while the server's answers go through `proxy`. So a process
// that asks for the generation never gets one that is still there.
class GenerationThief {
 public:
  GenerationThief(RedisProxy& proxy, const RedisServer& server) {
    StealAt(1, proxy, server, stopped_);
  }
  void Stop() { *stopped_ = true; }

 private:
  // The answer that brings a generation is longer than that: one of these places is within it.
  static constexpr std::uint64_t kApart = 20;

  static void StealAt(std::uint64_t bytes, RedisProxy& proxy, const RedisServer& server,
                      const std::shared_ptr<std::atomic<bool>>& stopped) {
    proxy.CallAt({RedisProxy::kReplies, bytes, 0}, [bytes, &proxy, &server, stopped] {
      if (*stopped) return;
      server.Ask("DEL", "c:generation");
      proxy.ForgetRules();  // that of this place
      StealAt(bytes + kApart, proxy, server, stopped);
    });
  }

  // The proxy's thread may outlive this.
  const std::shared_ptr<std::atomic<bool>> stopped_ = std::make_shared<std::atomic<bool>>(false);
};

constexpr const char* kDoesNotLast =
    "the generation of the cache's values does not last: is it evicted?";

}  // namespace

TEST_CASE("redis::ReadThrough: a server whose generation does not last is an outage that says so") {
  // A process asks it so many times, and not for ever. When it lasts, the server is used again.
  constexpr int kTimes = redis::detail::CacheState::kMostGenerations;
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  PageOptions options = LongTtl();
  options.fleet.on_outage = GENERATE(redis::OnOutage::kFail, redis::OnOutage::kRunLocally);
  CachePages pages(LongTimeouts(proxy.Socket()), options), there(server, LongTtl());
  GenerationThief thief(proxy, server);
  std::function<void()> change;
  SECTION("Get") {
    const auto outcome = Keep([&] { return pages.Get("k", [] { return "own"s; }); });
    if (options.fleet.on_outage == redis::OnOutage::kFail) {
      CHECK((outcome.error == std::errc::protocol_error));
    } else {
      CHECK(outcome.value == "own");
      CHECK(outcome.role == Role::kLeader);
    }
  }
  SECTION("Peek") {
    change = [&] { static_cast<void>(pages.Peek("k")); };
  }
  SECTION("Invalidate") {
    change = [&] { pages.Invalidate("k"); };
  }
  SECTION("Put") {
    change = [&] { pages.Put("k", "v"); };
  }
  if (change) {
    CHECK(MessageOfOutage(change) == "singleflight::redis: "s + kDoesNotLast + ": Protocol error");
  }
  CHECK(pages.LastOutage() == kDoesNotLast);
  CHECK(pages.GetStats().fleet.outages == 1);
  // It was made anew each time, and once more because of a subscription.
  const long long made = Calls(server, "set");
  CHECK(made >= kTimes);
  CHECK(made <= kTimes + 1);
  thief.Stop();
  CHECK(*pages.Get("healthy", [] { return "v"s; }) == "v");
  AwaitNoLease(server, "healthy");
  CHECK(*there.Get("healthy", NeverRun) == "v");
  pages.Put("k", "put");
  CHECK(there.Peek("k") == "put");
  CHECK(pages.GetStats().fleet.outages == 1);
}

// ---- The end of a client

TEST_CASE("redis: a client that is destroyed before an answer has come leaves no memory behind") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  StopSource stop;
  const auto leave = [&](auto& group, auto ask) {
    Await([&] { return server.Keys("*:lease").empty(); });
    AwaitAnswersOf(group);
    const HeldAnswer answer(proxy);
    test::Caller leaving(ask);
    answer.AwaitAnswered();
    stop.request_stop();
    CHECK(leaving.Join().error == std::errc::operation_canceled);
  };
  SECTION("of a group") {
    RedisPages pages(LongTimeouts(proxy.Socket()), LongLease());
    REQUIRE(*pages.Do("x", [] { return "v"s; }) == "v");
    leave(pages, [&] { return pages.Do("k", NeverRun, {.stop = stop.get_token()}); });
  }
  SECTION("of a cache") {
    CachePages pages(LongTimeouts(proxy.Socket()), LongTtl());
    REQUIRE(*pages.Get("x", [] { return "v"s; }) == "v");
    leave(pages, [&] { return pages.Get("k", NeverRun, {.stop = stop.get_token()}); });
  }
}

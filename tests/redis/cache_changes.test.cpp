// SPDX-License-Identifier: MIT

// Tests Invalidate, Put, Peek and InvalidateAll of redis::ReadThrough: no load in flight undoes
// them, in whatever process it runs. Also what becomes of the generation, and loads that wait for
// themselves.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <new>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/redis_read_through.hpp>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "caches.hpp"
#include "outages.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/allocations.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

using Told = KeyResult<void>;
using Peeked = KeyResult<std::optional<std::string>>;

// How a test removes or replaces what is there for "k".
enum class Change : unsigned char { kInvalidate, kPut, kInvalidateAll };

Change EachChange() { return GENERATE(Change::kInvalidate, Change::kPut, Change::kInvalidateAll); }

void Apply(Change change, CachePages& pages, CallOptions options = {}) {
  switch (change) {
    case Change::kInvalidate:
      return pages.Invalidate("k", options);
    case Change::kPut:
      return pages.Put("k", "put", options);
    case Change::kInvalidateAll:
      return pages.InvalidateAll(options);
  }
}

std::errc CodeOf(const std::exception_ptr& error) {
  return ErrorOf([&]() -> int { std::rethrow_exception(error); }).value();
}

template <class Do>
std::optional<std::errc> ErrorOfChange(Do&& change) {
  return ErrorOf([&] {
    change();
    return 0;
  });
}

PageOptions Local() {
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  return options;
}

}  // namespace

TEST_CASE("redis::ReadThrough: a lease that the server has lost is not made again") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.fleet.lease = 300ms;
  CachePages here(server, options), there(server, LongTtl());
  HeldLoad load("old");
  test::Caller caller([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  server.Ask("DEL", CacheName(server, "k", "lease"));
  there.Invalidate("k");  // it finds no load that it could forget
  Await([&] { return here.GetStats().fleet.lost_leases == 1 || HasLease(server, "k"); });
  load.Finish();
  CHECK(caller.Join().value == "old");
  CHECK(*there.Get("k", [] { return "new"s; }) == "new");
  CHECK(*here.Get("k", [] { return "new"s; }) == "new");
}

TEST_CASE("redis::ReadThrough: a load without a lease puts nothing under one that comes late") {
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  PageOptions options = LongTtl();
  options.fleet.on_outage = redis::OnOutage::kRunLocally;
  CachePages here(ShortTimeouts(proxy.Socket()), options), there(server, LongTtl());
  REQUIRE(*here.Get("other", [] { return "v"s; }) == "v");  // the script is known
  proxy.HoldAt(EndOfReplies(proxy));
  HeldLoad load("old");
  test::Caller caller([&] { return here.Get("k", load.Load()); });
  Await([&] { return HasLease(server, "k"); });
  proxy.GoAway();
  load.AwaitBegun();
  // The command is late: the lease comes only after an invalidation.
  const std::string lease = CacheName(server, "k", "lease");
  server.Ask("RENAME", lease, "later");
  there.Invalidate("k");
  server.Ask("RENAME", "later", lease);
  load.Finish();
  CHECK(caller.Join().value == "old");
  proxy.ComeBack();
  AwaitNoLease(server, "k");
  CHECK_FALSE(Has(server, "k", "value"));
}

TEST_CASE(
    "redis::ReadThrough: after Invalidate, every process loads or gets what was loaded since") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("k", "old");
  here.Put("other", "other");
  REQUIRE(*there.Get("k", NeverRun) == "old");
  here.Invalidate("k");
  CHECK_FALSE(there.Peek("k").has_value());
  CHECK(*there.Get("k", [] { return "new"s; }) == "new");
  CHECK(*here.Get("k", NeverRun) == "new");
  CHECK(*here.Get("other", NeverRun) == "other");
}

TEST_CASE("redis::ReadThrough: Put replaces the value for every process") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  REQUIRE(*there.Get("k", [] { return "old"s; }) == "old");
  here.Put("k", "new");
  CHECK(*there.Get("k", NeverRun) == "new");
  CHECK(there.Peek("k") == "new");
}

TEST_CASE("redis::ReadThrough: after InvalidateAll, no value is there in any process") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  for (const char* key : {"a", "b"}) here.Put(key, "old");
  REQUIRE(*there.Get("a", NeverRun) == "old");
  here.InvalidateAll();
  for (const char* key : {"a", "b"}) {
    CHECK_FALSE(there.Peek(key).has_value());
    CHECK_FALSE(here.Peek(key).has_value());
  }
  CHECK(*there.Get("a", [] { return "new"s; }) == "new");
  CHECK(*here.Get("a", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: a load in flight undoes no change, whoever makes it") {
  const Change change = EachChange();
  const bool is_own = GENERATE(true, false);
  const bool is_local = GENERATE(false, true);
  CAPTURE(static_cast<int>(change), is_own, is_local);
  const RedisServer server;
  CachePages here(server, is_local ? Local() : LongTtl());
  CachePages there(server, is_local ? Local() : LongTtl());
  if (is_local) {
    AwaitListening(here);
    AwaitListening(there);
  }
  HeldLoad load("old");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  Apply(change, is_own ? here : there);
  // A caller that comes now does not get what the load returns.
  CachePages& other = is_own ? here : there;
  if (change == Change::kPut) {
    CHECK(*other.Get("k", NeverRun) == "put");
  } else {
    CHECK(*other.Get("k", [] { return "new"s; }) == "new");
    AwaitNoLease(server, "k");
  }
  load.Finish();
  const std::string now = change == Change::kPut ? "put" : "new";
  CHECK(loading.Join().value == "old");  // it asked before
  const auto& followed = following.Join().value;
  CHECK((followed == "old" || followed == now));  // it may have asked again meanwhile
  for (int i = 0; i < 2; ++i) CHECK(*other.Get("k", NeverRun) == now);
  CachePages& first = is_own ? there : here;
  // With a local cache, the others hear of it by a message.
  Await([&] { return *first.Get("k", NeverRun) == now; });
  CHECK(first.Peek("k") == now);
}

TEST_CASE("redis::ReadThrough: a refresh in flight undoes no change") {
  const Change change = EachChange();
  const RedisServer server;
  PageOptions options = LongTtl();
  options.stale_for = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "k");
  HeldLoad load("from the old source");
  REQUIRE(*here.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  Apply(change, there);
  load.Finish();
  Await(
      [&] { return here.GetStats().fleet.calls.in_flight == 0 && here.LoadTimes().Count() == 1; });
  AwaitAnswersOf(here);
  CHECK((there.Peek("k") == (change == Change::kPut ? std::optional("put"s) : std::nullopt)));
  CHECK((here.Peek("k") == (change == Change::kPut ? std::optional("put"s) : std::nullopt)));
}

TEST_CASE("redis::ReadThrough: a Get that begins after a change joins no load from before it") {
  // Also where the process of the old load is the one that asks, and the load goes on.
  const RedisServer server;
  CachePages pages(server, LongTtl());
  std::vector<std::unique_ptr<HeldLoad>> loads;
  std::vector<std::unique_ptr<test::Caller<std::string>>> callers;
  for (int i = 0; i < 4; ++i) {
    loads.push_back(std::make_unique<HeldLoad>(std::to_string(i)));
    callers.push_back(std::make_unique<test::Caller<std::string>>(
        [&pages, load = loads.back()->Load()] { return pages.Get("k", load); }));
    loads.back()->AwaitBegun();
    i % 2 == 0 ? pages.Invalidate("k") : pages.InvalidateAll();
  }
  CHECK(*pages.Get("k", [] { return "last"s; }) == "last");
  for (int i = 0; i < 4; ++i) {
    loads[static_cast<std::size_t>(i)]->Finish();
    CHECK(callers[static_cast<std::size_t>(i)]->Join().value == std::to_string(i));
  }
  CHECK(*pages.Get("k", NeverRun) == "last");
}

TEST_CASE(
    "redis::ReadThrough: a Get that begins after a change joins no call that has asked before") {
  const Change change = EachChange();
  CAPTURE(static_cast<int>(change));
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages here(LongTimeouts(proxy.Socket()), Local()), there(server, LongTtl());
  AwaitListening(here);
  there.Put("k", "old");
  REQUIRE(*there.Get("k", NeverRun) == "old");  // the server knows the script from now on
  AwaitAnswersOf(here);
  const HeldAnswer answer(proxy);
  test::Caller before([&] { return here.Get("k", NeverRun); });
  answer.AwaitAnswered();  // it is on its way
  Apply(change, there);
  test::Caller after([&] { return here.Get("k", [] { return "new"s; }); });
  const auto asked = [&] {
    const Stats calls = here.GetStats().fleet.calls;
    return calls.executions + calls.followers;
  };
  Await([&] { return asked() == 2; });
  CHECK(here.GetStats().fleet.calls.followers == 0);
  proxy.Release();
  CHECK(before.Join().value == "old");
  CHECK(after.Join().value == (change == Change::kPut ? "put" : "new"));
  CHECK(after.Join().role == Role::kLeader);
  CHECK_FALSE(after.Join().shared);
}

TEST_CASE("redis::ReadThrough: any bytes may be a key, and keys do not meet") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, LongTtl());
  const std::vector<std::string> keys = {"", "}", "{", "{}", "a:value", "a", "\0\r\n*"s, "a}b{"};
  for (const std::string& key : keys) here.Put(key, "of " + key);
  for (const std::string& key : keys) {
    CHECK(*there.Get(key, NeverRun) == "of " + key);
    CHECK(*here.Get(key, NeverRun) == "of " + key);
  }
  there.Invalidate("a");
  CHECK_FALSE(there.Peek("a").has_value());
  CHECK(there.Peek("a:value") == "of a:value");
}

TEST_CASE("redis::ReadThrough: Peek loads nothing, waits for no load, and sees expired values") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.stale_for = 1h;
  CachePages here(server, options), there(server, options);
  CHECK_FALSE(here.Peek("k").has_value());
  HeldLoad load("v");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  CHECK_FALSE(here.Peek("k").has_value());
  CHECK_FALSE(there.Peek("k").has_value());
  load.Finish();
  loading.Join();
  AwaitNoLease(server, "k");
  CHECK(there.Peek("k") == "v");
  Age(server, "k", 1h + 1ms);
  CHECK(there.Peek("k") == "v");
  CHECK_FALSE(HasLease(server, "k"));
  Age(server, "k", 1h);
  CHECK_FALSE(there.Peek("k").has_value());
}

// ---- The forms with callbacks

TEST_CASE("redis::ReadThrough: each callback is called once, on another thread, with the outcome") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  std::atomic<int> calls = 0;
  const auto done = [&](std::promise<Told>& promise) {
    return [&](Told told) {
      ++calls;
      promise.set_value(std::move(told));
    };
  };
  std::promise<Told> put, invalidated, all;
  here.PutThen("k", "v", done(put));
  CHECK(put.get_future().get().has_value());
  CHECK(there.Peek("k") == "v");
  std::promise<std::thread::id> on;
  std::promise<Peeked> peeked;
  here.PeekThen("k", [&](Peeked result) {
    on.set_value(std::this_thread::get_id());
    peeked.set_value(std::move(result));
  });
  CHECK(**peeked.get_future().get() == "v");
  CHECK(on.get_future().get() != std::this_thread::get_id());
  here.InvalidateThen("k", done(invalidated));
  CHECK(invalidated.get_future().get().has_value());
  CHECK_FALSE(there.Peek("k").has_value());
  std::promise<Told> own;
  here.PutThen("k", Cached("w"s, {.ttl = 1min}), done(own));
  CHECK(own.get_future().get().has_value());
  CHECK(FreshUntil(server, "k") <= ServerTime(server) + 1min);
  here.InvalidateAllThen(done(all));
  CHECK(all.get_future().get().has_value());
  CHECK_FALSE(there.Peek("k").has_value());
  CHECK(calls == 4);
}

TEST_CASE("redis::ReadThrough: a callback may ask the same cache") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  std::promise<std::string> value;
  pages.PutThen("k", "v", [&](Told) {
    pages.PeekThen("k", [&](Peeked peeked) {
      pages.InvalidateThen("k", [&, found = **peeked](Told) { value.set_value(found); });
    });
  });
  CHECK(value.get_future().get() == "v");
}

TEST_CASE("redis::ReadThrough: the destructor waits for callbacks") {
  RedisServer server;
  std::atomic<int> called = 0;
  {
    CachePages pages(server, LongTtl());
    pages.Put("k", "v");
    server.Stop();
    const auto count = [&](const auto& result) { called += result.has_value() ? 1 : 100; };
    pages.InvalidateThen("k", count);
    pages.PutThen("k", "w", count);
    pages.PeekThen("k", count);
    pages.InvalidateAllThen(count);
    CHECK(called == 0);
    server.Continue();
  }
  CHECK(called == 4);
}

// ---- When the server does not answer

TEST_CASE("redis::ReadThrough: a command that had no memory to begin holds up no destructor") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  const bool is_local = GENERATE(false, true);
  bool has_begun = false;
  for (std::size_t failures = 0; !has_begun; ++failures) {
    CachePages pages(server, options);
    AwaitListening(pages);
    PutAndHear(pages, "k", "v"s);
    CHECK(*pages.Get("k", NeverRun) == "v");
    std::promise<std::string> found;
    try {
      const FailAllocations failing(failures);
      pages.PeekThen(is_local ? "k" : "none", [&](const auto& result) {
        const std::optional<std::string>& value = *result;
        found.set_value(value.value_or("none"));
      });
      has_begun = true;
    } catch (const std::bad_alloc&) {
    }
    if (!has_begun) continue;
    CHECK(found.get_future().get() == (is_local ? "v" : "none"));
    CHECK(failures > 0);
  }
}

TEST_CASE("redis::ReadThrough: a change that no server has confirmed says so") {
  RedisServer server;
  CachePages pages(server, LongTtl());
  pages.Put("k", "v");
  server.Kill();
  for (const Change change : {Change::kInvalidate, Change::kPut, Change::kInvalidateAll}) {
    CHECK((ErrorOfChange([&] { Apply(change, pages); }) == std::errc::not_connected));
  }
  CHECK((ErrorOfChange([&] { static_cast<void>(pages.Peek("k")); }) == std::errc::not_connected));
  CHECK_FALSE(pages.LastOutage().empty());
  std::promise<Told> told;
  pages.InvalidateThen("k", [&](Told result) { told.set_value(std::move(result)); });
  CHECK((CodeOf(told.get_future().get().error()) == std::errc::not_connected));
  server.Start();
  Await([&] { return !ErrorOfChange([&] { pages.Invalidate("k"); }); });
}

TEST_CASE("redis::ReadThrough: a change before any server was reached says why, too") {
  CachePages pages(LongTimeouts("/nowhere/socket"), LongTtl());
  for (const Change change : {Change::kInvalidate, Change::kPut, Change::kInvalidateAll}) {
    CHECK((ErrorOfChange([&] { Apply(change, pages); }) == std::errc::not_connected));
  }
  CHECK_FALSE(pages.LastOutage().empty());
}

TEST_CASE("redis::ReadThrough: whoever waits for a change may leave, and the command goes on") {
  const Change change = EachChange();
  RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("k", "v");
  REQUIRE(there.Peek("k") == "v");
  server.Stop();
  StopSource stop;
  std::optional<std::errc> error;
  const bool is_stopped = GENERATE(false, true);
  if (is_stopped) {
    JoiningThread thread(
        [&] { error = ErrorOfChange([&] { Apply(change, here, {.stop = stop.get_token()}); }); });
    stop.request_stop();
    thread.join();
    CHECK((error == std::errc::operation_canceled));
    CHECK((ErrorOfChange([&] { Apply(change, here, {.stop = stop.get_token()}); }) ==
           std::errc::operation_canceled));  // it was stopped before
  } else {
    error = ErrorOfChange([&] { Apply(change, here, {.timeout = 1ms}); });
    CHECK((error == std::errc::timed_out));
  }
  CHECK((ErrorOfChange([&] { static_cast<void>(here.Peek("k", {.timeout = 1ms})); }) ==
         std::errc::timed_out));
  server.Continue();
  // A caller that was stopped before it had begun has sent nothing.
  if (!is_stopped) Await([&] { return there.Peek("k") != "v"; });
}

TEST_CASE("redis::ReadThrough: a change whose connection is cut is sent again") {
  const Change change = EachChange();
  const bool after = GENERATE(false, true);  // the server has made the change
  CAPTURE(static_cast<int>(change), after);
  const RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages here(LongTimeouts(proxy.Socket()), LongTtl()), there(server, LongTtl());
  for (int i = 0; i < 2; ++i) Apply(change, here);  // the script is known
  here.Put("k", "v");
  REQUIRE(here.Peek("k") == "v");
  const auto way = after ? RedisProxy::kReplies : RedisProxy::kRequests;
  std::vector<std::uint64_t> bytes;
  for (std::size_t i = 0; i < proxy.Connections(); ++i) {
    bytes.push_back(proxy.Bytes(i, way));
    proxy.CutAt({way, bytes.back() + (after ? 1 : 20), i});
  }
  Apply(change, here);
  CHECK(proxy.Actions() >= 1);
  CHECK(there.Peek("k") != "v");
}

// ---- Several objects of one process

TEST_CASE(
    "redis::ReadThrough: two caches with one client and prefix hear of each other's changes") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  redis::ReadThrough<std::string> first(client, "c", Local());
  AwaitListening(first);
  {
    redis::ReadThrough<std::string> second(client, "c", Local());
    AwaitListening(second);
    REQUIRE(*first.Get("k", [] { return "old"s; }) == "old");
    REQUIRE(*second.Get("k", NeverRun) == "old");
    REQUIRE(second.GetStats().local_hits == 0);
    first.Invalidate("k");
    Await([&] { return second.GetStats().invalidations == 1; });
    CHECK(*second.Get("k", [] { return "new"s; }) == "new");
    CHECK(*first.Get("k", NeverRun) == "new");
    second.Invalidate("k");
    Await([&] { return first.GetStats().invalidations == 2; });
    CHECK(*first.Get("k", [] { return "newest"s; }) == "newest");
    second.InvalidateAll();
    CHECK(*second.Get("k", [] { return "again"s; }) == "again");
    Await([&] { return first.Peek("k") == "again"; });
  }
  CachePages there(server, LongTtl());
  REQUIRE(*first.Get("k", NeverRun) == "again");
  there.Invalidate("k");
  const auto heard = [&] { return first.GetStats().invalidations >= 3; };
  Await(heard);  // although the other one listens no more
  CHECK(*first.Get("k", [] { return "last"s; }) == "last");
}

TEST_CASE("redis::ReadThrough: a value of another type is not misread") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  redis::ReadThroughOptions<int> options{.ttl = 1h};
  options.fleet.on_outage = redis::OnOutage::kFail;
  CacheProcess<int> numbers(server, options);
  options.fleet.on_outage = redis::OnOutage::kRunLocally;
  CacheProcess<int> local(server, options);
  pages.Put("k", "1234");
  try {
    static_cast<void>(numbers.Get("k", [] { return 1; }));
    FAIL("it was read");
  } catch (const std::system_error& error) {
    CHECK((error.code() == std::errc::protocol_error));
    CHECK(std::string(error.what()).find("give each type a prefix of its own") !=
          std::string::npos);
  }
  CHECK(
      (ErrorOfChange([&] { static_cast<void>(numbers.Peek("k")); }) == std::errc::protocol_error));
  CHECK(*local.Get("k", [] { return 7; }) == 7);
  CHECK(pages.Peek("k") == "1234");
}

TEST_CASE("redis::ReadThrough: a value that was damaged on the server is loaded again") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("k", "value");
  const std::string name = CacheName(server, "k", "value");
  const std::size_t size = server.Get(name).value().size();
  const std::size_t at = GENERATE(0U, 40U, 1U << 20);
  SECTION("one byte") { server.Ask("SETRANGE", name, std::to_string(std::min(at, size - 1)), "#"); }
  SECTION("it is cut off") { server.Ask("SET", name, "12"); }
  SECTION("it is no string") {
    server.Ask("DEL", name);
    server.Ask("HSET", name, "a", "b");
  }
  CHECK(*there.Get("k", [] { return "new"s; }) == "new");
  AwaitNoLease(server, "k");
  CHECK(*here.Get("k", NeverRun) == "new");
}

// ---- The generation

TEST_CASE("redis::ReadThrough: when the server has lost its memory, values are loaded again") {
  const RedisServer server;
  CachePages here(server, Local()), there(server, LongTtl());
  AwaitListening(here);
  REQUIRE(*here.Get("k", [] { return "old"s; }) == "old");
  REQUIRE(*there.Get("k", NeverRun) == "old");
  server.Ask("FLUSHALL");
  CHECK(*there.Get("k", [] { return "new"s; }) == "new");
  Await([&] { return *here.Get("k", NeverRun) == "new"; });
}

TEST_CASE("redis::ReadThrough: when the generation was evicted, older values are not seen again") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("k", "first");
  const std::string first = GenerationOf(server);
  here.InvalidateAll();
  here.Put("k", "second");
  CHECK(GenerationOf(server) > first);
  REQUIRE(*there.Get("k", NeverRun) == "second");
  server.Ask("DEL", "c:generation");
  const std::string value = *there.Get("k", [] { return "third"s; });
  CHECK(value != "first");
  CHECK(*here.Get("k", NeverRun) == value);
  CHECK(GenerationOf(server) > first);
  CachePages later(server, LongTtl());
  CHECK(*later.Get("k", NeverRun) == value);
}

TEST_CASE("redis::ReadThrough: a server with an older generation is told the newest") {
  // As after a failover to a replica that had not heard of InvalidateAll.
  const RedisServer server;
  CachePages here(server, LongTtl());
  here.Put("k", "first");
  const std::string first = GenerationOf(server);
  here.InvalidateAll();
  const std::string second = GenerationOf(server);
  server.Ask("SET", "c:generation", first);
  SECTION("by a Get") {
    CHECK(*here.Get("k", [] { return "new"s; }) == "new");
  }
  SECTION("by a Peek") { CHECK_FALSE(here.Peek("k").has_value()); }
  SECTION("by an Invalidate") { here.Invalidate("k"); }
  CHECK(GenerationOf(server) == second);
}

TEST_CASE("redis::ReadThrough: InvalidateAll begins a newer generation than any process knows") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  here.Put("k", "first");
  const std::string first = GenerationOf(server);
  const std::string future = "4000000000000000";  // another server's clock was ahead
  server.Ask("SET", "c:generation", future);
  CHECK_FALSE(here.Peek("k").has_value());
  here.Put("k", "second");
  there.InvalidateAll();
  CHECK(GenerationOf(server) > future);
  CHECK_FALSE(here.Peek("k").has_value());
  server.Ask("SET", "c:generation", first);
  there.InvalidateAll();
  CHECK(GenerationOf(server) > future);
  CHECK_FALSE(here.Peek("k").has_value());
}

TEST_CASE("redis::ReadThrough: a generation that is none is an outage that says so") {
  const RedisServer server;
  SECTION("of another type") { server.Ask("HSET", "c:generation", "a", "b"); }
  SECTION("empty") { server.Ask("SET", "c:generation", ""); }
  SECTION("a text") { server.Ask("SET", "c:generation", "zzz"); }
  CachePages pages(server, LongTtl());
  CHECK((Keep([&] { return pages.Get("k", NeverRun); }).error == std::errc::protocol_error));
  CHECK((ErrorOfChange([&] { pages.Invalidate("k"); }) == std::errc::protocol_error));
  CHECK_FALSE(pages.LastOutage().empty());
  PageOptions local = LongTtl();
  local.fleet.on_outage = redis::OnOutage::kRunLocally;
  CachePages runs(server, local);
  CHECK(*runs.Get("k", [] { return "v"s; }) == "v");
}

// ---- Loads that wait for themselves

TEST_CASE("redis::ReadThrough: a load that asks for its own key fails, and does not hang") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  std::optional<std::errc> inner;
  const auto load = [&] {
    inner = ErrorOf([&] { return pages.Get("k", NeverRun); });
    return "v"s;
  };
  SECTION("Get") { CHECK(*pages.Get("k", load) == "v"); }
  SECTION("DoAsync") { CHECK(*DoAsync(pages, "k", load).Get() == "v"); }
  CHECK((inner == std::errc::resource_deadlock_would_occur));
}

TEST_CASE("redis::ReadThrough: a load that waits for a Future of its own key fails") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  std::optional<std::errc> inner;
  CHECK(*pages.Get("k", [&] {
    auto future = DoAsync(pages, "k", NeverRun);
    inner = ErrorOf([&] { return future.Get(); });
    return "v"s;
  }) == "v");
  CHECK((inner == std::errc::resource_deadlock_would_occur));
}

TEST_CASE("redis::ReadThrough: two loads that wait for each other's keys do not hang") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  std::latch both{2};
  std::atomic<int> deadlocks = 0;
  const auto load = [&](std::string other) {
    return [&, other] {
      both.arrive_and_wait();
      if (ErrorOf([&] { return pages.Get(other, NeverRun); })) ++deadlocks;
      return "v"s;
    };
  };
  test::Caller a([&] { return pages.Get("a", load("b")); });
  test::Caller b([&] { return pages.Get("b", load("a")); });
  CHECK(a.Join().value == "v");
  CHECK(b.Join().value == "v");
  CHECK(deadlocks >= 1);
}

TEST_CASE("redis::ReadThrough: a refresh that asks for its own key gets the expired value") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.stale_for = 1h;
  CachePages pages(server, options);
  PutExpired(server, pages, "k");
  CHECK(*pages.Get("k", [&pages] { return "new after " + *pages.Get("k", NeverRun); }) == "old");
  Await([&] { return pages.Peek("k") != "old"; });
  CHECK(pages.Peek("k") == "new after old");
}

TEST_CASE("redis::ReadThrough: with soft_timeout, loads that wait for each other do not hang") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.stale_for = options.soft_timeout.emplace(1h);
  CachePages pages(server, options);
  for (const char* key : {"a", "b"}) PutExpired(server, pages, key);
  // Each gets the expired value, or the error that says that there is a circle.
  const auto is_one_of = [](const std::optional<std::string>& value,
                            const std::vector<std::string>& values) {
    return value && std::ranges::count(values, *value) == 1;
  };
  SECTION("a refresh that asks for its own key") {
    const std::string value =
        *pages.Get("a", [&pages] { return "after " + *pages.Get("a", NeverRun); });
    CHECK(is_one_of(value, {"old", "after old"}));
  }
  SECTION("two refreshes that ask for each other's keys") {
    const auto both = std::make_shared<std::latch>(2);
    const auto load = [&pages, both](std::string other) {
      return [&pages, both, other] {
        both->arrive_and_wait();
        return "after " + *pages.Get(other, NeverRun);
      };
    };
    test::Caller a([&] { return pages.Get("a", load("b")); });
    test::Caller b([&] { return pages.Get("b", load("a")); });
    for (const auto& value : {a.Join().value, b.Join().value}) {
      CHECK(is_one_of(value, {"old", "after old", "after after old"}));
    }
  }
}

TEST_CASE("redis::ReadThrough: a load may invalidate its own key, and its value is not put") {
  const RedisServer server;
  CachePages pages(server, LongTtl());
  CHECK(*pages.Get("k", [&] {
    pages.Invalidate("k");
    return "v"s;
  }) == "v");
  AwaitNoLease(server, "k");
  CHECK_FALSE(pages.Peek("k").has_value());
}

// SPDX-License-Identifier: MIT

// Tests the ways of waiting on a redis::ReadThrough: each gets a hit, a load, an expired value or a
// failure as Get does.

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <ostream>
#include <singleflight/async.hpp>
#include <singleflight/coro.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis_read_through.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(TEST_ASIO)  // Asio was found
#include <asio/bind_executor.hpp>
#include <asio/thread_pool.hpp>
#include <singleflight/asio.hpp>
#endif
#include "caches.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

using Strings = std::vector<std::string>;
using Load = std::function<std::string()>;

enum class Way : unsigned char {
  kGet,
  kDoAsync,
  kDoThen,
  kCoDo,
  kDoMany,
  kCoDoMany,
  kDoManyAsync,
#if defined(TEST_ASIO)
  kAsyncDo,
#endif
};
#if defined(TEST_ASIO)
constexpr auto kLast = Way::kAsyncDo;
#else
constexpr auto kLast = Way::kDoManyAsync;
#endif

std::ostream& operator<<(std::ostream& out, Way way) {
  constexpr std::array kNames = {"Get",    "DoAsync",  "DoThen",      "CoDo",
                                 "DoMany", "CoDoMany", "DoManyAsync", "AsyncDo"};
  return out << kNames[static_cast<std::size_t>(way)];
}

// Runs the rest of the test once for each way.
Way EachWay() {
  const int number = GENERATE(range(0, static_cast<int>(kLast) + 1));
  return static_cast<Way>(number);
}

// One ask, for one key. The work of those that need an executor runs on `worker`.
class Ask {
 public:
  Ask(Way way, CachePages& pages, const std::string& key, Load load, TaskThread& worker)
      : worker_(worker) {
    const auto executor = worker.Executor();
    const auto batch = [load](std::span<const std::string> keys) {
      Strings values;
      for (std::size_t i = 0; i < keys.size(); ++i) values.push_back(load());
      return values;
    };
    switch (way) {
      case Way::kGet:
        thread_.emplace([this, &pages, key, load] { Tell([&] { return pages.Get(key, load); }); });
        return;
      case Way::kDoAsync:
        future_.emplace(DoAsync(pages, key, load, executor));
        return;
      case Way::kDoThen:
        caller_.emplace(DoThen(pages, key, load, executor, [this](KeyResult<std::string> result) {
          Tell([&] { return std::move(result).result(); });
        }));
        return;
      case Way::kCoDo:
        Await(*this, pages, key, load);
        return;
      case Way::kDoMany:
        thread_.emplace([this, &pages, key, batch] {
          Tell([&] { return DoMany(pages, Strings{key}, batch).at(0).result(); });
        });
        return;
      case Way::kCoDoMany:
        AwaitMany(*this, pages, key, batch);
        return;
      case Way::kDoManyAsync:
        future_.emplace(std::move(DoManyAsync(pages, Strings{key}, batch, executor).at(0)));
        return;
#if defined(TEST_ASIO)
      case Way::kAsyncDo:
        AsyncDo(pages, key, asio::bind_executor(pool_.get_executor(), load),
                asio::bind_executor(pool_.get_executor(),
                                    [this](std::exception_ptr error, Result<std::string> result) {
                                      Tell([&] {
                                        if (error != nullptr) std::rethrow_exception(error);
                                        return std::move(result);
                                      });
                                    }));
        return;
#endif
    }
  }
  Ask(const Ask&) = delete;
  Ask& operator=(const Ask&) = delete;

  const Outcome<std::string>& Join() {
    if (!outcome_) {
      outcome_ = future_ ? Keep([&] { return future_->Get(); }) : told_.get_future().get();
    }
    return *outcome_;
  }

 private:
  template <class Get>
  void Tell(Get&& get) {
    told_.set_value(Keep(get));
  }
  static FireAndForget Await(Ask& self, CachePages& pages, std::string key, Load load) {
    std::exception_ptr error;
    std::optional<Result<std::string>> result;
    try {
      result.emplace(co_await CoDo(pages, key, load, self.worker_.Executor()));
    } catch (...) {
      error = std::current_exception();
    }
    self.TellOr(error, result);
  }
  template <class Batch>
  static FireAndForget AwaitMany(Ask& self, CachePages& pages, std::string key, Batch batch) {
    std::exception_ptr error;
    std::optional<Result<std::string>> result;
    try {
      const Strings keys = {key};
      auto results = co_await CoDoMany(pages, keys, batch, self.worker_.Executor());
      result.emplace(results.at(0).result());
    } catch (...) {
      error = std::current_exception();
    }
    self.TellOr(error, result);
  }
  void TellOr(const std::exception_ptr& error, std::optional<Result<std::string>>& result) {
    Tell([&] {
      if (error != nullptr) std::rethrow_exception(error);
      return std::move(*result);
    });
  }

  TaskThread& worker_;
  std::promise<Outcome<std::string>> told_;
  std::optional<Outcome<std::string>> outcome_;
  std::optional<Future<std::string>> future_;
  std::optional<singleflight::Caller> caller_;
#if defined(TEST_ASIO)
  asio::thread_pool pool_{2};  // one thread may be held by the load
#endif
  std::optional<JoiningThread> thread_;  // declared last: it uses the others
};

// The number of scripts that the server has run: one for each command of the cache.
long long Scripts(const RedisServer& server) {
  return Calls(server, "evalsha") + Calls(server, "eval");
}

}  // namespace

TEST_CASE("redis::ReadThrough: every way of waiting loads a value that is not there, and puts it") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  Ask ask(
      way, here, "k", [] { return "v"s; }, worker);
  CHECK(ask.Join().value == "v");
  CHECK(ask.Join().role == Role::kLeader);
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", NeverRun) == "v");
  CHECK(here.GetStats().loads == 1);
}

TEST_CASE("redis::ReadThrough: every way of waiting gets a value that is there, and runs nothing") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker;
  PageOptions options = LongTtl();
  if (GENERATE(false, true)) options.local_ttl = 1h;
  CachePages here(server, options), there(server, LongTtl());
  there.Put("k", "v");
  if (options.local_ttl) AwaitListening(here);
  for (int i = 0; i < 3; ++i) {
    Ask ask(way, here, "k", NeverRun, worker);
    CHECK(ask.Join().value == "v");
    CHECK_FALSE(ask.Join().shared);
  }
  CHECK(here.GetStats().hits == (options.local_ttl ? 1 : 3));
  CHECK(here.GetStats().local_hits == (options.local_ttl ? 2 : 0));
  CHECK(here.GetStats().loads == 0);
}

TEST_CASE("redis::ReadThrough: callers of every way share one load with another process") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker, other;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  HeldLoad load("v");
  Ask leads(way, here, "k", load.Load(), worker);
  load.AwaitBegun();
  Ask beside(way, here, "k", NeverRun, other);
  Ask elsewhere(way, there, "k", NeverRun, other);
  AwaitCacheFollowers(server, "k", 2);
  load.Finish();
  CHECK(leads.Join().value == "v");
  CHECK(beside.Join().value == "v");
  CHECK(elsewhere.Join().value == "v");
  CHECK(beside.Join().role == Role::kFollower);
  CHECK(load.Runs() == 1);
  // If it asks again, because its subscription has just begun, it may find the value itself.
  const bool is_told = there.GetStats().fleet.remote == 1;
  CHECK((elsewhere.Join().role == Role::kFollower) == is_told);
  CHECK(elsewhere.Join().shared == is_told);
  CHECK((is_told || there.GetStats().hits == 1));
}

TEST_CASE(
    "redis::ReadThrough: every way gets an expired value at once, and one load refreshes it") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker, other;
  CachePages here(server, Stale()), there(server, Stale());
  PutExpired(server, here, "k");
  HeldLoad load("new");
  Ask ask(way, here, "k", load.Load(), worker);
  CHECK(ask.Join().value == "old");  // while the load is still held, or has not begun
  load.AwaitBegun();
  Ask beside(way, here, "k", NeverRun, other);
  Ask elsewhere(way, there, "k", NeverRun, other);
  CHECK(beside.Join().value == "old");
  CHECK(elsewhere.Join().value == "old");
  load.Finish();
  AwaitNoLease(server, "k");
  Ask after(way, there, "k", NeverRun, other);
  CHECK(after.Join().value == "new");
  CHECK(load.Runs() == 1);
}

TEST_CASE("redis::ReadThrough: every way waits for soft_timeout, and no longer") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker, other;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages patient(server, options);
  options.soft_timeout = 1ms;
  CachePages impatient(server, options);
  PutExpired(server, patient, "k");
  HeldLoad load("new");
  Ask ask(way, patient, "k", load.Load(), worker);
  load.AwaitBegun();
  Ask elsewhere(way, impatient, "k", NeverRun, other);
  CHECK(elsewhere.Join().value == "old");
  load.Finish();
  CHECK(ask.Join().value == "new");
}

TEST_CASE("redis::ReadThrough: what a load throws reaches every way, here and in another process") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker, other;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  HeldLoad load(HeldLoad::And([]() -> std::string { throw std::runtime_error("why"); }));
  Ask leads(way, here, "k", load.Load(), worker);
  load.AwaitBegun();
  Ask elsewhere(way, there, "k", NeverRun, other);
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(leads.Join().message == "why");
  CHECK(elsewhere.Join().message == "why");
  AwaitNoLease(server, "k");
  Ask next(
      way, there, "k", [] { return "v"s; }, worker);
  CHECK(next.Join().value == "v");
}

TEST_CASE("redis::ReadThrough: if the loading process dies, a caller of every way takes over") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  TaskThread worker, other;
  PageOptions options = LongTtl();
  CachePages dies(server, options), lives(server, options);
  HeldLoad load("late");
  Ask leads(way, dies, "k", load.Load(), worker);
  load.AwaitBegun();
  Ask elsewhere(
      way, lives, "k", [] { return "v"s; }, other);
  AwaitCacheFollowers(server, "k", 1);
  // As if the lease had expired. The follower looks at it when its time should be over.
  const std::string lease = CacheName(server, "k", "lease");
  const std::string inbox = InboxesAt(server, lease).at(0);
  const std::string token = server.Ask("HGET", lease, "token").text;
  const std::string fence = server.Ask("HGET", lease, "fence").text;
  server.Ask("DEL", lease);
  server.Ask("PUBLISH", inbox, token + "a" + fence);
  CHECK(elsewhere.Join().value == "v");
  CHECK(lives.GetStats().fleet.takeovers == 1);
  AwaitNoLease(server, "k");
  load.Finish();
  CHECK(leads.Join().value == "late");
  CHECK(lives.Peek("k") == "v");  // what is late is not put
}

// ---- Where a refresh runs

TEST_CASE("redis::ReadThrough: a refresh runs on the executor that its caller gave") {
  const RedisServer server;
  TaskThread worker;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  std::promise<std::thread::id> ran_on;
  const auto load = [&] {
    ran_on.set_value(std::this_thread::get_id());
    return "new"s;
  };
  SECTION("DoAsync") { CHECK(*DoAsync(pages, "k", load, worker.Executor()).Get() == "old"); }
  SECTION("DoThen") {
    std::promise<std::string> told;
    const singleflight::Caller caller =
        DoThen(pages, "k", load, worker.Executor(),
               [&](KeyResult<std::string> result) { told.set_value(*result); });
    CHECK(told.get_future().get() == "old");
  }
  SECTION("DoManyAsync") {
    auto futures = DoManyAsync(
        pages, Strings{"k"}, [&](auto) { return Strings{load()}; }, worker.Executor());
    CHECK(*futures.at(0).Get() == "old");
  }
  CHECK(ran_on.get_future().get() == worker.Id());
}

TEST_CASE("redis::ReadThrough: a refresh for a blocking caller runs on the cache's executor") {
  const RedisServer server;
  TaskThread worker;
  PageOptions options = Stale();
  options.fleet.executor = worker.Executor();
  CachePages pages(server, options);
  PutExpired(server, pages, "k");
  std::promise<std::thread::id> ran_on;
  const auto load = [&] {
    ran_on.set_value(std::this_thread::get_id());
    return "new"s;
  };
  SECTION("Get") { CHECK(*pages.Get("k", load) == "old"); }
  SECTION("DoMany") {
    CHECK(*DoMany(pages, Strings{"k"}, [&](auto) { return Strings{load()}; }).at(0) == "old");
  }
  CHECK(ran_on.get_future().get() == worker.Id());
}

TEST_CASE("redis::ReadThrough: an executor that drops or refuses a refresh fails no caller") {
  const RedisServer server;
  PageOptions options = Stale();
  const bool throws = GENERATE(false, true);
  int tasks = 0;
  options.fleet.executor = [&](std::function<void()>) {
    ++tasks;
    if (throws) throw std::runtime_error("no more tasks");
  };
  CachePages here(server, options), there(server, Stale());
  PutExpired(server, here, "k");
  CHECK(*here.Get("k", NeverRun) == "old");
  AwaitNoLease(server, "k");  // others may load
  CHECK(*here.Get("k", NeverRun) == "old");
  AwaitNoLease(server, "k");
  CHECK(tasks == 2);
  HeldLoad load("new");
  load.Finish();
  CHECK(*there.Get("k", load.Load()) == "old");
  load.AwaitBegun();
  AwaitNoLease(server, "k");
  CHECK(*here.Get("k", NeverRun) == "new");
}

TEST_CASE("redis::ReadThrough: the destructor asks a refresh to stop, and waits for it") {
  const RedisServer server;
  std::promise<void> begun;
  std::atomic<bool> ended = false;
  {
    CachePages pages(server, Stale());
    PutExpired(server, pages, "k");
    CHECK(*pages.Get("k", [&begun, &ended](StopToken stop) {
      begun.set_value();
      Await([&] { return stop.stop_requested(); });
      ended = true;
      return "new"s;
    }) == "old");
    begun.get_future().wait();
  }
  CHECK(ended);
}

// ---- Leaving

TEST_CASE("redis::ReadThrough: a caller whose timeout passes or that is stopped leaves the load") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  HeldLoad load("v");
  test::Caller loading([&] { return here.Get("k", load.Load()); });
  load.AwaitBegun();
  CHECK((ErrorOf([&] { return there.Get("k", NeverRun, {.timeout = 1ms}); }) ==
         std::errc::timed_out));
  StopSource stop;
  test::Caller stopped([&] { return there.Get("k", NeverRun, {.stop = stop.get_token()}); });
  AwaitCacheFollowers(server, "k", 1);
  stop.request_stop();
  CHECK((stopped.Join().error == std::errc::operation_canceled));
  load.Finish();
  CHECK(loading.Join().value == "v");
  CHECK(*there.Get("k", NeverRun) == "v");
}

TEST_CASE("redis::ReadThrough: a caller that was stopped before still gets a local value") {
  const RedisServer server;
  PageOptions options = LongTtl();
  options.local_ttl = 1h;
  CachePages pages(server, options);
  AwaitListening(pages);
  REQUIRE(*pages.Get("k", [] { return "v"s; }) == "v");
  StopSource stop;
  stop.request_stop();
  CHECK(*pages.Get("k", NeverRun, {.stop = stop.get_token()}) == "v");
  CHECK((ErrorOf([&] { return pages.Get("other", NeverRun, {.stop = stop.get_token()}); }) ==
         std::errc::operation_canceled));
}

TEST_CASE("redis::ReadThrough: a load that takes a stop token stops when its last caller leaves") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  std::promise<void> begun, ended;
  {
    auto future = DoAsync(here, "k", [&](StopToken stop) {
      begun.set_value();
      Await([&] { return stop.stop_requested(); });
      ended.set_value();
      return "stopped"s;
    });
    begun.get_future().wait();
  }
  ended.get_future().wait();
  AwaitNoLease(server, "k");
  CHECK(*there.Get("k", [] { return "v"s; }) == "v");
  CHECK(*here.Get("k", NeverRun) == "v");
}

TEST_CASE("redis::ReadThrough: a load that takes no token goes on without callers, and is put") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  HeldLoad load("v");
  {
    auto future = DoAsync(here, "k", load.Load());
    load.AwaitBegun();
  }
  test::Caller following([&] { return there.Get("k", NeverRun); });
  AwaitCacheFollowers(server, "k", 1);
  load.Finish();
  CHECK(following.Join().value == "v");
  CHECK(*there.Get("k", NeverRun) == "v");
}

TEST_CASE("redis::ReadThrough: a caller that waits for a refresh may leave it") {
  const RedisServer server;
  PageOptions options = Stale();
  options.soft_timeout = 1h;
  CachePages pages(server, options);
  PutExpired(server, pages, "k");
  HeldLoad load("new");
  const auto batch = [run = load.Load()](auto) { return Strings{run()}; };
  SECTION("timeout of Get") {
    do {  // it may be over before the server has answered
      CHECK((ErrorOf([&] { return pages.Get("k", load.Load(), {.timeout = 50ms}); }) ==
             std::errc::timed_out));
    } while (load.Runs() == 0);
  }
  SECTION("stop of Get") {
    StopSource stop;
    test::Caller caller([&] { return pages.Get("k", load.Load(), {.stop = stop.get_token()}); });
    load.AwaitBegun();
    stop.request_stop();
    CHECK((caller.Join().error == std::errc::operation_canceled));
  }
  SECTION("timeout of DoMany") {
    do {
      CHECK((ErrorOf([&] {
               return DoMany(pages, Strings{"k"}, batch, {.timeout = 50ms}).at(0).result();
             }) == std::errc::timed_out));
    } while (load.Runs() == 0);
  }
  SECTION("stop of DoMany") {
    StopSource stop;
    test::Caller caller([&] {
      return DoMany(pages, Strings{"k"}, batch, {.stop = stop.get_token()}).at(0).result();
    });
    load.AwaitBegun();
    stop.request_stop();
    CHECK((caller.Join().error == std::errc::operation_canceled));
  }
  load.AwaitBegun();  // it goes on
  load.Finish();
  AwaitNoLease(server, "k");
  CHECK(*pages.Get("k", NeverRun) == "new");
}

TEST_CASE(
    "redis::ReadThrough: nobody hangs if the value is unreadable and its refresh is dropped") {
  const Way way = EachWay();
  CAPTURE(way);
  const RedisServer server;
  std::vector<std::function<void()>> dropped;
  CachePages pages(server, Stale());
  PutExpired(server, pages, "k");
  const std::string name = CacheName(server, "k", "value");
  server.Ask("SETRANGE", name, std::to_string(server.Get(name).value().size() - 1), "#");
  const auto drop = [](const auto&) {};
  switch (way) {
    case Way::kDoAsync: {
      auto future = DoAsync(pages, "k", NeverRun, drop);
      CHECK((ErrorOf([&] { return future.Get(); }) == std::errc::owner_dead));
      return;
    }
    case Way::kDoThen: {
      std::promise<std::exception_ptr> told;
      const auto caller = DoThen(pages, "k", NeverRun, drop, [&](KeyResult<std::string> result) {
        told.set_value(result.error());
      });
      CHECK(told.get_future().get() != nullptr);
      return;
    }
    default: {  // a caller that blocks does the work itself
      TaskThread worker;
      Ask ask(
          way, pages, "k", [] { return "v"s; }, worker);
      INFO(ask.Join().message << static_cast<int>(ask.Join().error.value_or(std::errc())));
      CHECK(ask.Join().value == "v");
      return;
    }
  }
}

// ---- Batches

TEST_CASE("redis::ReadThrough: DoMany asks once for each key, and loads those that are missing") {
  const RedisServer server;
  CachePages here(server, LongTtl()), there(server, LongTtl());
  for (const char* key : {"a", "c"}) there.Put(key, key + "!"s);
  REQUIRE(*here.Get("z", [] { return "z"s; }) == "z");  // all scripts are known to the server
  AwaitNoLease(server, "z");
  server.Ask("CONFIG", "RESETSTAT");
  std::vector<Strings> runs;
  const auto load = [&](std::span<const std::string> keys) {
    runs.emplace_back(keys.begin(), keys.end());
    Strings values;
    for (const std::string& key : keys) values.push_back(key + "?");
    return values;
  };
  const Strings keys = {"a", "b", "c", "d"};
  Strings values;
  for (const auto& each : DoMany(here, keys, load)) values.push_back(*each);
  CHECK(values == Strings{"a!", "b?", "c!", "d?"});
  CHECK(runs == std::vector<Strings>{{"b", "d"}});
  AwaitNoLease(server, "b");
  AwaitNoLease(server, "d");
  CHECK(Scripts(server) == 6);  // four questions, two outcomes
  for (const auto& each : DoMany(there, keys, [](auto) -> Strings { throw 7; })) {
    CHECK(each.has_value());
  }
  CHECK(Scripts(server) == 10);
}

TEST_CASE("redis::ReadThrough: DoMany asks for all keys before the first answer has come") {
  RedisServer server;
  RedisProxy proxy(server.Socket());
  CachePages pages(LongTimeouts(proxy.Socket()), LongTtl());
  const Strings keys = {"a", "b", "c", "d"};
  for (const std::string& key : keys) pages.Put(key, key + "!");
  const auto sent = [&] {
    std::uint64_t bytes = 0;
    for (std::size_t i = 0; i < proxy.Connections(); ++i)
      bytes += proxy.Bytes(i, RedisProxy::kRequests);
    return bytes;
  };
  for (const std::string& key : keys) REQUIRE(*pages.Get(key, NeverRun) == key + "!");
  // All are expected to be there now, so that the commands are as long as one another.
  const std::uint64_t before = sent();
  REQUIRE(*pages.Get("a", NeverRun) == "a!");
  const std::uint64_t size = sent() - before;
  server.Stop();
  std::vector<KeyResult<std::string>> results;
  JoiningThread thread([&] { results = DoMany(pages, keys, [](auto) -> Strings { throw 7; }); });
  Await([&] { return sent() == before + size + keys.size() * size; });
  server.Continue();
  thread.join();
  REQUIRE(results.size() == keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i) CHECK(*results[i] == keys[i] + "!");
}

TEST_CASE("redis::ReadThrough: DoMany refreshes expired values in the background, by one load") {
  const RedisServer server;
  TaskThread worker;
  PageOptions options = Stale();
  options.fleet.executor = worker.Executor();
  CachePages pages(server, options);
  const Strings keys = {"a", "b"};
  for (const std::string& key : keys) PutExpired(server, pages, key);
  std::atomic<int> runs = 0;
  for (const auto& each : DoMany(pages, keys, [&](std::span<const std::string> stale) {
         ++runs;
         return Strings(stale.size(), "new");
       })) {
    CHECK(*each == "old");
  }
  Await([&] { return pages.Peek("a") == "new" && pages.Peek("b") == "new"; });
  CHECK(runs >= 1);
  CHECK(pages.GetStats().loads == 2);
}

TEST_CASE("redis::ReadThrough: DoMany begins a refresh before it has waited for the other keys") {
  const RedisServer server;
  PageOptions options = Stale();
  if (GENERATE(false, true)) options.soft_timeout = 1h;
  CachePages here(server, options), there(server, options);
  PutExpired(server, here, "stale");
  HeldLoad elsewhere("elsewhere"), refresh("new");
  test::Caller leads([&] { return there.Get("missing", elsewhere.Load()); });
  elsewhere.AwaitBegun();
  test::Caller batch([&] {
    auto results = DoMany(
        here, Strings{"missing", "stale"},
        [&](std::span<const std::string> keys) { return Strings(keys.size(), refresh.Load()()); });
    return Result<std::string>(std::move(results.at(1)).result());
  });
  refresh.AwaitBegun();  // while the other key is still being loaded
  refresh.Finish();
  elsewhere.Finish();
  CHECK(batch.Join().value == (options.soft_timeout ? "new" : "old"));
  CHECK(leads.Join().value == "elsewhere");
}

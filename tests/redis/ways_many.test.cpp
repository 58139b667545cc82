// SPDX-License-Identifier: MIT

// Tests DoMany, CoDoMany and DoManyAsync on a redis::Group.

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <functional>
#include <future>
#include <latch>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <singleflight/async.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "outages.hpp"
#include "proxy.hpp"
#include "server.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

using Strings = std::vector<std::string>;
using Results = std::vector<KeyResult<std::string>>;

// Records the keys of each run of a batch's function, which returns each key with `suffix`.
class Load {
 public:
  explicit Load(std::string suffix = "!") : suffix_(std::move(suffix)) {}

  auto Fn() {
    return [this](std::span<const std::string> keys) { return Run(keys); };
  }
  Strings Run(std::span<const std::string> keys) {
    Strings sorted(keys.begin(), keys.end());
    std::ranges::sort(sorted);
    const std::lock_guard lock(mutex_);
    runs_.push_back(std::move(sorted));
    Strings values;
    for (const std::string& key : keys) values.push_back(key + suffix_);
    return values;
  }
  std::vector<Strings> Runs() const {
    const std::lock_guard lock(mutex_);
    return runs_;
  }

 private:
  const std::string suffix_;
  mutable std::mutex mutex_;
  std::vector<Strings> runs_;  // guarded by mutex_
};

Strings NoBatch(std::span<const std::string>) { throw std::logic_error("fn was run"); }

// The values, or what the errors are.
Strings TextsOf(const Results& results) {
  Strings texts;
  for (const auto& each : results) {
    if (each) {
      texts.push_back(*each);
      continue;
    }
    try {
      std::rethrow_exception(each.error());
    } catch (const std::system_error& error) {
      texts.push_back(error.code() == std::errc::timed_out                       ? "timed out"
                      : error.code() == std::errc::operation_canceled            ? "canceled"
                      : error.code() == std::errc::resource_deadlock_would_occur ? "deadlock"
                      : error.code() == std::errc::owner_dead                    ? "dead"
                                                                                 : error.what());
    } catch (const std::exception& error) {
      texts.push_back(error.what());
    }
  }
  return texts;
}

// The way of asking: each function of a test is run for all of them.
enum class Way : unsigned char { kDoMany, kCoDoMany, kDoManyAsync };

std::ostream& operator<<(std::ostream& out, Way way) {
  constexpr const char* kNames[] = {"DoMany", "CoDoMany", "DoManyAsync"};
  return out << kNames[static_cast<unsigned char>(way)];
}

// A batch in progress.
template <class Fn>
class Batch {
 public:
  Batch(Way way, RedisPages& pages, Strings keys, Fn fn) : fn_(std::move(fn)) {
    switch (way) {
      case Way::kDoMany:
        thread_.emplace([this, &pages, keys] { promise_.set_value(DoMany(pages, keys, fn_)); });
        break;
      case Way::kCoDoMany:
        Ask(*this, pages, std::move(keys));
        break;
      case Way::kDoManyAsync:
        futures_ = DoManyAsync(pages, keys, fn_);
    }
  }

  Strings Get() {
    if (futures_.empty()) return TextsOf(future_.get());
    Results results;
    for (auto& each : futures_) {
      try {
        results.emplace_back(each.Get());
      } catch (...) {
        results.push_back(KeyResult<std::string>::Failure(std::current_exception()));
      }
    }
    return TextsOf(results);
  }

 private:
  static FireAndForget Ask(Batch& self, RedisPages& pages, Strings keys) {
    auto results = co_await CoDoMany(pages, keys, self.fn_);
    self.promise_.set_value(std::move(results));
  }

  Fn fn_;
  std::promise<Results> promise_;
  std::future<Results> future_ = promise_.get_future();
  std::vector<Future<std::string>> futures_;
  std::optional<JoiningThread> thread_;
};

}  // namespace

TEST_CASE("fleet DoMany: one run of fn for all keys, and one value for a key that is given twice") {
  const RedisServer server;
  RedisPages pages(server);
  Load load;
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany);
  CAPTURE(way);
  Batch batch(way, pages, {"a", "b", "a", "c"}, load.Fn());
  CHECK(batch.Get() == Strings{"a!", "b!", "a!", "c!"});
  CHECK(load.Runs() == std::vector<Strings>{{"a", "b", "c"}});
  CHECK(pages.GetStats().executions == 3);
  AwaitNothingOn(server);
}

TEST_CASE("fleet DoManyAsync: one run of fn for all keys, also for those given twice") {
  const RedisServer server;
  RedisPages pages(server);
  Load load;
  Batch batch(Way::kDoManyAsync, pages, {"a", "b", "a"}, load.Fn());
  CHECK(batch.Get() == Strings{"a!", "b!", "a!"});
  CHECK(load.Runs() == std::vector<Strings>{{"a", "b"}});
}

TEST_CASE("fleet DoMany: keys in flight in this process or in another one are followed") {
  const RedisServer server;
  RedisPages here(server), there(server);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  Load load;
  RedisLeader elsewhere(there, "b", "theirs"), beside(here, "c", "ours");
  Batch batch(way, here, {"a", "b", "c"}, load.Fn());
  AwaitFollower(server, "b");
  AwaitCallers(here, "c", 2);
  // Its own key is not kept waiting by those of others.
  Await([&] { return load.Runs().size() == 1; });
  elsewhere.Finish();
  beside.Finish();
  CHECK(batch.Get() == Strings{"a!", "theirs", "ours"});
  CHECK(load.Runs() == std::vector<Strings>{{"a"}});
}

TEST_CASE("fleet DoMany: a key that another process gives up later is loaded in a run of its own") {
  const RedisServer server;
  RedisPages here(server), there(server);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  Load load;
  HeldFn work;
  Future<std::string> leader = DoAsync(there, "b", [&](const StopToken& stop) {
    work.RunUntil(stop);
    return "late"s;
  });
  work.AwaitBegun();
  Batch batch(way, here, {"a", "b"}, load.Fn());
  AwaitFollower(server, "b");
  Await([&] { return load.Runs().size() == 1; });
  leader = {};
  CHECK(batch.Get() == Strings{"a!", "b!"});
  CHECK(load.Runs() == std::vector<Strings>{{"a"}, {"b"}});
}

TEST_CASE("fleet DoMany: overlapping batches of two processes end, in whatever order they ask") {
  const RedisServer server;
  RedisPages here(server), there(server);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  Load load;
  for (int i = 0; i < 20; ++i) {
    const std::string n = std::to_string(i);
    const Strings keys = {"a" + n, "b" + n, "c" + n}, reversed = {"c" + n, "b" + n, "a" + n};
    const auto fn = load.Fn();
    std::latch both(2);
    std::optional<Batch<decltype(fn)>> first, second;
    JoiningThread other([&] {
      both.arrive_and_wait();
      second.emplace(way, there, reversed, fn);
    });
    both.arrive_and_wait();
    first.emplace(way, here, keys, fn);
    CHECK(first->Get() == Strings{"a" + n + "!", "b" + n + "!", "c" + n + "!"});
    Await([&] { return second.has_value(); });
    other = {};
    CHECK(second->Get() == Strings{"c" + n + "!", "b" + n + "!", "a" + n + "!"});
  }
}

TEST_CASE("fleet DoMany: a fn that throws, or returns too few, fails its keys") {
  const RedisServer server;
  RedisPages pages(server);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  const auto throws = [](std::span<const std::string>) -> Strings {
    throw std::runtime_error("no");
  };
  CHECK(Batch(way, pages, {"a", "b"}, throws).Get() == Strings{"no", "no"});
  const auto too_few = [](std::span<const std::string>) -> Strings { return {"one"}; };
  const Strings texts = Batch(way, pages, {"a", "b"}, too_few).Get();
  CHECK(texts != Strings{"one", "one"});
  const auto one_fails = [](std::span<const std::string>) {
    Results results;
    results.push_back(
        KeyResult<std::string>::Failure(std::make_exception_ptr(std::runtime_error("x"))));
    results.push_back(KeyResult<std::string>("v"));
    return results;
  };
  CHECK(Batch(way, pages, {"a", "b"}, one_fails).Get() == Strings{"x", "v"});
  CHECK(pages.GetStats().calls.in_flight == 0);
}

TEST_CASE("fleet DoMany: fn runs on the thread that asks, and never on the event loop otherwise") {
  const RedisServer server;
  RedisPages pages(server);
  std::thread::id ran_on;
  std::atomic<bool> on_loop = true;
  const auto fn = [&](std::span<const std::string> keys) {
    ran_on = std::this_thread::get_id();
    on_loop = IsOnLoop(pages);
    return Strings(keys.begin(), keys.end());
  };
  CHECK(TextsOf(DoMany(pages, Strings{"a"}, fn)) == Strings{"a"});
  CHECK(ran_on == std::this_thread::get_id());
  CHECK(Batch(Way::kDoManyAsync, pages, {"a"}, fn).Get() == Strings{"a"});
  CHECK(ran_on != std::this_thread::get_id());
  CHECK_FALSE(on_loop);
  on_loop = true;
  CHECK(Batch(Way::kCoDoMany, pages, {"a"}, fn).Get() == Strings{"a"});
  CHECK_FALSE(on_loop);
}

TEST_CASE("fleet CoDoMany: fn runs where its executor says, and may be awaited") {
  const RedisServer server;
  TaskThread worker;
  RedisPages pages(server);
  std::thread::id ran_on;
  const auto executor = worker.Executor();
  std::promise<Results> got;
  const auto ask = [&](const auto& fn) -> FireAndForget {
    const Strings keys = {"a", "b"};
    got.set_value(co_await CoDoMany(pages, keys, fn, executor));
  };
  SECTION("plain") {
    ask([&](std::span<const std::string> keys) {
      ran_on = std::this_thread::get_id();
      return Strings(keys.begin(), keys.end());
    });
  }
  SECTION("awaited") {
    ask([&](std::span<const std::string> keys) -> Task<Strings> {
      ran_on = std::this_thread::get_id();
      co_return Strings(keys.begin(), keys.end());
    });
  }
  CHECK(TextsOf(got.get_future().get()) == Strings{"a", "b"});
  CHECK(ran_on == worker.Id());
}

TEST_CASE("fleet DoMany: an executor that throws or drops its task fails the keys") {
  const RedisServer server;
  RedisPages pages(server);
  const auto outcomes = [&](const auto& executor) {
    Results results;
    for (auto& each : DoManyAsync(pages, Strings{"a", "b"}, NoBatch, executor)) {
      try {
        results.emplace_back(each.Get());
      } catch (...) {
        results.push_back(KeyResult<std::string>::Failure(std::current_exception()));
      }
    }
    return TextsOf(results);
  };
  CHECK(outcomes([](const auto&) { throw std::runtime_error("full"); }) == Strings{"full", "full"});
  CHECK(outcomes([](const auto&) {}) == Strings{"dead", "dead"});
  AwaitNothingOn(server);
}

TEST_CASE("fleet DoMany: a timeout leaves the keys of others, and fn still gives its own") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader elsewhere(there, "b", "theirs");
  Load load;
  std::promise<Results> got;
  JoiningThread asks([&] {
    got.set_value(DoMany(here, Strings{"a", "b"}, load.Fn(), {.timeout = 1s}));
  });
  CHECK(TextsOf(got.get_future().get()) == Strings{"a!", "timed out"});
  CHECK(here.Callers("b") == 0);
  CHECK(elsewhere.Finish().value == "theirs");
}

TEST_CASE("fleet DoMany: a timeout takes effect while the server does not answer") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  CHECK(TextsOf(DoMany(pages, Strings{"a", "b"}, NoBatch, {.timeout = 1ms})) ==
        Strings{"timed out", "timed out"});
  CHECK(TextsOf(DoMany(pages, Strings{"a", "b"}, NoBatch, {.timeout = 0ms})) ==
        Strings{"timed out", "timed out"});
  server.Continue();
  AwaitNothingOn(server);
}

TEST_CASE("fleet DoMany: a stop before, while the server is asked, and while fn runs") {
  RedisServer server;
  RedisPages here(server), there(server);
  CHECK(*here.Do("other", [] { return "v"s; }) == "v");
  StopSource stop;
  const CallOptions options{.stop = stop.get_token()};
  SECTION("before") {
    stop.request_stop();
    CHECK(TextsOf(DoMany(here, Strings{"a", "b"}, NoBatch, options)) ==
          Strings{"canceled", "canceled"});
    CHECK(here.GetStats().calls.executions == 1);
  }
  SECTION("while the server is asked") {
    server.Stop();
    JoiningThread stops([&] {
      AwaitCallers(here, "b", 1);
      stop.request_stop();
    });
    CHECK(TextsOf(DoMany(here, Strings{"a", "b"}, NoBatch, options)) ==
          Strings{"canceled", "canceled"});
    server.Continue();
  }
  SECTION("while fn runs, which is asked to stop, and another process takes over") {
    RedisLeader elsewhere(there, "b", "theirs");
    std::promise<void> begun;
    std::promise<Results> got;
    JoiningThread asks([&] {
      got.set_value(DoMany(
          here, Strings{"a", "b"},
          [&](std::span<const std::string> keys, const StopToken& token) {
            begun.set_value();
            Await([&] { return token.stop_requested(); });
            return Strings(keys.begin(), keys.end());
          },
          options));
    });
    begun.get_future().wait();
    Future<std::string> other = DoAsync(there, "a", [] { return "taken over"s; });
    AwaitFollower(server, "a");
    stop.request_stop();
    CHECK(*other.Get() == "taken over");
    CHECK(TextsOf(got.get_future().get()) == Strings{"canceled", "canceled"});
    CHECK(here.Callers("b") == 0);
  }
  Await([&] { return here.GetStats().calls.in_flight == 0; });
}

TEST_CASE("fleet CoDoMany: a stop cancels what has no outcome, and a frame may be destroyed") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader elsewhere(there, "b", "theirs");
  Load load;
  const auto fn = load.Fn();
  const Strings keys = {"a", "b"};
  StopSource stop;
  std::promise<Results> got;
  const auto ask = [&](StopToken token) -> FireAndForget {
    got.set_value(co_await CoDoMany(here, keys, fn, token));
  };
  ask(stop.get_token());
  const auto ask_for_frame = [&]() -> Routine {
    static_cast<void>(co_await CoDoMany(here, keys, fn));
  };
  Routine frame = ask_for_frame();
  AwaitFollower(server, "b");
  Await([&] { return here.Callers("b") == 2 && here.Callers("a") == 0; });
  frame.Destroy();
  CHECK(here.Callers("b") == 1);
  stop.request_stop();
  CHECK(TextsOf(got.get_future().get()) == Strings{"a!", "canceled"});
  CHECK(here.Callers("b") == 0);
}

TEST_CASE(
    "fleet DoManyAsync: a Future that is destroyed leaves its key, and fn stops when all are") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::promise<void> begun;
  const auto fn = [&](std::span<const std::string> keys, const StopToken& token) {
    begun.set_value();
    Await([&] { return token.stop_requested(); });
    return Strings(keys.begin(), keys.end());
  };
  std::vector<Future<std::string>> pages = DoManyAsync(here, Strings{"a", "b"}, fn);
  begun.get_future().wait();
  Future<std::string> other = DoAsync(there, "a", [] { return "taken over"s; });
  AwaitFollower(server, "a");
  pages[1] = {};
  CHECK(here.Callers("a") == 1);
  pages.clear();
  CHECK(*other.Get() == "taken over");
}

TEST_CASE(
    "fleet DoMany: with kRetry keys that failed elsewhere are asked for again, its own are not") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader elsewhere(there, "b",
                        [](const auto&) -> std::string { throw std::runtime_error("no"); });
  std::atomic<int> runs_of_a = 0, runs_of_b = 0;
  const auto fn = [&](std::span<const std::string> keys) -> Strings {
    for (const std::string& key : keys) ++(key == "a" ? runs_of_a : runs_of_b);
    if (runs_of_a == 1 && runs_of_b == 0) throw std::runtime_error("own");
    return Strings(keys.size(), "second");
  };
  std::promise<Results> got;
  JoiningThread asks([&] {
    got.set_value(DoMany(here, Strings{"a", "b"}, fn, {.on_failure = OnFailure::kRetry}));
  });
  AwaitFollower(server, "b");
  Await([&] { return runs_of_a == 1; });
  elsewhere.Finish();
  CHECK(TextsOf(got.get_future().get()) == Strings{"own", "second"});
  CHECK(runs_of_a == 1);
  CHECK(runs_of_b == 1);
}

TEST_CASE("fleet DoMany: if the first batch leaves before it leads, the next caller has the work") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  Load load;
  StopSource stop;
  std::promise<Results> got;
  JoiningThread leaves([&] {
    got.set_value(DoMany(pages, Strings{"a", "b"}, NoBatch, {.stop = stop.get_token()}));
  });
  AwaitCallers(pages, "b", 1);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  Batch stays(way, pages, {"b", "a"}, load.Fn());
  AwaitCallers(pages, "a", 2);
  stop.request_stop();
  CHECK(TextsOf(got.get_future().get()) == Strings{"canceled", "canceled"});
  server.Continue();
  CHECK(stays.Get() == Strings{"b!", "a!"});
  CHECK(load.Runs() == std::vector<Strings>{{"a", "b"}});
}

TEST_CASE(
    "fleet DoMany: keys that a batch takes over run together, though their leads come apart") {
  RedisServer server;
  RedisProxy proxy(server.Socket());
  RedisPages pages(LongTimeouts(proxy.Socket()));
  AwaitSubscribed(server, pages);
  AwaitAnswers(pages);
  server.Stop();
  Load load;
  StopSource stop;
  std::promise<Results> got;
  JoiningThread leaves([&] {
    got.set_value(DoMany(pages, Strings{"a", "b"}, NoBatch, {.stop = stop.get_token()}));
  });
  AwaitCallers(pages, "b", 1);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  Batch stays(way, pages, {"b", "a"}, load.Fn());
  AwaitCallers(pages, "a", 2);
  stop.request_stop();
  CHECK(TextsOf(got.get_future().get()) == Strings{"canceled", "canceled"});

  // The first answer comes, and the second one is held.
  const std::uint64_t executions = pages.GetStats().executions;
  constexpr std::string_view kAnswer = "*2\r\n$4\r\nlead\r\n$16\r\n1234567890123456\r\n";
  proxy.HoldAt({RedisProxy::kReplies, proxy.Bytes(0, RedisProxy::kReplies) + kAnswer.size(), 0});
  server.Continue();
  Await([&] { return pages.GetStats().executions == executions + 1; });
  LetOthersRun(1000);
  CHECK(load.Runs().empty());
  proxy.Release();
  CHECK(stays.Get() == Strings{"b!", "a!"});
  CHECK(load.Runs() == std::vector<Strings>{{"a", "b"}});
}

TEST_CASE(
    "fleet DoMany: keys that other callers of the process were first to ask do not hold it up") {
  RedisServer server;
  RedisPages pages(server);
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  server.Stop();
  HeldFn work;
  test::Caller first([&] {
    return pages.Do("b", [&] {
      work.Run();
      return "first"s;
    });
  });
  AwaitCallers(pages, "b", 1);
  Load load;
  Batch batch(way, pages, {"a", "b"}, load.Fn());
  AwaitCallers(pages, "b", 2);
  server.Continue();
  Await([&] { return load.Runs().size() == 1; });  // `first` is inside its function
  work.Finish();
  // `first` has joined before, but the batch may be the first to offer to do the work.
  const bool first_leads = load.Runs() == std::vector<Strings>{{"a"}};
  CHECK((first_leads || load.Runs() == std::vector<Strings>{{"a", "b"}}));
  CHECK(batch.Get() == Strings{"a!", first_leads ? "first" : "b!"});
}

TEST_CASE("fleet DoMany: a fn that asks for its own keys gets a deadlock, not a hang") {
  const RedisServer server;
  RedisPages pages(server);
  const auto fn = [&](std::span<const std::string> keys) {
    return TextsOf(DoMany(pages, Strings(keys.begin(), keys.end()), NoBatch));
  };
  CHECK(TextsOf(DoMany(pages, Strings{"a", "b"}, fn)) == Strings{"deadlock", "deadlock"});
  CHECK(Batch(Way::kDoManyAsync, pages, {"a", "b"}, fn).Get() == Strings{"deadlock", "deadlock"});
  const auto by_do = [&](std::span<const std::string>) -> std::map<std::string, std::string> {
    return {{"a", *pages.Do("b", NeverRun)}, {"b", "v"}};
  };
  CHECK(TextsOf(DoMany(pages, Strings{"a", "b"}, by_do)) == Strings{"deadlock", "deadlock"});
}

TEST_CASE("fleet DoMany: a limit refuses its keys one by one") {
  const RedisServer server;
  RedisPages pages(server, {.group = {.max_callers_per_call = 1}});
  RedisLeader beside(pages, "b", "ours");
  Load load;
  const auto way = GENERATE(Way::kDoMany, Way::kCoDoMany, Way::kDoManyAsync);
  CAPTURE(way);
  const Strings texts = Batch(way, pages, {"a", "b"}, load.Fn()).Get();
  CHECK(texts[0] == "a!");
  CHECK(texts[1].find("max_callers_per_call") != std::string::npos);
}

TEST_CASE("fleet DoMany: a thread that is cancelled while it waits or runs fn holds nobody up") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::promise<void> begun;
  SECTION("inside fn") {
    CancellableThread thread([&] {
      static_cast<void>(
          DoMany(here, Strings{"a", "b"}, [&](std::span<const std::string>) -> Strings {
            begun.set_value();
            for (;;) pthread_testcancel();
          }));
    });
    begun.get_future().wait();
    Future<std::string> other = DoAsync(there, "a", [] { return "taken over"s; });
    Future<std::string> beside = DoAsync(here, "b", NeverRun);
    AwaitFollower(server, "a");
    thread.Cancel();
    CHECK(thread.JoinWasUnwound());
    CHECK(*other.Get() == "taken over");
    CHECK(ErrorOf([&] { return beside.Get(); }) == std::errc::owner_dead);
  }
  SECTION("inside fn, after it was stopped") {
    RedisLeader elsewhere(there, "b", "theirs");
    StopSource stop;
    CancellableThread thread([&] {
      static_cast<void>(DoMany(here, Strings{"a", "b"},
                               [&](std::span<const std::string>) -> Strings {
                                 begun.set_value();
                                 for (;;) pthread_testcancel();
                               },
                               {.stop = stop.get_token()}));
    });
    begun.get_future().wait();
    stop.request_stop();
    CHECK(here.Callers("a") + here.Callers("b") == 0);
    thread.Cancel();
    CHECK(thread.JoinWasUnwound());
  }
  SECTION("while it follows") {
    RedisLeader elsewhere(there, "b", "theirs");
    CancellableThread thread([&] { static_cast<void>(DoMany(here, Strings{"b"}, NoBatch)); });
    AwaitFollower(server, "b");
    thread.Cancel();
    CHECK(thread.JoinWasUnwound());
    CHECK(here.Callers("b") == 0);
  }
}

TEST_CASE("fleet DoMany: a group that is destroyed cancels the futures of a batch") {
  const RedisServer server;
  RedisPages there(server);
  auto here = std::make_unique<RedisPages>(server);
  RedisLeader elsewhere(there, "b", "theirs");
  Load load;
  Batch batch(Way::kDoManyAsync, *here, {"a", "b"}, load.Fn());
  AwaitFollower(server, "b");
  Await([&] { return load.Runs().size() == 1; });
  here = nullptr;
  CHECK(batch.Get() == Strings{"a!", "canceled"});
}

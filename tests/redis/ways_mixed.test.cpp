// SPDX-License-Identifier: MIT

// Tests that every way of waiting on a redis::Group is a caller of one and the same call, in one
// process and across two.

#if defined(TEST_ASIO)  // Asio was found
#include <asio/bind_cancellation_slot.hpp>
#include <asio/bind_executor.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/thread_pool.hpp>
#include <singleflight/asio.hpp>
#endif

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <future>
#include <latch>
#include <memory>
#include <optional>
#include <random>
#include <singleflight/async.hpp>
#include <singleflight/coro.hpp>
#include <singleflight/many.hpp>
#include <singleflight/redis.hpp>
#include <span>
#include <stdexcept>
#include <string>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "server.hpp"
#include "support/catch.hpp"
#include "support/coroutines.hpp"
#include "support/support.hpp"
#include "ways.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

using Page = Outcome<std::string>;
using Strings = std::vector<std::string>;

enum class Way : unsigned char {
  kDo,
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

std::ostream& operator<<(std::ostream& out, Way way) {
  constexpr const char* kNames[] = {"Do",     "DoAsync",  "DoThen",      "CoDo",
                                    "DoMany", "CoDoMany", "DoManyAsync", "AsyncDo"};
  return out << kNames[static_cast<unsigned char>(way)];
}

constexpr std::array kWays = {
    Way::kDo,      Way::kDoAsync,  Way::kDoThen,      Way::kCoDo,
    Way::kDoMany,  Way::kCoDoMany, Way::kDoManyAsync,
#if defined(TEST_ASIO)
    Way::kAsyncDo,
#endif
};

// The outcome of a KeyResult.
Page PageOf(KeyResult<std::string> result) {
  return Keep([&]() -> Result<std::string> {
    if (!result) std::rethrow_exception(result.error());
    return std::move(result).result();
  });
}

// One caller of any kind, which asks for one key.
class Asking {
 public:
  virtual ~Asking() = default;
  virtual Page Get() = 0;
  // Leaves, unless the call has landed. Then Get is not called.
  virtual void Leave() = 0;
};

template <class Fn>
auto BatchOf(Fn fn) {
  if constexpr (std::is_invocable_v<Fn>) {
    return [fn](std::span<const std::string> keys) { return Strings(keys.size(), fn()); };
  } else {
    return [fn](std::span<const std::string> keys, const StopToken& stop) {
      return Strings(keys.size(), fn(stop));
    };
  }
}

// On a thread of its own: Do and DoMany.
class BlockingAsking final : public Asking {
 public:
  template <class Ask>
  explicit BlockingAsking(Ask ask)
      : thread_([this, ask] { page_.set_value(ask(CallOptions{.stop = stop_.get_token()})); }) {}
  Page Get() override { return page_.get_future().get(); }
  void Leave() override { stop_.request_stop(); }

 private:
  StopSource stop_;
  std::promise<Page> page_;
  JoiningThread thread_;
};

// By a Future: DoAsync and DoManyAsync.
class FutureAsking final : public Asking {
 public:
  explicit FutureAsking(Future<std::string> future) : future_(std::move(future)) {}
  Page Get() override {
    return Keep([this] { return future_.Get(); });
  }
  void Leave() override { future_ = {}; }

 private:
  Future<std::string> future_;
};

class ThenAsking final : public Asking {
 public:
  template <class Fn>
  ThenAsking(RedisPages& pages, const std::string& key, Fn fn) {
    DoThen(caller_, pages, key, fn, NewThread(),
           [this](KeyResult<std::string> result) { page_.set_value(PageOf(std::move(result))); });
  }
  Page Get() override { return page_.get_future().get(); }
  void Leave() override { caller_.Leave(); }

 private:
  std::promise<Page> page_;
  singleflight::Caller caller_;
};

// In a coroutine: CoDo and CoDoMany.
class CoroutineAsking final : public Asking {
 public:
  // `ask(stop)` returns what is awaited, and `read(what that gives)` a Page.
  template <class Ask, class Read>
  CoroutineAsking(Ask ask, Read read) {
    Run(page_, stop_.get_token(), std::move(ask), std::move(read));
  }
  Page Get() override { return page_->get_future().get(); }
  void Leave() override { stop_.request_stop(); }

 private:
  using Promise = std::shared_ptr<std::promise<Page>>;

  template <class Ask, class Read>
  static FireAndForget Run(Promise promise, StopToken stop, Ask ask, Read read) {
    Page page;
    try {
      page = read(co_await ask(stop));
    } catch (const std::system_error& error) {
      page.error = static_cast<std::errc>(error.code().value());
    } catch (const std::exception& error) {
      page.message = error.what();
    }
    promise->set_value(std::move(page));
  }

  StopSource stop_;
  const Promise page_ = std::make_shared<std::promise<Page>>();
};

#if defined(TEST_ASIO)
// Runs functions until the program exits: they may outlive their callers.
asio::thread_pool& Pool() {
  static auto& pool = *new asio::thread_pool(2);
  return pool;
}

// On a context that one thread runs.
class AsioAsking final : public Asking {
 public:
  template <class Fn>
  AsioAsking(RedisPages& pages, const std::string& key, Fn fn) {
    const auto handler = [this](const std::exception_ptr& error, Result<std::string> result) {
      page_.set_value(Keep([&]() -> Result<std::string> {
        if (error != nullptr) std::rethrow_exception(error);
        return std::move(result);
      }));
    };
    AsyncDo(pages, key, asio::bind_executor(Pool().get_executor(), fn),
            asio::bind_executor(context_, asio::bind_cancellation_slot(cancel_.slot(), handler)));
    thread_.emplace([this] { context_.run(); });
  }
  Page Get() override { return page_.get_future().get(); }
  void Leave() override {
    asio::post(context_, [this] { cancel_.emit(asio::cancellation_type::terminal); });
  }

 private:
  asio::io_context context_;
  asio::cancellation_signal cancel_;
  std::promise<Page> page_;
  std::optional<JoiningThread> thread_;
};
#endif

template <class Fn>
std::unique_ptr<Asking> AskWith(Way way, RedisPages& pages, const std::string& key, Fn fn) {
  const auto batch = BatchOf(fn);
  const Strings keys = {key};
  const auto only = [](std::vector<KeyResult<std::string>> results) {
    return PageOf(std::move(results.at(0)));
  };
  switch (way) {
    case Way::kDo:
      return std::make_unique<BlockingAsking>([&pages, key, fn](const CallOptions& options) {
        return Keep([&] { return pages.Do(key, fn, options); });
      });
    case Way::kDoAsync:
      return std::make_unique<FutureAsking>(DoAsync(pages, key, fn));
    case Way::kDoThen:
      return std::make_unique<ThenAsking>(pages, key, fn);
    case Way::kCoDo:
      return std::make_unique<CoroutineAsking>(
          [&pages, key, fn](StopToken stop) { return CoDo(pages, std::string(key), fn, stop); },
          [](Result<std::string> result) { return Keep([&] { return std::move(result); }); });
    case Way::kDoMany:
      return std::make_unique<BlockingAsking>(
          [&pages, keys, batch, only](const CallOptions& options) {
            return only(DoMany(pages, keys, batch, options));
          });
    case Way::kCoDoMany:
      return std::make_unique<CoroutineAsking>(
          [&pages, keys, batch](const StopToken& stop) {
            return CoDoMany(pages, keys, batch, stop);
          },
          only);
    case Way::kDoManyAsync:
      return std::make_unique<FutureAsking>(std::move(DoManyAsync(pages, keys, batch).at(0)));
#if defined(TEST_ASIO)
    case Way::kAsyncDo:
      return std::make_unique<AsioAsking>(pages, key, fn);
#endif
  }
  throw std::logic_error("no such way");
}

// The same with two types of functions, however many a test has: it compiles several times faster.
template <class Fn>
std::unique_ptr<Asking> Ask(Way way, RedisPages& pages, const std::string& key, Fn fn) {
  if constexpr (std::is_invocable_v<Fn>) {
    return AskWith(way, pages, key, std::function<std::string()>(std::move(fn)));
  } else {
    return AskWith(way, pages, key, std::function<std::string(const StopToken&)>(std::move(fn)));
  }
}

// Counts how often it runs.
struct CountedFn {
  std::string operator()() const {
    ++*runs;
    return "v";
  }
  std::shared_ptr<std::atomic<int>> runs = std::make_shared<std::atomic<int>>(0);
};

}  // namespace

TEST_CASE("fleet: callers of every kind are on one call, whichever of them leads") {
  const RedisServer server;
  RedisPages here(server), there(server);
  for (const Way leads : kWays) {
    CAPTURE(leads);
    const std::string key = "k" + std::to_string(static_cast<int>(leads));
    HeldFn work;
    const auto fn = [&] {
      work.Run();
      return "v"s;
    };
    const auto leader = Ask(leads, here, key, fn);
    work.AwaitBegun();
    std::vector<std::unique_ptr<Asking>> followers;
    for (RedisPages* each : {&here, &there}) {
      for (const Way way : kWays) followers.push_back(Ask(way, *each, key, NeverRun));
    }
    AwaitCallers(here, key, 1 + kWays.size());
    AwaitCallers(there, key, kWays.size());
    AwaitFollower(server, key);
    work.Finish();
    const Page led = leader->Get();
    CHECK(led.value == "v");
    CHECK(led.role == Role::kLeader);
    std::size_t right = 0;
    for (const auto& each : followers) {
      const Page page = each->Get();
      right += page.value == "v" && page.shared && page.role == Role::kFollower ? 1 : 0;
    }
    CHECK(right == followers.size());
    CHECK(work.Runs() == 1);
  }
}

TEST_CASE("fleet: if the first caller leaves before it leads, one of any other kind has the work") {
  RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("other", [] { return "v"s; }) == "v");
  int n = 0;
  for (const Way leaves : kWays) {
    for (const Way stays : kWays) {
      CAPTURE(leaves, stays);
      const std::string key = "k" + std::to_string(++n);
      server.Stop();
      const CountedFn first_fn;
      const auto first = Ask(leaves, pages, key, first_fn);
      AwaitCallers(pages, key, 1);
      const CountedFn second_fn;
      const auto second = Ask(stays, pages, key, second_fn);
      AwaitCallers(pages, key, 2);
      first->Leave();
      AwaitCallers(pages, key, 1);
      server.Continue();
      CHECK(second->Get().value == "v");
      CHECK(*first_fn.runs + *second_fn.runs == 1);
    }
  }
}

TEST_CASE("fleet: when the last caller leaves, of whatever kind, another process's takes over") {
  const RedisServer server;
  RedisPages here(server), there(server);
  int n = 0;
  for (const Way leads : kWays) {
    for (const Way follows : kWays) {
      CAPTURE(leads, follows);
      const std::string key = "k" + std::to_string(++n);
      HeldFn work;
      const auto until_stopped = [&](const StopToken& stop) {
        work.RunUntil(stop);
        return "late"s;
      };
      const auto leader = Ask(leads, here, key, until_stopped);
      work.AwaitBegun();
      const auto follower = Ask(follows, there, key, [] { return "taken over"s; });
      AwaitFollower(server, key);
      leader->Leave();
      const Page page = follower->Get();
      CAPTURE(page.message, page.error ? static_cast<int>(*page.error) : 0, page.role);
      CHECK(page.value == "taken over");
      Await([&] { return here.GetStats().calls.in_flight == 0; });
    }
  }
  CHECK(there.GetStats().takeovers == kWays.size() * kWays.size());
}

TEST_CASE("fleet: a caller of any kind that leaves another process's call disturbs nobody") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v");
  const auto stays = Ask(Way::kDoAsync, there, "k", NeverRun);
  AwaitFollower(server, "k");
  for (const Way leaves : kWays) {
    CAPTURE(leaves);
    const auto caller = Ask(leaves, there, "k", NeverRun);
    AwaitCallers(there, "k", 2);
    caller->Leave();
    AwaitCallers(there, "k", 1);
  }
  leader.Finish();
  CHECK(stays->Get().value == "v");
  CHECK(there.GetStats().calls.left == kWays.size());
}

TEST_CASE(
    "fleet: fn that waits for its own key gets a deadlock, whoever runs it and however it waits") {
  const RedisServer server;
  RedisPages pages(server);
  const auto by_do = [&] { return *pages.Do("k", NeverRun); };
  const auto by_future = [&] { return *DoAsync(pages, "k", NeverRun).Get(); };
  const auto by_retrying_future = [&] {
    return *DoAsync(pages, "k", NeverRun, NewThread(), OnFailure::kRetry).Get();
  };
  const auto by_many = [&] {
    const auto fn = [](std::span<const std::string>) -> Strings { return {}; };
    return std::string(*DoMany(pages, Strings{"k"}, fn).at(0));
  };
  const auto fails = [&](Way way, const auto& fn) {
    return Ask(way, pages, "k", fn)->Get().error == std::errc::resource_deadlock_would_occur;
  };
  for (const Way way : kWays) {
    CAPTURE(way);
    CHECK(fails(way, by_do));
    CHECK(fails(way, by_future));
    CHECK(fails(way, by_retrying_future));
    CHECK(fails(way, by_many));
  }
}

TEST_CASE("fleet: of two threads that wait for each other's key, one gets a deadlock") {
  const RedisServer server;
  RedisPages pages(server);
  std::latch both(2);
  const auto fn = [&](const std::string& other) {
    return [&both, &pages, other] {
      both.arrive_and_wait();
      return *pages.Do(other, NeverRun);
    };
  };
  const auto first = Ask(Way::kDo, pages, "a", fn("b"));
  const auto second = Ask(Way::kDoAsync, pages, "b", fn("a"));
  // The one whose wait would close the circle fails, and so does the other, which waits for it.
  CHECK(first->Get().error == std::errc::resource_deadlock_would_occur);
  CHECK(second->Get().error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("fleet: a plain fn of any kind never runs on the event loop") {
  const RedisServer server;
  RedisPages pages(server);
  for (const Way way : kWays) {
    CAPTURE(way);
    std::atomic<bool> on_loop = true;
    const auto fn = [&] {
      on_loop = IsOnLoop(pages);
      return "v"s;
    };
    CHECK(Ask(way, pages, "k", fn)->Get().value == "v");
    CHECK_FALSE(on_loop);
  }
}

TEST_CASE("fleet: fn of any kind is asked to stop when another process has its lease") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 900ms});  // the first renewal comes in time
  std::uint64_t lost = 0;
  for (const Way way : kWays) {
    CAPTURE(way);
    const auto fn = [&](const StopToken& stop) {
      server.Ask("HSET", LeaseName("t", "k"), "token", std::string(32, 'a'));
      Await([&] { return stop.stop_requested(); });
      return "v"s;
    };
    CHECK(Ask(way, pages, "k", fn)->Get().value == "v");  // it has callers all the same
    CHECK(pages.GetStats().lost_leases == ++lost);
    server.Ask("FLUSHALL");
  }
  Await([&] { return pages.GetStats().unpublished == lost; });
}

TEST_CASE(
    "fleet: callers that come, leave and stop at any moment each get one outcome of one "
    "execution") {
  const RedisServer server;
  RedisPages here(server), there(server);
  constexpr std::size_t kKeys = 3, kThreads = 6;
  struct Key {
    std::atomic<int> running = 0;
    std::atomic<int> runs = 0;
  };
  std::array<Key, kKeys> keys;
  std::atomic<bool> overlapped = false;
  std::atomic<int> wrong = 0, gone = 0, answered = 0;
  std::latch ready(kThreads);
  std::vector<JoiningThread> threads;
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::minstd_rand random(static_cast<unsigned>(i + 1));
      ready.arrive_and_wait();
      for (int round = 0; round < 40; ++round) {
        const std::size_t k = random() % kKeys;
        const auto fn = [&, k] {
          if (++keys[k].running != 1) overlapped = true;
          const std::string value = std::to_string(k) + ":" + std::to_string(++keys[k].runs);
          std::this_thread::yield();
          --keys[k].running;
          return value;
        };
        const Way way = kWays[random() % kWays.size()];
        const auto caller = Ask(way, random() % 2 == 0 ? here : there, "k" + std::to_string(k), fn);
        if (random() % 3 == 0) {
          for (auto pause = random() % 200; pause > 0; --pause) std::this_thread::yield();
          caller->Leave();
          ++gone;
          continue;
        }
        const Page page = caller->Get();
        ++answered;
        if (!page.value || !page.value->starts_with(std::to_string(k) + ":")) ++wrong;
      }
    });
  }
  threads.clear();
  CHECK(answered + gone == 40 * static_cast<int>(kThreads));
  CHECK(wrong == 0);
  CHECK_FALSE(overlapped);
  Await([&] { return here.GetStats().calls.in_flight + there.GetStats().calls.in_flight == 0; });
}

TEST_CASE("fleet Do: a stop that comes as the call lands finds the caller, or nobody") {
  const RedisServer server;
  RedisPages pages(server);
  constexpr int kRounds = 200;
  int answered = 0, canceled = 0;
  for (int round = 0; round < kRounds; ++round) {
    StopSource stop;
    std::atomic<bool> leads = false;
    JoiningThread stops([&] {
      Await([&] { return leads.load(); });
      stop.request_stop();
    });
    const Page page = Keep([&] {
      return pages.Do("k",
                      [&] {
                        leads = true;
                        return "v"s;
                      },
                      {.stop = stop.get_token()});
    });
    if (page.value == "v") ++answered;
    if (page.error == std::errc::operation_canceled) ++canceled;
  }
  CHECK(answered == kRounds);  // the caller leads, so it gets what fn returns
  CHECK(canceled == 0);
}

TEST_CASE("fleet DoMany: batches that overlap, come and stop at any moment get each key's value") {
  const RedisServer server;
  RedisPages here(server), there(server);
  constexpr std::size_t kThreads = 6, kKeys = 5;
  constexpr int kRounds = 30;
  std::atomic<int> wrong = 0, stopped = 0;
  std::latch ready(kThreads);
  std::vector<JoiningThread> threads;
  const auto load = [](std::span<const std::string> keys) {
    Strings values;
    for (const std::string& key : keys) values.push_back(key + "!");
    return values;
  };
  const auto load_or_stop = [load](std::span<const std::string> keys, const StopToken&) {
    return load(keys);
  };
  for (std::size_t i = 0; i < kThreads; ++i) {
    threads.emplace_back([&, i] {
      std::minstd_rand random(static_cast<unsigned>(i + 1));
      RedisPages& pages = i % 2 == 0 ? here : there;
      ready.arrive_and_wait();
      for (int round = 0; round < kRounds; ++round) {
        Strings keys;
        for (std::size_t k = 0; k < kKeys; ++k) {
          if (random() % 2 == 0) keys.push_back("k" + std::to_string(k));
        }
        std::ranges::shuffle(keys, random);
        StopSource stop;
        std::optional<JoiningThread> stops;
        const bool is_stopped = random() % 3 == 0;
        if (is_stopped) {
          stops.emplace([stop, pause = random() % 100]() mutable {
            for (auto left = pause; left > 0; --left) std::this_thread::yield();
            stop.request_stop();
          });
        }
        const auto results = random() % 2 == 0
                                 ? DoMany(pages, keys, load, {.stop = stop.get_token()})
                                 : DoMany(pages, keys, load_or_stop, {.stop = stop.get_token()});
        for (std::size_t k = 0; k < keys.size(); ++k) {
          const Page page = PageOf(results[k]);
          if (page.error == std::errc::operation_canceled && is_stopped) {
            ++stopped;
          } else if (page.value != keys[k] + "!") {
            ++wrong;
          }
        }
      }
    });
  }
  threads.clear();
  CHECK(wrong == 0);
  Await([&] { return here.GetStats().calls.in_flight + there.GetStats().calls.in_flight == 0; });
}

// SPDX-License-Identifier: MIT

// Measures what a redis::ReadThrough costs, beside the bare commands by which hiredis would do the
// same. The server, and how turns are taken, are as in redis.bench.cpp.
//
//   hit/THREADS      That many threads get values that are on the server, each one after another.
//   hit/coroutines   The same by 10,000 coroutines.
//   get/N            One connection of hiredis runs GET, with N keys in flight, for values of the
//                    same size: it sends N commands, and reads N answers.
//   handed/THREADS   That many threads have the client's event loop run a GET for each of theirs,
//   handed/coroutines  and are told the answer by the thread that delivers. So this is what a hit
//                    costs without a cache, a group, or a codec: threads that hand over.
//   load/THREADS     That many threads get values that are not there. They load them, which costs
//                    nothing, and put them.
//   load/coroutines  The same by 10,000 coroutines.
//   scripts/N        One connection of hiredis runs the same two scripts, with N keys in flight.
//   local_hit        One thread gets a value of the local cache. Its processor time counts, beside
//                    that of an LruCache.

#include <benchmark/benchmark.h>

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <future>
#include <latch>
#include <singleflight/lru_cache.hpp>
#include <singleflight/redis_read_through.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "allocations.hpp"
#include "hiredis.hpp"
#include "redis_support.hpp"

namespace {

using namespace std::chrono_literals;
namespace redis = singleflight::redis;
using Numbers = redis::ReadThrough<int>;

redis::ReadThroughOptions<int> PatientCache(singleflight::Duration ttl) {
  return {.ttl = ttl,
          .fleet = {.lease = 1h,
                    .linger = 10s,
                    .on_outage = redis::OnOutage::kFail,
                    .executor = [](const std::function<void()>& task) { task(); }}};
}

// Each is asked for once.
std::string NewKey(std::size_t = 0, std::size_t = 0) {
  static std::atomic<std::size_t> number = 0;
  return KeyOf(number++);
}

// GET of values as large as those that the cache keeps.
class BareGets {
 public:
  static constexpr std::size_t kSize = 87;

  BareGets(const std::string& socket, std::size_t in_flight) : client_(socket) {
    for (std::size_t i = 0; i < in_flight; ++i) {
      names_.push_back("bare:{" + KeyOf(i) + "}:value");
      client_.Ask("SET %s %s", names_.back().c_str(), std::string(kSize, 'v').c_str());
    }
  }
  const std::vector<std::string>& Names() const { return names_; }
  double SecondsForEach(std::size_t count) {
    return SecondsOf([&] {
             for (std::size_t done = 0; done < count; done += names_.size()) GetAll();
           }) /
           static_cast<double>(count);
  }

 private:
  void GetAll() {
    for (const std::string& name : names_) client_.Append({"GET", name});
    for (std::size_t i = 0; i < names_.size(); ++i) {
      if (client_.Read()->len != kSize) throw std::runtime_error("the bare GET got something else");
    }
  }

  Hiredis client_;
  std::vector<std::string> names_;
};

// A GET by a Client's loop, for a caller on another thread.
class HandedGets {
 public:
  HandedGets(redis::Client& client, const BareGets& names)
      : core_(redis::detail::ClientAccess::Core(client)),
        deliveries_(redis::detail::ClientAccess::FleetOf(client).Deliveries()),
        names_(names.Names()) {
    core_.Start();
  }

  double SecondsByThreads(std::size_t threads, std::size_t asks) {
    return SecondsOf([&] {
             std::vector<std::thread> all;
             for (std::size_t i = 0; i < threads; ++i) {
               all.emplace_back([this, i, count = asks / threads] {
                 for (std::size_t n = 0; n < count; ++n) {
                   std::promise<void> told;
                   Get(i, [&told] { told.set_value(); });
                   told.get_future().wait();
                 }
               });
             }
             for (std::thread& each : all) each.join();
           }) /
           static_cast<double>(asks);
  }
  double SecondsByCoroutines(std::size_t coroutines, std::size_t asks) {
    std::latch done(static_cast<std::ptrdiff_t>(coroutines));
    return SecondsOf([&] {
             for (std::size_t i = 0; i < coroutines; ++i) {
               OneAfterAnother(i, asks / coroutines, done);
             }
             done.wait();
           }) /
           static_cast<double>(asks);
  }

 private:
  template <class Then>
  void Get(std::size_t number, Then then) {
    core_.Loop().Post([this, number, then] {
      const std::string& name = names_[number % names_.size()];
      const std::array<std::string_view, 2> words = {"GET", name};
      core_.Commands().Run(name, words, [this, then](const redis::detail::Answer& answer) {
        if (answer.reply.text.size() != BareGets::kSize) std::abort();
        deliveries_.Post(then);
      });
    });
  }
  Detached OneAfterAnother(std::size_t number, std::size_t count, std::latch& done) {
    struct Awaiter {
      bool await_ready() const noexcept { return false; }
      void await_suspend(std::coroutine_handle<> handle) { gets->Get(number, handle); }
      void await_resume() const noexcept {}
      HandedGets* gets;
      std::size_t number;
    };
    for (std::size_t n = 0; n < count; ++n) co_await Awaiter{this, number};
    done.count_down();
  }

  redis::detail::ClientCore& core_;
  redis::detail::Deliverer& deliveries_;
  const std::vector<std::string>& names_;
};

// The two scripts of a load, as the cache sends them.
class BareLoads {
 public:
  BareLoads(const std::string& socket, std::size_t in_flight)
      : client_(socket), in_flight_(in_flight) {
    for (const auto* const script : {&redis::detail::GetScript(), &redis::detail::LandScript()}) {
      client_.Ask("SCRIPT LOAD %s", script->Text().c_str());
    }
    client_.Ask("SET bare:generation 1700000000000000");
  }
  double SecondsForEach(std::size_t count) {
    return SecondsOf([&] {
             for (std::size_t done = 0; done < count; done += in_flight_) LoadAll();
           }) /
           static_cast<double>(count);
  }

 private:
  void LoadAll() {
    std::vector<std::string> bases;
    for (std::size_t i = 0; i < in_flight_; ++i) {
      bases.push_back("bare:1700000000000000:{" + NewKey() + "}");
      const std::string& base = bases.back();
      client_.Append({"EVALSHA",
                      redis::detail::GetScript().Digest(),
                      "7",
                      base + ":lease",
                      base + ":forgotten:" + kToken,
                      base + ":outcome:" + kToken,
                      base + ":forgotten:",
                      base + ":outcome:",
                      base + ":value",
                      base + ":failed",
                      kToken,
                      "3600000",
                      kInbox,
                      "host:1",
                      "int:1",
                      base + ":forgotten:",
                      "",
                      "",
                      "bare:generation",
                      "1700000000000000",
                      "0",
                      "0",
                      "0"});
    }
    for (std::size_t i = 0; i < in_flight_; ++i) {
      const Hiredis::Reply reply = client_.Read();
      if (reply->elements != 2 || std::string_view(reply->element[0]->str) != "lead") {
        throw std::runtime_error("the bare script did not lead");
      }
    }
    for (const std::string& base : bases) {
      client_.Append({"EVALSHA", redis::detail::LandScript().Digest(), "6", base + ":lease",
                      base + ":forgotten:" + kToken, base + ":outcome:" + kToken, base + ":value",
                      base + ":fresh", base + ":failed", kToken, "", kPayload, "10000", kRunIt, "1",
                      "5000", "5000", "0000000000000001", ""});
    }
    for (std::size_t i = 0; i < in_flight_; ++i) client_.Read();
  }

  static inline const std::string kToken = std::string(32, 'b');
  static inline const std::string kInbox = "bare:inbox:" + kToken;
  static inline const std::string kPayload = std::string(22, 'p');  // that of an int
  static inline const std::string kRunIt = std::string(18, 'r');

  Hiredis client_;
  const std::size_t in_flight_;
};

void ManyHits(benchmark::State& state) try {
  const std::string socket = Server().Socket();
  const OnProcessors guard(OnProcessors::Which::kOthers);
  redis::Client client(PatientClient(socket));
  Numbers cache(client, "bench", PatientCache(1h));
  const KeyOfEach keys(10'000);
  SecondsByCoroutines(cache, 10'000, 10'000, keys);  // puts the values
  const std::uint64_t loads = cache.GetStats().loads;
  BareGets get_1(socket, 1), get_256(socket, 256);
  HandedGets handed(client, get_256);
  TakeTurns(state,
            {{"hit/1", [&] { return SecondsByThreads(cache, 1, 2'000, keys); }},
             {"get/1", [&] { return get_1.SecondsForEach(2'000); }},
             {"hit/256", [&] { return SecondsByThreads(cache, 256, 25'600, keys); }},
             {"get/256", [&] { return get_256.SecondsForEach(51'200); }},
             {"hit/coroutines", [&] { return SecondsByCoroutines(cache, 10'000, 50'000, keys); }},
             {"handed/1", [&] { return handed.SecondsByThreads(1, 2'000); }},
             {"handed/256", [&] { return handed.SecondsByThreads(256, 25'600); }},
             {"handed/coroutines", [&] { return handed.SecondsByCoroutines(10'000, 50'000); }}});
  if (cache.GetStats().loads != loads) state.SkipWithError("there was a load");
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(ManyHits)->Name("redis_cache/hits")->Iterations(2)->UseRealTime();

void ManyLoads(benchmark::State& state) try {
  const std::string socket = Server().Socket();
  const OnProcessors guard(OnProcessors::Which::kOthers);
  redis::Client client(PatientClient(socket));
  Numbers cache(client, "bench_loads", PatientCache(5s));
  BareLoads bare_1(socket, 1), bare_256(socket, 256);
  TakeTurns(state, {{"load/1", [&] { return SecondsByThreads(cache, 1, 2'000, NewKey); }},
                    {"scripts/1", [&] { return bare_1.SecondsForEach(2'000); }},
                    {"load/256", [&] { return SecondsByThreads(cache, 256, 12'800, NewKey); }},
                    {"scripts/256", [&] { return bare_256.SecondsForEach(25'600); }},
                    {"load/coroutines",
                     [&] { return SecondsByCoroutines(cache, 10'000, 20'000, NewKey); }}});
  if (cache.GetStats().hits != 0) state.SkipWithError("there was a hit");
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(ManyLoads)->Name("redis_cache/loads")->Iterations(2)->UseRealTime();

// Gets popular ones of many values.
template <class Get>
void LocalHits(benchmark::State& state, const KeyOfEach& keys, const Get& get) {
  std::size_t i = 0;
  const std::uint64_t allocations_before = allocations_of_this_thread;
  for (auto _ : state) {
    benchmark::DoNotOptimize(get(keys(i, 0)));
    i = i + 1 < 64 ? i + 1 : 0;
  }
  state.counters["allocations"] =
      benchmark::Counter(static_cast<double>(allocations_of_this_thread - allocations_before),
                         benchmark::Counter::kAvgIterations);
}
constexpr std::size_t kValues = 1'000;

void LocalHit(benchmark::State& state) try {
  redis::Client client(PatientClient(Server().Socket()));
  redis::ReadThroughOptions<int> options = PatientCache(1h);
  options.local_ttl = 1h;
  Numbers cache(client, "bench_local", options);
  const KeyOfEach keys(kValues);
  std::uint64_t asked = 0;  // until the connection for messages is there, nothing is kept for long
  do {
    asked = cache.GetStats().fleet.calls.executions;
    SecondsByCoroutines(cache, kValues, kValues, keys);
  } while (cache.GetStats().fleet.calls.executions != asked);
  LocalHits(state, keys, [&](const auto& key) { return cache.Get(key, [] { return 42; }); });
  if (cache.GetStats().fleet.calls.executions != asked) state.SkipWithError("the server was asked");
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(LocalHit)->Name("redis_cache/local_hit");

void HitOfLruCache(benchmark::State& state) {
  singleflight::LruCache<std::string, int> cache({.capacity = 10'000});
  const KeyOfEach keys(kValues);
  for (std::size_t i = 0; i < kValues; ++i) cache.Put(keys(i, 0), 42);
  LocalHits(state, keys, [&](const auto& key) { return cache.Get(key); });
}
BENCHMARK(HitOfLruCache)->Name("redis_cache/hit_of_lru_cache");

}  // namespace

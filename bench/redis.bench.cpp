// SPDX-License-Identifier: MIT

// Measures what a call of a redis::Group costs, beside the bare commands by which hiredis would do
// the same. The program starts a redis-server of its own, on a Unix socket.
//
//   alone           A caller is alone: it takes the lease, runs `fn`, which costs nothing, and has
//                   its value. The lease is given back behind it.
//   set_get         SET lease token NX PX fails, and GET reads the value. It takes at least that to
//                   get what another process has left.
//   told            A follower in another process waits. The time runs from the moment the leader's
//                   `fn` returns until the follower has its value.
//   push            The time runs from just before a PUBLISH until another connection, which has
//                   subscribed, has the message. No follower can be told sooner.
//   led/THREADS     That many threads lead, each one key after another. The time is that of a key.
//   led/coroutines  The same by 10,000 coroutines.
//   bare/N          One connection of hiredis runs the same two scripts, with N keys in flight: it
//                   sends N of the first, N of the second, and reads the answers to all.
//
// All take turns. Times are by the clock. The median is shown, since a busy machine stalls some.
// The server has a processor to itself, as if it ran on another machine, and this program has the
// others. Else the system may keep both on one processor. Then a bare command, which wakes no other
// processor, takes a fifth of the time, and we measure how the system has distributed the threads.
// The server says how many bytes it has sent and received, and how long it has worked, for each key
// that 256 threads lead.

#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <latch>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "hiredis.hpp"
#include "redis_support.hpp"

namespace {

using namespace std::chrono_literals;
namespace redis = singleflight::redis;
using Clock = std::chrono::steady_clock;
using Group = redis::Group<int>;

const std::string key = "user:0000000000000042";

// ---- One caller, and one follower

// Another thread runs `lead(fn)`, which runs `fn` and then tells. This thread runs `follow`, which
// blocks until it is told. `is_followed()` says that it does.
template <class Lead, class Follow, class IsFollowed>
double SecondsUntilTold(const Lead& lead, const Follow& follow, const IsFollowed& is_followed) {
  std::latch leads(1);
  std::atomic<Clock::time_point> fn_returned;
  std::thread leader([&] {
    lead([&] {
      leads.count_down();
      while (!is_followed()) std::this_thread::yield();
      fn_returned = Clock::now();
      return 42;
    });
  });
  leads.wait();
  follow();
  const double seconds = SecondsSince(fn_returned);
  leader.join();
  return seconds;
}

// ---- Many callers, each of whom leads

// The two scripts of each key, as the group sends them.
class BareScripts {
 public:
  BareScripts(const std::string& socket, std::size_t in_flight) : client_(socket) {
    for (std::size_t i = 0; i < in_flight; ++i) keys_.emplace_back("bare:{" + KeyOf(i) + "}");
    for (const auto* const script :
         {&redis::detail::TakeScript(), &redis::detail::PublishScript()}) {
      client_.Ask("SCRIPT LOAD %s", script->Text().c_str());
    }
  }

  double SecondsForEach(std::size_t keys) {
    return SecondsOf([&] {
             for (std::size_t done = 0; done < keys; done += keys_.size()) LeadAll();
           }) /
           static_cast<double>(keys);
  }

 private:
  struct Names {
    explicit Names(const std::string& base)
        : lease(base + ":lease"),
          outcome(base + ":outcome:" + kToken),
          forgotten(base + ":forgotten:" + kToken),
          any_forgotten(base + ":forgotten:") {}
    std::string lease, outcome, forgotten, any_forgotten;
  };

  void LeadAll() {
    for (const Names& each : keys_) {
      client_.Append({"EVALSHA", redis::detail::TakeScript().Digest(), "3", each.lease,
                      each.forgotten, each.outcome, kToken, "3600000", kInbox, "host:1", "int:1",
                      each.any_forgotten, ""});
    }
    if (keys_.size() == 1) Read("lead");
    for (const Names& each : keys_) {
      client_.Append({"EVALSHA", redis::detail::PublishScript().Digest(), "3", each.lease,
                      each.forgotten, each.outcome, kToken, "", kPayload, "10000", kRunIt, "1"});
    }
    for (std::size_t i = 0; keys_.size() > 1 && i < keys_.size(); ++i) Read("lead");
    for (std::size_t i = 0; i < keys_.size(); ++i) client_.Read();
  }
  void Read(std::string_view what) {
    const Hiredis::Reply reply = client_.Read();
    if (reply->elements != 2 || reply->element[0]->str != what) {
      throw std::runtime_error("the bare script did not lead");
    }
  }

  static inline const std::string kToken = std::string(32, 'b');
  static inline const std::string kInbox = "bare:inbox:" + kToken;
  static inline const std::string kPayload = std::string(22, 'p');  // that of an int
  static inline const std::string kRunIt = std::string(18, 'r');

  Hiredis client_;
  std::vector<Names> keys_;
};

// What the server has sent, received and worked so far.
struct Work {
  explicit Work(PlainRedis& server) {
    const std::string info = server.Ask("INFO");
    const auto number = [&info](const std::string& name) {
      const std::size_t found = info.find("\n" + name + ":");
      if (found == std::string::npos) throw std::runtime_error("INFO has no " + name);
      return std::stod(info.substr(found + name.size() + 2));
    };
    bytes = number("total_net_input_bytes") + number("total_net_output_bytes");
    seconds = number("used_cpu_user") + number("used_cpu_sys");
  }
  double bytes, seconds;
};

// No lease is renewed while we count.
redis::Options PatientGroup() {
  return {.lease = 1h,
          .linger = 10s,
          .on_outage = redis::OnOutage::kFail,
          .executor = [](const std::function<void()>& task) { task(); }};  // `fn` costs nothing
}

void OneCaller(benchmark::State& state) try {
  const std::string socket = Server().Socket();
  const OnProcessors guard(OnProcessors::Which::kOthers);
  Hiredis client(socket), subscriber(socket);
  PlainRedis observer(socket);
  redis::Client redis(PatientClient(socket)), other_redis(PatientClient(socket));
  // The clients know nothing of each other, as if they were in two processes.
  Group group(redis, "bench", PatientGroup()), other_group(other_redis, "bench", PatientGroup());

  const std::string lease = "bench:{" + key + "}:lease";
  const auto alone = [&] { benchmark::DoNotOptimize(group.Do(key, [] { return 42; })); };
  client.Ask("SET bare:taken another");
  client.Ask("SET bare:value 42");
  const auto set_get = [&] {
    client.Ask("SET %s 0123456789abcdef0123456789abcdef NX PX 3600000", "bare:taken");
    client.Ask("GET bare:value");
  };
  const auto lead = [&](const auto& fn) { benchmark::DoNotOptimize(other_group.Do(key, fn)); };
  const auto is_followed = [&] { return observer.Ask("HLEN " + lease) == "8"; };
  subscriber.Ask("SUBSCRIBE bare:channel");
  const auto publish = [&](const auto& fn) { client.Ask("PUBLISH bare:channel %d", fn()); };
  const auto read = [&] { subscriber.Read(); };
  const auto once = [&] { return observer.Ask("PING") == "PONG"; };
  const auto when_quiet = [&observer, &lease](auto measure) {
    return [&observer, &lease, measure] {  // an earlier call's lease has been given back
      while (observer.Ask("EXISTS " + lease) == "1") std::this_thread::yield();
      return measure();
    };
  };
  TakeTurns(state,
            {{"alone", when_quiet([&] { return SecondsOf(alone); }), 20},
             {"set_get", when_quiet([&] { return SecondsOf(set_get); }), 20},
             {"told", when_quiet([&] { return SecondsUntilTold(lead, alone, is_followed); }), 10},
             {"push", when_quiet([&] { return SecondsUntilTold(publish, read, once); }), 10}});
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(OneCaller)->Name("redis/one")->Iterations(20)->UseRealTime();

void ManyCallers(benchmark::State& state) try {
  const std::string socket = Server().Socket();
  const OnProcessors guard(OnProcessors::Which::kOthers);
  redis::Client redis(PatientClient(socket));
  Group group(redis, "bench", PatientGroup());
  const KeyOfEach keys(10'000);
  BareScripts bare_1(socket, 1), bare_16(socket, 16), bare_256(socket, 256);
  TakeTurns(state,
            {{"led/1", [&] { return SecondsByThreads(group, 1, 2'000, keys); }},
             {"bare/1", [&] { return bare_1.SecondsForEach(2'000); }},
             {"led/16", [&] { return SecondsByThreads(group, 16, 8'000, keys); }},
             {"bare/16", [&] { return bare_16.SecondsForEach(8'000); }},
             {"led/256", [&] { return SecondsByThreads(group, 256, 25'600, keys); }},
             {"led/coroutines", [&] { return SecondsByCoroutines(group, 10'000, 30'000, keys); }},
             {"bare/256", [&] { return bare_256.SecondsForEach(25'600); }}});

  constexpr int kCounted = 25'600;
  PlainRedis observer(socket);
  const Work before(observer);
  SecondsByThreads(group, 256, kCounted, keys);
  const Work after(observer);
  state.counters["bytes"] = (after.bytes - before.bytes) / kCounted;
  state.counters["server_cpu_us"] = 1e6 * (after.seconds - before.seconds) / kCounted;
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(ManyCallers)->Name("redis/many")->Iterations(2)->UseRealTime();

}  // namespace

// SPDX-License-Identifier: MIT

// Measures what a call over a Redis server costs, against the bare commands that would do the same
// by hand. The program starts a redis-server of its own, on a Unix socket.
//
//   unshared      A caller is alone: it takes the lease, runs `fn`, which costs nothing, and gives
//                 the lease back.
//   set_get_del   SET lease token NX PX succeeds, GET lease checks that it is still one's own, and
//                 DEL lease gives it back.
//   set_get       SET lease token NX PX fails, and GET reads the value. It takes at least that
//                 to get what another process has left.
//   follower      A follower in another process has asked for the lease while `fn` runs, and waits.
//                 The time runs from the moment the leader's `fn` returns until the follower has
//                 its value.
//   xadd_xread    The time runs from just before an XADD until another connection, blocked in
//                 XREAD, has the entry. No follower can be notified sooner.
//
// All take turns, ten times in a row each. Which of the processes share a processor decides about
// half of the time, and changes every few seconds. Times are by the clock. The median is shown,
// since a busy machine stalls some.

#include <benchmark/benchmark.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <functional>
#include <iterator>
#include <latch>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "support/redis_own_server.hpp"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;
using Group = singleflight::redis::Group<int>;

const std::string key = "user:0000000000000042";
constexpr const char* kSet = "SET %s 0123456789abcdef0123456789abcdef NX PX 3600000";

// Asks the server what it has seen. Its own commands do not count. Only one thread at a time may
// use it.
class Observer {
 public:
  explicit Observer(const singleflight::redis::Options& options) : client_(options) {}

  // Returns the round trips so far. Each command is one read by the server, since its client waits
  // for the reply before it sends another.
  long long RoundTrips() { return client_.Info("total_reads_processed") - ++own_; }

  void AwaitBlockedClient() {
    do ++own_;
    while (client_.Info("blocked_clients") == 0);
  }

 private:
  RedisClient client_;
  long long own_ = 0;
};

double SecondsSince(Clock::time_point time) {
  return std::chrono::duration<double>(Clock::now() - time).count();
}

template <class Step>
double SecondsOf(const Step& step) {
  const Clock::time_point start = Clock::now();
  step();
  return SecondsSince(start);
}

// Another thread runs `lead(fn)`, which runs `fn` and then publishes the outcome. This thread runs
// `follow`, which blocks until it gets the outcome.
template <class Lead, class Follow>
double SecondsUntilNotified(Observer& observer, const Lead& lead, const Follow& follow) {
  std::latch leads(1);
  std::atomic<Clock::time_point> fn_returned;
  std::thread leader([&] {
    lead([&] {
      leads.count_down();
      observer.AwaitBlockedClient();
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

struct Way {
  const char* name;
  std::function<double()> seconds;
  int of_leader = 0;  // round trips of the leader, not of the follower
};

void TakeTurns(benchmark::State& state, Observer& observer, const std::vector<Way>& ways) {
  for (const Way& way : ways) {
    way.seconds();  // connects
    const long long before = observer.RoundTrips();
    way.seconds();
    const long long round_trips = observer.RoundTrips() - before - way.of_leader;
    state.counters[std::string(way.name) + "/round_trips"] = static_cast<double>(round_trips);
  }
  std::vector<std::vector<double>> times(ways.size());
  for (auto _ : state) {
    for (std::size_t i = 0; i < ways.size(); ++i) {
      for (int in_a_row = 0; in_a_row < 10; ++in_a_row) times[i].push_back(ways[i].seconds());
    }
  }
  for (std::size_t i = 0; i < ways.size(); ++i) {
    const auto middle = times[i].begin() + std::ssize(times[i]) / 2;
    std::ranges::nth_element(times[i], middle);
    state.counters[std::string(ways[i].name) + "/median"] = *middle;
  }
}

void Redis(benchmark::State& state) try {
  static const OwnRedisServer server;
  // No lease is renewed while we count, and a slow machine does not count as an outage.
  const singleflight::redis::Options options = {.unix_socket = server.Socket(),
                                                .lease = 1h,
                                                .linger = 10s,
                                                .connect_timeout = 1min,
                                                .command_timeout = 1min,
                                                .on_outage = singleflight::redis::OnOutage::kFail};
  Observer observer(options);
  RedisClient client(options), other_client(options);
  // Two groups with one prefix know nothing of each other, as if they were in two processes.
  Group group(options), other_group(options);

  const auto unshared = [&] { benchmark::DoNotOptimize(group.Do(key, [] { return 42; })); };
  const auto set_get_del = [&] {
    client.Ask(kSet, "bare:lease");
    client.Ask("GET bare:lease");
    client.Ask("DEL bare:lease");
  };
  client.Ask("SET bare:taken another");
  client.Ask("SET bare:value 42");
  const auto set_get = [&] {
    client.Ask(kSet, "bare:taken");
    client.Ask("GET bare:value");
  };
  const auto lead = [&](const auto& fn) { benchmark::DoNotOptimize(other_group.Do(key, fn)); };
  const auto add = [&](const auto& fn) {
    other_client.Ask("XADD bare:stream MAXLEN 1 * outcome %d", fn());
  };
  const auto read = [&] { client.Ask("XREAD BLOCK 0 STREAMS bare:stream $"); };
  TakeTurns(state, observer,
            {{"unshared", [&] { return SecondsOf(unshared); }},
             {"set_get_del", [&] { return SecondsOf(set_get_del); }},
             {"set_get", [&] { return SecondsOf(set_get); }},
             {"follower", [&] { return SecondsUntilNotified(observer, lead, unshared); }, 2},
             {"xadd_xread", [&] { return SecondsUntilNotified(observer, add, read); }, 1}});
} catch (const std::runtime_error& error) {
  state.SkipWithError(error.what());
}
BENCHMARK(Redis)->Name("redis")->Iterations(20)->UseRealTime();

}  // namespace

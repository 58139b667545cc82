// SPDX-License-Identifier: MIT

// A leader's process dies or stalls at any point. Others take over, and their callers get a result.
// Some tests kill the process after each byte that it sends to the server or receives from it.

#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <mutex>
#include <optional>
#include <singleflight/redis_options.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "members.hpp"
#include "processes.hpp"
#include "proxy.hpp"
#include "sanitizers/sanitizers.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Role;
using singleflight::redis::Stats;

namespace {

constexpr std::chrono::milliseconds kLease = 300ms;
// This lease is long enough for a leader to keep it although the machine may stall.
constexpr std::chrono::milliseconds kStableLease = 1s;
// A leader that is listened to must not renew this one, even on a busy machine. A leader sends it
// once, when it takes the lease.
constexpr std::chrono::milliseconds kListenedLease = 60s;

// All keys have one length, so that all conversations about them have one, too.
std::string KeyOf(std::size_t number) {
  char key[] = "key-00000";
  std::snprintf(key, sizeof(key), "key-%05zu", number % 100'000);
  return key;
}

std::string LeaseOf(std::string_view key) { return LeaseName("fleet", std::string(key)); }
std::string OutcomeOf(std::string_view key, const MemberRun& run) {
  return OutcomeName("fleet", std::string(key), run.token);
}
std::string TokenOf(const RedisServer& server, std::string_view key) {
  return LeaseField(server, std::string(key), "token", "fleet");
}
long long LeftOf(const RedisServer& server, std::string_view key) {
  return server.Ask("PTTL", LeaseOf(key)).number;
}

// Returns when another process waits for that run's outcome. Throws if the lease is lost before.
void AwaitFollowed(const RedisServer& server, std::string_view key, const MemberRun& run) {
  AwaitInTime([&] {
    if (TokenOf(server, key) != run.token) throw std::runtime_error("the lease is lost");
    return !InboxesAt(server, LeaseOf(key)).empty();
  });
}

MemberOutcome Led(std::string value, bool shared = false) {
  return {.value = std::move(value), .role = Role::kLeader, .shared = shared, .error = {}};
}
MemberOutcome Followed(std::string value) {
  return {.value = std::move(value), .role = Role::kFollower, .shared = true, .error = {}};
}
MemberOutcome Failed(std::string error) { return {.value = {}, .error = std::move(error)}; }

// ---- Killed after any byte of its conversation with the server

// How many bytes a leader has sent on the connection for its commands, and received.
struct Position {
  std::uint64_t requests = 0, replies = 0;
};
Position PositionOf(const RedisProxy& proxy, std::size_t connection) {
  return {proxy.Bytes(connection, RedisProxy::kRequests),
          proxy.Bytes(connection, RedisProxy::kReplies)};
}

// Where a leader with kLease is in that conversation when it has taken its lease, and when it has
// published, if it renews nothing. The server knows the scripts afterwards.
struct Conversation {
  Position taken, published;
  std::size_t digits = 0;  // of the leader's process id, which it sends
};
template <class Number>
std::size_t DigitsOf(Number number) {
  return std::to_string(number).size();
}
Conversation Listen(const RedisServer& server) {
  Conversation positions;
  // The second one finds the scripts known. Of it and those that follow, the shortest counts: on a
  // busy machine, a leader may be late to subscribe, and then renews its lease at once.
  for (std::size_t number = 99'999; number > 99'994; --number) {
    RedisProxy proxy(server.Socket());
    RedisMember leader("leader", proxy.Socket(), {.lease = kListenedLease});
    RedisMember follower("follower", server.Socket());
    const std::string key = KeyOf(number);
    const std::size_t digits = DigitsOf(leader.Pid());
    leader.Ask(key);
    const MemberRun run = leader.AwaitRun(key);
    const Position taken = PositionOf(proxy, 0);
    follower.Ask(key);
    AwaitFollowed(server, key, run);
    leader.Order(key, "return");
    if (follower.AwaitOutcome(key).value != "leader:" + key) {
      throw std::runtime_error("the leader did not publish");
    }
    leader.End();
    const Position published = PositionOf(proxy, 0);
    if (number < 99'998 && published.requests > positions.published.requests) continue;
    positions = {taken, published, digits};
  }
  const std::size_t longer = DigitsOf(kListenedLease.count()) - DigitsOf(kLease.count());
  positions.taken.requests -= longer;
  positions.published.requests -= longer;
  return positions;
}

// A Death says where in its connection a leader dies, and what a follower gets then.
struct Death {
  explicit Death(RedisProxy::Place its_place) : place(its_place) {}

  const RedisProxy::Place place;
  std::size_t digits = 0;  // of the leader's process id
  std::string end;         // how the leader's process finished. Not by the signal: it lived
  bool ran = false;        // whether the leader's `fn` began, and said so
  bool published = false;  // whether the leader's outcome was published
  long long left = 0;      // milliseconds left of the lease after the death (-2: no lease)
  std::string key;
  MemberOutcome outcome = {};  // what the follower got
};

// A Plot says what the leader's `fn` does, and from where a Death's bytes are counted.
enum class Plot : unsigned char {
  kHeld,      // it never returns, so that the lease is renewed until the leader is dead
  kFollowed,  // it returns when another process follows, and the bytes are counted from then on
};

// A Lane belongs to one thread. It has one leader at a time, and one follower for all of them.
class Lane {
 public:
  explicit Lane(const RedisServer& server) : server_(server) { follower_.Order("*", "return"); }

  void Play(Plot plot, Death& death, std::atomic<std::size_t>& next_key) {
    death.key = KeyOf(next_key++);
    RedisProxy::Place place = death.place;
    place.connection = 0;  // the leader's first one, for its commands
    RedisProxy proxy(server_.Socket());
    RedisMember leader("leader", proxy.Socket(), {.lease = kLease});
    if (plot == Plot::kHeld) KillAt(place, proxy, leader);
    death.digits = DigitsOf(leader.Pid());

    leader.Ask(death.key);
    MemberRun run;
    try {
      run = leader.AwaitRun(death.key);
      death.ran = true;
    } catch (const std::runtime_error&) {
      death.end = leader.AwaitEnd();  // it died before
    }
    if (death.ran) {
      follower_.Ask(death.key);
      AwaitInTime([&] {
        return TokenOf(server_, death.key) != run.token ||
               !InboxesAt(server_, LeaseOf(death.key)).empty();
      });
      if (plot == Plot::kFollowed) {
        place.bytes += proxy.Bytes(0, place.way);  // whether or not it has renewed the lease
        KillAt(place, proxy, leader);
        leader.Order(death.key, "return");
      }
      death.end = plot == Plot::kFollowed ? leader.End() : leader.AwaitEnd();
    }
    death.left = LeftOf(server_, death.key);
    if (!death.ran) follower_.Ask(death.key);
    death.outcome = follower_.AwaitOutcome(death.key);
    led_ += death.outcome.role == Role::kLeader ? 1 : 0;
    death.published = death.ran && server_.Ask("EXISTS", OutcomeOf(death.key, run)).number == 1;
  }

  // Throws unless the follower got a value for each of its executions.
  void End() {
    if (follower_.GetStats().executions != led_)
      throw std::runtime_error("the follower executed without getting the value");
    if (follower_.End() != "exit 0")
      throw std::runtime_error("the follower did not exit with code 0");
  }

 private:
  static void KillAt(RedisProxy::Place place, RedisProxy& proxy, const RedisMember& leader) {
    proxy.CallAt(place, [pid = leader.Pid()] {
      ::kill(pid, SIGKILL);
      siginfo_t ended;
      ::waitid(P_PID, static_cast<id_t>(pid), &ended, WEXITED | WNOWAIT);
    });
    proxy.CutAt(place);  // what the leader had sent beyond the place is lost
  }

  const RedisServer& server_;
  RedisMember follower_{"follower", server_.Socket(), {.lease = kLease}};
  std::uint64_t led_ = 0;  // outcomes of the follower's own executions
};

// Adds every place from byte `first` to `last` of a leader's conversation. With a sanitizer it adds
// only some of them, to save time.
void AddPlaces(std::vector<Death>& deaths, RedisProxy::Way way, std::uint64_t first,
               std::uint64_t last) {
#ifdef UNDER_SANITIZER
  constexpr std::uint64_t kStep = 23;
#else
  constexpr std::uint64_t kStep = 1;
#endif
  for (std::uint64_t bytes = first; bytes < last; bytes += kStep) {
    deaths.emplace_back(RedisProxy::Place{way, bytes});
  }
  deaths.emplace_back(RedisProxy::Place{way, last});
}

// Plays all deaths, many at a time, since the followers mostly wait for a lease to expire.
void Play(const RedisServer& server, Plot plot, std::vector<Death>& deaths) {
  std::atomic<std::size_t> next = 0, next_key = 0;
  std::mutex mutex;
  std::string error;
  std::vector<JoiningThread> threads;
  for (int i = 0; i < 16; ++i) {
    threads.emplace_back([&] {
      try {
        Lane lane(server);
        for (std::size_t mine; (mine = next++) < deaths.size();) {
          lane.Play(plot, deaths[mine], next_key);
        }
        lane.End();
      } catch (const std::exception& exception) {
        const std::lock_guard lock(mutex);
        error = exception.what();
      }
    });
  }
  threads.clear();
  if (!error.empty()) throw std::runtime_error(error);
}

// Checks that a lease which is still there expires soon enough. Also checks that the follower got
// the leader's value, or ran its own function, and the latter if nothing was published.
void CheckTakeover(const Death& death) {
  CAPTURE(death.place.way == RedisProxy::kRequests, death.place.bytes, death.end, death.published);
  CHECK((death.left == -2 || (death.left >= 0 && death.left <= kLease.count())));
  const bool followed = death.outcome == Followed("leader:" + death.key);
  CHECK((followed || death.outcome == Led("follower:" + death.key)));
  if (!death.published) CHECK_FALSE(followed);
}

// ---- Killed or suspended when a test says so

// Returns the sum of the statistics of the members' groups.
template <class... Members>
Stats SumOfStats(Members&... members) {
  Stats sum;
  for (const Stats& stats : {members.GetStats()...}) {
    sum.executions += stats.executions;
    sum.remote += stats.remote;
    sum.takeovers += stats.takeovers;
    sum.unpublished += stats.unpublished;
  }
  return sum;
}

}  // namespace

// ---- Killed at every byte

TEST_CASE("redis: a leader killed at any byte of taking its lease is replaced within that lease") {
  const RedisServer server;
  const Conversation conversation = Listen(server);
  const Position& taken = conversation.taken;
  std::vector<Death> deaths;
  AddPlaces(deaths, RedisProxy::kRequests, 0, taken.requests - 1);
  AddPlaces(deaths, RedisProxy::kReplies, 0, taken.replies - 1);
  Play(server, Plot::kHeld, deaths);
  for (const Death& death : deaths) {
    CheckTakeover(death);
    CHECK(death.end == "signal 9");
    CAPTURE(death.place.way == RedisProxy::kRequests, death.place.bytes, taken.requests,
            taken.replies, death.digits, conversation.digits);
    if (death.digits >= conversation.digits) CHECK_FALSE(death.ran);  // else it sends less
    CHECK(death.outcome.role == Role::kLeader);
  }
}

TEST_CASE(
    "redis: a leader killed at any byte of renewing its lease is replaced within that lease") {
  const RedisServer server;
  const Position taken = Listen(server).taken;
  std::vector<Death> deaths;
  // The first renewals come after these bytes. Each is about as long as taking the lease.
  AddPlaces(deaths, RedisProxy::kRequests, taken.requests + 1, taken.requests + 500);
  AddPlaces(deaths, RedisProxy::kReplies, taken.replies + 1, taken.replies + 8);
  Play(server, Plot::kHeld, deaths);
  for (const Death& death : deaths) {
    CheckTakeover(death);
    CHECK(death.end == "signal 9");
    CHECK_FALSE(death.published);
  }
  CHECK(std::ranges::any_of(deaths, &Death::ran));
}

TEST_CASE(
    "redis: a leader killed at any byte of publishing has published completely, or is replaced") {
  const RedisServer server;
  const auto [taken, published, digits] = Listen(server);
  static_cast<void>(digits);
  std::vector<Death> deaths;
  AddPlaces(deaths, RedisProxy::kRequests, 1, published.requests - taken.requests);
  AddPlaces(deaths, RedisProxy::kReplies, 1, published.replies - taken.replies);
  Play(server, Plot::kFollowed, deaths);
  for (const Death& death : deaths) CheckTakeover(death);
  CHECK(std::ranges::any_of(deaths, [](const Death& death) {
    return death.published && death.end == "signal 9" && death.outcome.role == Role::kFollower;
  }));
  CHECK(std::ranges::any_of(deaths, [](const Death& death) { return !death.published; }));
}

// ---- Killed inside its function

TEST_CASE(
    "redis: when a leader is killed in its function, one follower takes over and the others follow "
    "it") {
  const RedisServer server;
  RedisMember leader("leader", server.Socket(), {.lease = kStableLease});
  RedisMember one("one", server.Socket()), other("other", server.Socket());
  leader.Ask("key");
  const MemberRun run = leader.AwaitRun("key");
  one.Ask("key");
  other.Ask("key");
  AwaitInTime([&] { return InboxesAt(server, LeaseOf("key")).size() == 2; });
  leader.Kill();
  CHECK(LeftOf(server, "key") <= kStableLease.count());
  AwaitInTime([&] {
    const std::string token = TokenOf(server, "key");
    return !token.empty() && token != run.token && InboxesAt(server, LeaseOf("key")).size() == 1;
  });
  for (RedisMember* member : {&one, &other}) member->Order("key", "return");
  MemberOutcome led = one.AwaitOutcome("key"), followed = other.AwaitOutcome("key");
  if (led.role != Role::kLeader) std::swap(led, followed);
  CHECK((led.value == "one:key" || led.value == "other:key"));
  CHECK(led == Led(led.value));
  CHECK(followed == Followed(led.value));
  CHECK((SumOfStats(one, other) == Stats{.executions = 1, .remote = 1, .takeovers = 1}));
  CHECK(one.End() == "exit 0");
  CHECK(other.End() == "exit 0");
}

TEST_CASE("redis: a leader killed after renewals leaves a lease no longer than at first") {
  const RedisServer server;
  RedisMember leader("leader", server.Socket(), {.lease = kStableLease});
  RedisMember follower("follower", server.Socket());
  leader.Ask("key");
  const MemberRun run = leader.AwaitRun("key");
  long long before = kStableLease.count(), longest = before;
  int renewals = 0;
  AwaitInTime([&] {
    const long long left = LeftOf(server, "key");
    if (left < 0) throw std::runtime_error("the lease is lost");
    if (left > before) ++renewals;
    longest = std::max(longest, before = left);
    return renewals == 3;
  });
  follower.Ask("key");
  AwaitFollowed(server, "key", run);
  leader.Kill();
  CHECK(longest <= kStableLease.count());
  CHECK(LeftOf(server, "key") <= kStableLease.count());
  const MemberRun next = follower.AwaitRun("key");
  CHECK(next.fence > run.fence);
  follower.Order("key", "return");
  CHECK(follower.AwaitOutcome("key") == Led("follower:key"));
  CHECK((SumOfStats(follower) == Stats{.executions = 1, .takeovers = 1}));
  CHECK(follower.End() == "exit 0");
}

TEST_CASE("redis: a leader whose function exits or aborts the process is replaced") {
  const RedisServer server;
  const auto [order, end] = GENERATE(table<std::string, std::string>(
      {{"exit", "exit 3"}, {"quick_exit", "exit 4"}, {"abort", "signal 6"}}));
  RedisMember leader("leader", server.Socket(), {.lease = kStableLease});
  RedisMember follower("follower", server.Socket());
  follower.Order("key", "return");
  leader.Ask("key");
  const MemberRun run = leader.AwaitRun("key");
  follower.Ask("key");
  AwaitFollowed(server, "key", run);
  leader.Order("key", order);
  CHECK(leader.AwaitEnd() == end);
  CHECK(follower.AwaitOutcome("key") == Led("follower:key"));
  CHECK((SumOfStats(follower) == Stats{.executions = 1, .takeovers = 1}));
  CHECK(follower.End() == "exit 0");
}

// ---- Suspended (SIGSTOP)

TEST_CASE(
    "redis: a leader suspended for longer than its lease is replaced, and publishes nothing") {
  const RedisServer server;
  RedisMember stopped("stopped", server.Socket(), {.lease = kStableLease});
  RedisMember next("next", server.Socket()), follower("follower", server.Socket());
  stopped.Ask("key", 2);
  const MemberRun run = stopped.AwaitRun("key");
  AwaitInTime([&] { return stopped.Callers("key") == 2; });
  next.Ask("key");
  AwaitFollowed(server, "key", run);
  stopped.Stop();
  const MemberRun next_run = next.AwaitRun("key");
  CHECK(next_run.fence > run.fence);
  follower.Ask("key");
  AwaitFollowed(server, "key", next_run);

  stopped.Order("key", "return");
  stopped.Continue();
  for (int i = 0; i < 2; ++i) CHECK(stopped.AwaitOutcome("key").value == "stopped:key");
  AwaitInTime([&] { return SumOfStats(stopped) == Stats{.executions = 1, .unpublished = 1}; });
  CHECK(TokenOf(server, "key") == next_run.token);

  next.Order("key", "return");
  CHECK(next.AwaitOutcome("key") == Led("next:key"));
  CHECK(follower.AwaitOutcome("key") == Followed("next:key"));
  CHECK((SumOfStats(next, follower) == Stats{.executions = 1, .remote = 1, .takeovers = 1}));
  for (RedisMember* member : {&stopped, &next, &follower}) CHECK(member->End() == "exit 0");
}

TEST_CASE("redis: a leader suspended until all other calls have landed lands only its own call") {
  const RedisServer server;
  RedisMember stopped("stopped", server.Socket(), {.lease = kLease});
  RedisMember next("next", server.Socket());
  next.Order("key", "return");
  stopped.Ask("key");
  stopped.AwaitRun("key");
  stopped.Stop();
  next.Ask("key");
  CHECK(next.AwaitOutcome("key") == Led("next:key"));
  stopped.Order("key", "return");
  stopped.Continue();
  CHECK(stopped.AwaitOutcome("key") == Led("stopped:key"));
  AwaitInTime([&] { return SumOfStats(stopped) == Stats{.executions = 1, .unpublished = 1}; });
  AwaitInTime([&] { return server.Keys().empty(); });
  CHECK(stopped.End() == "exit 0");
  CHECK(next.End() == "exit 0");
}

TEST_CASE("redis: a follower that is suspended while it waits still gets the outcome") {
  const RedisServer server;
  RedisMember leader("leader", server.Socket(), {.linger = 2ms});
  RedisMember stopped("stopped", server.Socket());
  leader.Ask("key");
  leader.AwaitRun("key");
  stopped.Ask("key");
  AwaitInTime([&] { return InboxesAt(server, LeaseOf("key")).size() == 1; });
  const std::string inbox = InboxesAt(server, LeaseOf("key")).at(0);
  AwaitInTime([&] { return server.Ask("PUBSUB", "NUMSUB", inbox).elements.at(1).number == 1; });
  stopped.Ask("other");  // it knows that it follows once it has an answer to a later question
  stopped.AwaitRun("other");
  stopped.Order("other", "return");
  CHECK(stopped.AwaitOutcome("other") == Led("stopped:other"));
  AwaitInTime([&] { return server.Ask("EXISTS", LeaseOf("other")).number == 0; });
  stopped.Stop();
  leader.Order("key", "return");
  CHECK(leader.AwaitOutcome("key") == Led("leader:key"));
  AwaitInTime([&] { return server.Keys().empty(); });
  stopped.Continue();
  CHECK(stopped.AwaitOutcome("key") == Followed("leader:key"));
  CHECK((SumOfStats(leader, stopped) == Stats{.executions = 2, .remote = 1}));
  CHECK(leader.End() == "exit 0");
  CHECK(stopped.End() == "exit 0");
}

// ---- Exceptions and fences

TEST_CASE(
    "redis: an exception reaches its own process unchanged, and other processes as its message") {
  const RedisServer server;
  const auto [order, own, remote] = GENERATE(table<std::string, std::string, std::string>(
      {{"throw no more  paper", "std::logic_error: no more  paper", "RemoteError: no more  paper"},
       {"throw_int", "int: 7",
        "RemoteError: an exception that is not derived from std::exception"}}));
  RedisMember leader("leader", server.Socket()), follower("follower", server.Socket());
  leader.Ask("key", 2);
  const MemberRun run = leader.AwaitRun("key");
  follower.Ask("key", 2);
  AwaitFollowed(server, "key", run);
  for (RedisMember* member : {&leader, &follower}) {
    AwaitInTime([&] { return member->Callers("key") == 2; });
  }
  leader.Order("key", order);
  for (int i = 0; i < 2; ++i) CHECK(leader.AwaitOutcome("key") == Failed(own));
  for (int i = 0; i < 2; ++i) CHECK(follower.AwaitOutcome("key") == Failed(remote));
  CHECK((SumOfStats(leader, follower) == Stats{.executions = 1, .remote = 1}));
  CHECK(leader.End() == "exit 0");
  CHECK(follower.End() == "exit 0");
}

TEST_CASE("redis: fences grow from lease to lease, whichever process takes them") {
  const RedisServer server;
  RedisMember first("first", server.Socket()), second("second", server.Socket());
  std::vector<std::uint64_t> fences;
  for (int i = 0; i < 10; ++i) {
    for (RedisMember* member : {&first, &second}) {
      member->Order("key", "return");
      member->Ask("key");
      fences.push_back(member->AwaitRun("key").fence);
      static_cast<void>(member->AwaitOutcome("key"));
      AwaitInTime([&] { return server.Keys().empty(); });
    }
  }
  CHECK(std::ranges::adjacent_find(fences, std::ranges::greater_equal()) == fences.end());
  CHECK(first.End() == "exit 0");
  CHECK(second.End() == "exit 0");
}

// ---- Forked

TEST_CASE(
    "redis: a group made before a fork refuses calls in the child, which may destroy it and exit") {
  const RedisServer server;
  RedisMember leader("leader", server.Socket()), follower("follower", server.Socket());
  const std::string refused =
      "errc:" + std::to_string(static_cast<int>(std::errc::operation_not_permitted));
  const std::string refused_both = refused + ' ' + refused + ", status 0";
  CHECK(leader.AwaitFork("key") == refused_both);  // not connected yet
  leader.Ask("key");
  const MemberRun run = leader.AwaitRun("key");
  follower.Ask("key");
  AwaitFollowed(server, "key", run);
  CHECK(leader.AwaitFork("key") == refused_both);    // leading
  CHECK(follower.AwaitFork("key") == refused_both);  // following
  CHECK(TokenOf(server, "key") == run.token);
  leader.Order("key", "return");
  CHECK(leader.AwaitOutcome("key") == Led("leader:key"));
  CHECK(follower.AwaitOutcome("key") == Followed("leader:key"));
  CHECK(leader.AwaitFork("key") == refused_both);  // with an idle connection
  leader.Ask("key");
  CHECK(leader.AwaitOutcome("key") == Led("leader:key"));
  CHECK((SumOfStats(leader, follower) == Stats{.executions = 2, .remote = 1}));
  CHECK(leader.End() == "exit 0");
  CHECK(follower.End() == "exit 0");
}

// SPDX-License-Identifier: MIT

// Tests what the callers of a redis::Group get, within one process and across several. Groups with
// clients of their own stand for processes here. fleet.test.cpp and crash.test.cpp have real ones.
// values.test.cpp has what travels between them.

#include <unistd.h>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

const std::string kToken = "0123456789abcdef0123456789abcdef";
const std::string kFence = "0000000000000001";

// Acts as another process that takes the lease of "k" with `token`.
void TakeLease(const RedisServer& server, const std::string& token,
               const std::string& milliseconds = "3600000") {
  const std::string lease = LeaseName("t", "k");
  server.Ask("DEL", lease);
  server.Ask("HSET", lease, "token", token, "fence", kFence, "who", "h:1", "since", "1", "tag",
             "string", "inbox", "t:inbox:" + token, "lasts", milliseconds);
  server.Ask("PEXPIRE", lease, milliseconds);
}

long long LeftOf(const RedisServer& server, const std::string& name) {
  return server.Ask("PTTL", name).number;
}
// Returns when what is left of the time of `name` has grown.
void AwaitRenewal(const RedisServer& server, const std::string& name) {
  long long left = LeftOf(server, name);
  Await([&] {
    const long long before = std::exchange(left, LeftOf(server, name));
    return left > before;
  });
}
// Returns when no process has anything on the server. An outcome of which nobody was told at once
// would still be there.
void AwaitNoKeys(const RedisServer& server) {
  Await([&] { return server.Keys().empty(); });
}

}  // namespace

TEST_CASE("redis: a caller that is alone runs its function and leaves nothing on the server") {
  const RedisServer server;
  RedisPages pages(server);
  const auto result = pages.Do("k", [] { return "v"s; });
  CHECK(*result == "v");
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  AwaitNoKeys(server);
  CHECK(pages.GetStats() == redis::Stats{.executions = 1, .calls = {.executions = 1}});
  CHECK(pages.LastOutage().empty());
}

TEST_CASE("redis: a caller that asks while another process executes gets its result") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  CHECK(leader.Finish().value == "v");
  CHECK_FALSE(leader.Finish().shared);  // a leader does not know of other processes
  CHECK(leader.Finish().role == Role::kLeader);
  CHECK(follower.Join().value == "v");
  CHECK(follower.Join().shared);
  CHECK(follower.Join().role == Role::kFollower);
  CHECK(here.GetStats() == redis::Stats{.executions = 1, .calls = {.executions = 1}});
  CHECK(there.GetStats() == redis::Stats{.remote = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: the callers of one process ask the server once") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
  for (int i = 0; i < 10; ++i) {
    followers.push_back(
        std::make_unique<test::Caller<std::string>>([&] { return there.Do("k", NeverRun); }));
  }
  AwaitCallers(there, "k", 10);
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  for (auto& follower : followers) {
    CHECK(follower->Join().value == "v");
    CHECK(follower->Join().role == Role::kFollower);
    CHECK(follower->Join().shared);
  }
  CHECK(there.GetStats() == redis::Stats{.remote = 1, .calls = {.executions = 1, .followers = 9}});
}

TEST_CASE("redis: groups of one client and prefix are callers of one call, as processes are") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  redis::Group<std::string> one(client, "t"), other(client, "t");
  RedisLeader<redis::Group<std::string>> leader(one, "k", "v"s);
  test::Caller follower([&] { return other.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == "v");
  CHECK(other.GetStats().remote == 1);
}

TEST_CASE("redis: an outcome that only callers of its own process share is not kept") {
  const RedisServer server;
  RedisPages pages(server, {.linger = 1h});
  RedisLeader leader(pages, "k", "v"s);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitCallers(pages, "k", 2);
  CHECK(leader.Finish().shared);
  CHECK(follower.Join().shared);
  CHECK(follower.Join().role == Role::kFollower);
  AwaitNoKeys(server);
}

TEST_CASE("redis: a caller that asks after a call has landed runs its own function") {
  const RedisServer server;
  RedisPages here(server), there(server);
  CHECK(*here.Do("k", [] { return "1"s; }) == "1");
  AwaitNoKeys(server);
  CHECK(*there.Do("k", [] { return "2"s; }) == "2");
  AwaitNoKeys(server);
  RedisLeader leader(here, "k", "3"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == "3");
  CHECK(*there.Do("k", [] { return "4"s; }) == "4");
}

TEST_CASE("redis: a process that leads twice in a row does not wait for its first publish") {
  const RedisServer server;
  RedisPages pages(server, {.linger = 50ms});
  for (int i = 0; i < 200; ++i) {
    const std::string value = std::to_string(i);
    REQUIRE(*pages.Do("k", [&] { return value; }) == value);
  }
  AwaitNoKeys(server);
  CHECK(pages.GetStats() == redis::Stats{.executions = 200, .calls = {.executions = 200}});
}

TEST_CASE("redis: an outcome stays on the server for no longer than linger") {
  const RedisServer server;
  RedisPages here(server, {.linger = 1h}), there(server, {.linger = 1h});
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  follower.Join();
  const std::string name = OutcomeName("t", "k", leader.Token());
  REQUIRE(server.Keys() == std::vector{name});
  const long long left = LeftOf(server, name);
  CHECK((left > 1'800'000 && left <= 3'600'000));
}

TEST_CASE("redis: calls for different keys are independent") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "a", "v"s);
  CHECK(*there.Do("b", [] { return "w"s; }) == "w");
  CHECK(*there.Do("c", [] { return "x"s; }) == "x");
}

TEST_CASE("redis: calls of groups with different prefixes are independent") {
  const RedisServer server;
  redis::Client client(ClientOptionsFor(server));
  redis::Group<std::string> one(client, "t"), other(client, "u"), longer(client, "t:k");
  RedisLeader<redis::Group<std::string>> leader(one, "k", "v"s);
  CHECK(*other.Do("k", [] { return "w"s; }) == "w");
  CHECK(*longer.Do("k", [] { return "x"s; }) == "x");
  CHECK(*longer.Do("", [] { return "y"s; }) == "y");
}

TEST_CASE("redis: calls of groups in different databases are independent") {
  const RedisServer server;
  redis::ClientOptions third = ClientOptionsFor(server);
  third.database = 3;
  RedisPages here(server), there(third);
  RedisLeader leader(here, "k", "v"s);
  CHECK(*there.Do("k", [] { return "w"s; }) == "w");
  CHECK(there.GetStats().outages == 0);
}

TEST_CASE("redis: a leader that fails frees its key for every process") {
  const RedisServer server;
  RedisPages here(server), there(server);
  CHECK(Keep([&] {
          return here.Do("k", []() -> std::string { throw std::logic_error("no"); });
        }).message == "no");
  AwaitNoKeys(server);
  CHECK(*here.Do("k", [] { return "1"s; }) == "1");
  AwaitNoKeys(server);
  CHECK(*there.Do("k", [] { return "2"s; }) == "2");
}

TEST_CASE(
    "redis: with kRetry a follower whose leader failed in another process runs its own function") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  test::Caller follower(
      [&] { return there.Do("k", [] { return "mine"s; }, {.on_failure = OnFailure::kRetry}); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == "mine");
  CHECK(follower.Join().role == Role::kLeader);
}

TEST_CASE("redis: with kRetry the followers of one process share one second try") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  std::atomic<int> runs = 0;
  std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
  for (int i = 0; i < 8; ++i) {
    followers.push_back(std::make_unique<test::Caller<std::string>>([&] {
      const auto fn = [&] { return std::to_string(++runs); };
      return there.Do("k", fn, {.on_failure = OnFailure::kRetry});
    }));
  }
  AwaitCallers(there, "k", 8);
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  for (auto& follower : followers) CHECK(follower->Join().value == "1");
  CHECK(runs == 1);
}

// ---- The lease

TEST_CASE(
    "redis: a function may take its lease, whose token the server has and whose fence grows") {
  const RedisServer server;
  RedisPages here(server), there(server);
  std::uint64_t last = 0;
  for (RedisPages* pages : {&here, &there, &here}) {
    static_cast<void>(pages->Do("k", [&](const redis::Lease& lease) {
      CHECK(lease.Held());
      CHECK_FALSE(lease.stop().stop_requested());
      CHECK(lease.fence() > last);
      last = lease.fence();
      CHECK(redis::detail::IsToken(lease.token()));
      CHECK(LeaseField(server, "k", "token") == lease.token());
      CHECK(LeaseField(server, "k", "fence") == std::to_string(lease.fence()));
      return ""s;
    }));
    AwaitNoKeys(server);
  }
}

TEST_CASE("redis: a lease on the server says which host and process leads, and since when") {
  const RedisServer server;
  RedisPages pages(server);
  RedisLeader leader(pages, "k", "v"s);
  std::array<char, 256> host = {};
  REQUIRE(::gethostname(host.data(), host.size() - 1) == 0);
  CHECK(LeaseField(server, "k", "who") == host.data() + ":"s + std::to_string(::getpid()));
  const long long now = std::stoll(server.Ask("TIME").elements.at(0).text);
  const long long since = std::stoll(LeaseField(server, "k", "since"));
  CHECK((since > now - 300 && since <= now));
}

TEST_CASE("redis: a lease is renewed while its function runs") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 2s});
  static_cast<void>(pages.Do("k", [&](const redis::Lease& lease) {
    for (int renewals = 0; renewals < 2; ++renewals) AwaitRenewal(server, LeaseName("t", "k"));
    CHECK(lease.Held());
    CHECK(LeaseField(server, "k", "token") == lease.token());
    return ""s;
  }));
  CHECK(pages.GetStats() == redis::Stats{.executions = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: a leader older than the maximum age is replaced in every process") {
  const RedisServer server;
  redis::Options options;
  options.lease = 1h;
  options.group.max_age = 300ms;
  RedisPages here(server, options), there(server, options);
  RedisLeader stuck(here, "k", "old"s);
  CHECK(LeftOf(server, LeaseName("t", "k")) <= 300);
  CHECK(*there.Do("k", [] { return "new"s; }) == "new");
  AwaitNoKeys(server);
  CHECK(*here.Do("k", [] { return "newer"s; }) == "newer");
  CHECK(stuck.Finish().value == "old");
  Await([&] { return here.GetStats().unpublished == 1; });
}

TEST_CASE("redis: a lease is renewed up to the maximum age of its call, and not beyond it") {
  const RedisServer server;
  redis::Options options;
  options.lease = 600ms;
  options.group.max_age = 1200ms;
  RedisPages here(server, options), there(server);
  const auto began = std::chrono::steady_clock::now();
  RedisLeader stuck(here, "k", "old"s);
  AwaitRenewal(server, LeaseName("t", "k"));
  CHECK(*there.Do("k", [] { return "new"s; }) == "new");
  const auto took = std::chrono::steady_clock::now() - began;
  CHECK(took >= 1190ms);
  CHECK(took < 1200ms + 600ms + 300ms);  // a lease later at the most, on a busy machine
}

TEST_CASE("redis: a leader that has lost its lease leaves the lease of another process alone") {
  const RedisServer server;
  RedisPages here(server, {.lease = 1h});
  RedisLeader leader(here, "k", "late"s);
  TakeLease(server, kToken);
  CHECK(leader.Finish().value == "late");
  CHECK_FALSE(leader.Finish().shared);
  Await([&] { return here.GetStats().unpublished == 1; });
  CHECK(LeaseField(server, "k", "token") == kToken);
}

TEST_CASE("redis: a leader is told that another process has its lease") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 900ms});
  int lost = 0;
  for (const bool takes_lease : {true, false}) {
    if (takes_lease) {
      static_cast<void>(pages.Do("k", [&](const redis::Lease& lease) {
        TakeLease(server, kToken);
        Await([&] { return !lease.Held(); });
        Await([&] { return lease.stop().stop_requested(); });
        ++lost;
        return ""s;
      }));
    } else {
      static_cast<void>(pages.Do("k", [&](const StopToken& stop) {
        TakeLease(server, kToken);
        Await([&] { return stop.stop_requested(); });
        ++lost;
        return ""s;
      }));
    }
    server.Ask("FLUSHALL");
  }
  CHECK(lost == 2);
  CHECK(pages.GetStats().lost_leases == 2);
  Await([&] { return pages.GetStats().unpublished == 2; });
}

TEST_CASE("redis: callers of a leader that has lost its lease get its outcome all the same") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 900ms});
  test::Caller leader([&] {
    return pages.Do("k", [&](const StopToken& stop) {
      AwaitCallers(pages, "k", 2);
      TakeLease(server, kToken);
      Await([&] { return stop.stop_requested(); });
      return "late"s;
    });
  });
  AwaitCallers(pages, "k", 1);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  CHECK(leader.Join().value == "late");
  CHECK(follower.Join().value == "late");
}

TEST_CASE("redis: a newcomer does not join a call that has lost its lease and can be stopped") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 900ms});
  std::promise<void> lost, go_on;
  test::Caller leader([&] {
    return pages.Do("k", [&](const StopToken& stop) {
      TakeLease(server, kToken);
      Await([&] { return stop.stop_requested(); });
      lost.set_value();
      go_on.get_future().wait();
      return "late"s;
    });
  });
  lost.get_future().wait();
  server.Ask("FLUSHALL");
  CHECK(*pages.Do("k", [] { return "new"s; }) == "new");
  go_on.set_value();
  CHECK(leader.Join().value == "late");
}

TEST_CASE("redis: a lease that the server has lost is made again, unless another process has one") {
  const RedisServer server;
  RedisPages pages(server, {.lease = 900ms});
  static_cast<void>(pages.Do("k", [&](const redis::Lease& lease) {
    server.Ask("FLUSHALL");
    Await([&] { return LeaseField(server, "k", "token") == lease.token(); });
    CHECK(LeaseField(server, "k", "fence") == std::to_string(lease.fence()));
    CHECK(LeftOf(server, LeaseName("t", "k")) > 0);
    return ""s;
  }));
  CHECK(pages.GetStats().lost_leases == 0);
}

TEST_CASE("redis: a follower takes over when the lease has expired without an outcome") {
  const RedisServer server;
  RedisPages pages(server);
  TakeLease(server, kToken, "100");
  CHECK(*pages.Do("k", [] { return "mine"s; }) == "mine");
  CHECK(pages.GetStats() ==
        redis::Stats{.executions = 1, .takeovers = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: a follower asks again, so that a lost message delays it by half of linger only") {
  using redis::detail::Pack, redis::detail::PayloadKind, redis::detail::Fnv1a;
  const RedisServer server;
  RedisPages pages(server, {.linger = 200ms});
  TakeLease(server, kToken);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  // The leader publishes, but its message does not arrive.
  server.Ask("SET", OutcomeName("t", "k", kToken),
             kFence + Pack({PayloadKind::kValue, "v"}, Fnv1a("string"), kToken));
  server.Ask("DEL", LeaseName("t", "k"));
  CHECK(follower.Join().value == "v");
  CHECK(pages.GetStats() == redis::Stats{.remote = 1, .calls = {.executions = 1}});
}

// ---- Forget

TEST_CASE("redis: Forget lets the next caller start a new call, in every process") {
  const RedisServer server;
  RedisPages here(server), there(server), third(server);
  RedisLeader leader(here, "k", "old"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  CHECK_FALSE(third.Forget("k"));  // it has no call of its own
  CHECK(*third.Do("k", [] { return "new"s; }) == "new");
  Await([&] { return here.Callers("k") == 0 && there.Callers("k") == 0; });
  Await([&] { return server.Keys() == std::vector{ForgottenName("t", "k", leader.Token())}; });
  CHECK(*here.Do("k", [] { return "newer"s; }) == "newer");
  CHECK(leader.Finish().value == "old");
  CHECK(follower.Join().value == "old");
  CHECK(here.GetStats().unpublished == 0);
  CHECK(there.GetStats() == redis::Stats{.remote = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: a call that was forgotten before anybody joined is not kept") {
  const RedisServer server;
  RedisPages here(server, {.linger = 1h});
  RedisLeader leader(here, "k", "old"s);
  CHECK(here.Forget("k"));
  Await([&] { return server.Keys() == std::vector{ForgottenName("t", "k", leader.Token())}; });
  CHECK(*here.Do("k", [] { return "new"s; }) == "new");
  CHECK_FALSE(leader.Finish().shared);
  AwaitNoKeys(server);
}

TEST_CASE("redis: the lease of a call that was forgotten is still renewed") {
  const RedisServer server;
  RedisPages here(server, {.lease = 1s}), there(server, {.lease = 1s});
  RedisLeader leader(here, "k", "old"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  REQUIRE(here.Forget("k"));
  const std::string name = ForgottenName("t", "k", leader.Token());
  Await([&] { return server.Keys() == std::vector{name}; });
  for (int renewals = 0; renewals < 3; ++renewals) AwaitRenewal(server, name);
  leader.Finish();
  CHECK(follower.Join().value == "old");
  CHECK(here.GetStats().lost_leases == 0);
}

TEST_CASE("redis: a follower of a forgotten call takes over when its leader is dead") {
  const RedisServer server;
  RedisPages pages(server);
  TakeLease(server, kToken, "1000");
  test::Caller follower([&] { return pages.Do("k", [] { return "mine"s; }); });
  AwaitFollowers(server, "k", 1);
  RedisPages(server).Forget("k");
  CHECK(follower.Join().value == "mine");
  CHECK(pages.GetStats().takeovers == 1);
}

TEST_CASE("redis: a forgotten call whose leader gives up does not replace its successor") {
  const RedisServer server;
  const redis::Options options = {.lease = 1h};
  RedisPages first(server, options), here(server, options), there(server, options);
  StopSource stop;
  RedisLeader leader(
      first, "k",
      [](const redis::Lease& lease) { return lease.stop().stop_requested() ? ""s : "v"s; },
      {.stop = stop.get_token()});
  test::Caller older([&] { return here.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  CHECK(here.Forget("k"));
  Await([&] { return !server.Ask("EXISTS", LeaseName("t", "k")).number; });
  RedisLeader newer(here, "k", "w"s);
  stop.request_stop();             // so the older call asks again
  AwaitFollowers(server, "k", 1);  // of the newer call's lease
  CHECK(LeaseField(server, "k", "token") == newer.Token());
  test::Caller other([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 2);
  newer.Finish();
  CHECK(older.Join().value == "w");
  CHECK(other.Join().value == "w");
}

TEST_CASE("redis: Forget says whether this process has a call in flight") {
  const RedisServer server;
  RedisPages here(server), there(server);
  CHECK_FALSE(here.Forget("k"));
  RedisLeader leader(here, "k", "v"s);
  CHECK_FALSE(there.Forget("k"));
  Await([&] { return here.Callers("k") == 0; });  // it has heard of it
  CHECK_FALSE(here.Forget("k"));
  CHECK(leader.Finish().value == "v");
}

// ---- Keys and options

TEST_CASE("redis: keys of any bytes, and the empty key, are distinct") {
  const RedisServer server;
  RedisPages here(server), there(server);
  const std::vector<std::string> keys = {
      "",         "}",    "}x",   "a{b",  "{}",
      "{a}b",     "{",    "a}",   "a}b",  "a}:lease",
      "\0"s,      "\0x"s, " ",    "\r\n", "\xff\xfe%b%s",
      "a:{b}",    "a",    ".",    ".{.}", "}:lease",
      "$5\r\nab", "*",    "a\nb", ":{a}", std::string(70'000, 'k')};
  std::vector<std::unique_ptr<RedisLeader<>>> leaders;
  for (const std::string& key : keys) {
    leaders.push_back(std::make_unique<RedisLeader<>>(here, key, "of " + key));
  }
  std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
  for (const std::string& key : keys) {
    followers.push_back(
        std::make_unique<test::Caller<std::string>>([&] { return there.Do(key, NeverRun); }));
    Await([&] {
      return InboxesAt(server, redis::detail::LeaseName(redis::detail::BaseOf("t", key))).size() ==
             1;
    });
  }
  for (auto& leader : leaders) leader->Finish();
  for (std::size_t i = 0; i < keys.size(); ++i) {
    CHECK((followers[i]->Join().value == "of " + keys[i]));
  }
  CHECK(there.GetStats().outages == 0);
}

TEST_CASE("redis: a null pointer is not a key") {
  redis::Client client;
  redis::Group<int> group(client, "t");
  const char* const null = nullptr;
  CHECK_THROWS_AS(static_cast<void>(group.Do(null, [] { return 1; })), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(group.Do(null, [] { return 1; }, {})), std::invalid_argument);
  CHECK_THROWS_AS(group.Forget(null), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(group.Callers(null)), std::invalid_argument);
}

TEST_CASE("redis: a function that asks for its own key is refused") {
  const RedisServer server;
  RedisPages pages(server);
  std::optional<std::errc> error;
  static_cast<void>(pages.Do("k", [&] {
    error = ErrorOf([&] { return pages.Do("k", NeverRun); });
    return ""s;
  }));
  CHECK(error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("redis: a circle of keys within one process is refused, and the other one lands") {
  const RedisServer server;
  RedisPages pages(server);
  std::optional<std::errc> error;
  test::Caller a([&] {
    return pages.Do("a", [&] {
      AwaitCallers(pages, "b", 1);
      return *pages.Do("b", NeverRun) + "a";
    });
  });
  AwaitCallers(pages, "a", 1);
  CHECK(*pages.Do("b", [&] {
    AwaitCallers(pages, "b", 2);
    error = ErrorOf([&] { return pages.Do("a", NeverRun); });
    return "b"s;
  }) == "b");
  CHECK(a.Join().value == "ba");
  CHECK(error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("redis: a function may ask for another key of its group") {
  const RedisServer server;
  RedisPages pages(server);
  CHECK(*pages.Do("a", [&] { return "a" + *pages.Do("b", [] { return "b"s; }); }) == "ab");
}

TEST_CASE("redis: the limits apply to the process's own group") {
  const RedisServer server;
  redis::Options options;
  options.group.max_callers_per_call = 1;
  RedisPages pages(server, options), there(server, options);
  RedisLeader leader(pages, "k", "v"s);
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) ==
        std::errc::resource_unavailable_try_again);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  leader.Finish();
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: Close refuses newcomers and waits for the calls in flight") {
  const RedisServer server;
  RedisPages here(server), there(server);
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  JoiningThread closer([&] { there.Close(); });
  Await([&] {
    return ErrorOf([&] { return there.Do("x", [] { return ""s; }); }) ==
           std::errc::resource_unavailable_try_again;
  });
  leader.Finish();
  closer.join();
  CHECK(there.Callers("k") == 0);
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: a group has no prefix unless it is given one") {
  STATIC_REQUIRE_FALSE(std::is_constructible_v<redis::Group<std::string>, redis::Client&>);
  STATIC_REQUIRE(std::is_constructible_v<redis::Group<std::string>, redis::Client&, const char*>);
}

TEST_CASE("redis: options that make no sense are refused at once, with the option's name") {
  redis::Client client;
  const auto message = [&](std::string_view prefix, const redis::Options& options) -> std::string {
    try {
      redis::Group<std::string>(client, prefix, options);
      return "";
    } catch (const std::invalid_argument& error) {
      return error.what();
    }
  };
  const auto says = [&](const std::string& text, std::string_view name) {
    INFO(text);
    return text.find(name) != std::string::npos;
  };
  CHECK(says(message("", {}), "prefix"));
  for (const std::string prefix : {"a{b", "a}b", "{}", "{", "}"}) {
    CHECK(says(message(prefix, {}), "prefix"));
  }
  using Milliseconds = std::chrono::milliseconds;
  for (const Milliseconds lease : {Milliseconds(9), Milliseconds(0), Milliseconds(-1),
                                   Milliseconds::max(), Milliseconds::min()}) {
    CHECK(says(message("t", {.lease = lease}), "lease"));
  }
  for (const Milliseconds linger :
       {Milliseconds(1), Milliseconds(-1), Milliseconds::max(), Milliseconds::min()}) {
    CHECK(says(message("t", {.linger = linger}), "linger"));
  }
  redis::Options nobody;
  nobody.group.max_callers = 0;
  CHECK(says(message("t", nobody), "max_callers"));
  CHECK(message("t", {.lease = 10ms, .linger = 2ms}).empty());
}

TEST_CASE("redis: processes hear of a Forget also if the message is lost") {
  const RedisServer server;
  RedisPages here(server, {.lease = 600ms}), there(server, {.linger = 100ms});
  RedisLeader leader(here, "k", "old"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  AwaitFollowers(server, "k", 1);
  server.Ask("RENAME", LeaseName("t", "k"), ForgottenName("t", "k", leader.Token()));
  AwaitCallers(there, "k", 0);
  AwaitCallers(here, "k", 0);
  CHECK(*there.Do("k", [] { return "new"s; }) == "new");
  leader.Finish();
  CHECK(follower.Join().value == "old");
}

// SPDX-License-Identifier: MIT

// Tests what the callers of a redis::Group get, within one process and across several. Groups with
// one prefix stand for processes here. fleet.test.cpp and crash.test.cpp have real ones.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <singleflight/redis.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "processes.hpp"
#include "server.hpp"
#include "support/cancellable_thread.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using namespace singleflight;
using namespace std::string_literals;

namespace {

// Acts as another process that takes the lease of "k" with `token`.
void TakeLease(const RedisServer& server, const std::string& token) {
  server.Ask("SET", LeaseName("t", "k"), token, "PX", "3600000");
}
// Acts as that process when it lands its call. `payload` is published as it is.
void PutOutcome(const RedisServer& server, const std::string& token, std::string_view payload) {
  server.Ask("DEL", LeaseName("t", "k"));
  server.Ask("XADD", "t:{k}:" + token, "*", "outcome", payload);
  server.Ask("PEXPIRE", "t:{k}:" + token, "60000");
}

const std::string kToken = "0123456789abcdef0123456789abcdef";

struct Point {
  int x;
  double y;
};

struct MoveOnly {
  explicit MoveOnly(int of) : number(std::make_unique<int>(of)) {}
  MoveOnly(MoveOnly&&) noexcept = default;
  MoveOnly& operator=(MoveOnly&&) = delete;
  std::unique_ptr<int> number;
};

// Decodes only numbers below 100, and throws for those with a sign.
struct SmallNumbers {
  static std::string Encode(const int& number) { return std::to_string(number); }
  static std::optional<int> Decode(std::string_view text) {
    if (text.front() == '-') throw std::out_of_range("a sign");
    return text.size() < 3 ? std::optional(std::stoi(std::string(text))) : std::nullopt;
  }
};

}  // namespace

template <>
struct singleflight::redis::Codec<Point> : singleflight::redis::CopyBytes<Point> {};
template <>
struct singleflight::redis::Codec<MoveOnly> {
  static std::string Encode(const MoveOnly& value) { return std::to_string(*value.number); }
  static std::optional<MoveOnly> Decode(std::string_view text) {
    return MoveOnly(std::stoi(std::string(text)));
  }
};

TEST_CASE("redis: a caller that is alone runs its function and leaves nothing on the server") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  const auto result = pages.Do("k", [] { return "v"s; });
  CHECK(*result == "v");
  CHECK_FALSE(result.shared());
  CHECK(result.role() == Role::kLeader);
  CHECK(server.Keys().empty());
  CHECK(pages.GetStats() == redis::Stats{.executions = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: a caller that asks while another process executes gets its result") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  CHECK(leader.Finish().value == "v");
  CHECK(leader.Finish().shared);
  CHECK(leader.Finish().role == Role::kLeader);
  CHECK(follower.Join().value == "v");
  CHECK(follower.Join().shared);
  CHECK(follower.Join().role == Role::kFollower);
  CHECK(here.GetStats() == redis::Stats{.executions = 1, .calls = {.executions = 1}});
  CHECK(there.GetStats() == redis::Stats{.remote = 1, .calls = {.executions = 1}});
}

TEST_CASE("redis: the callers of one process ask the server once") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
  for (int i = 0; i < 10; ++i) {
    followers.push_back(
        std::make_unique<test::Caller<std::string>>([&] { return there.Do("k", NeverRun); }));
  }
  AwaitCallers(there, "k", 10);
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  for (auto& follower : followers) {
    CHECK(follower->Join().value == "v");
    CHECK(follower->Join().role == Role::kFollower);
    CHECK(follower->Join().shared);
  }
  CHECK(there.GetStats().remote == 1);
}

TEST_CASE("redis: a call that only callers of its own process share is not published") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  RedisLeader leader(pages, "k", "v"s);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  AwaitCallers(pages, "k", 2);
  CHECK(leader.Finish().shared);
  CHECK(follower.Join().shared);
  CHECK(server.Keys().empty());
}

TEST_CASE("redis: a caller that asks after a call has landed runs its own function") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  CHECK(*here.Do("k", [] { return "1"s; }) == "1");
  CHECK(*there.Do("k", [] { return "2"s; }) == "2");
  RedisLeader leader(here, "k", "3"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  CHECK(follower.Join().value == "3");
  CHECK(*there.Do("k", [] { return "4"s; }) == "4");
}

TEST_CASE("redis: an outcome stays on the server for no longer than linger") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.linger = 1h;
  RedisPages here(options), there(options);
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  follower.Join();
  REQUIRE(server.Keys() == std::vector{"t:{k}:" + leader.Token()});
  const long long left = server.Ask("PTTL", "t:{k}:" + leader.Token()).number;
  CHECK((left > 1'800'000 && left <= 3'600'000));
}

TEST_CASE("redis: calls for different keys are independent") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "a", "v"s);
  CHECK(*there.Do("b", [] { return "w"s; }) == "w");
}

TEST_CASE("redis: calls of groups with different prefixes are independent") {
  const RedisServer server;
  redis::Options other = OptionsFor(server);
  other.prefix = "u";
  RedisPages here(OptionsFor(server)), there(other);
  RedisLeader leader(here, "k", "v"s);
  CHECK(*there.Do("k", [] { return "w"s; }) == "w");
}

TEST_CASE("redis: calls of groups in different databases are independent") {
  const RedisServer server;
  redis::Options other = OptionsFor(server);
  other.database = 3;
  RedisPages here(OptionsFor(server)), there(other);
  RedisLeader leader(here, "k", "v"s);
  CHECK(*there.Do("k", [] { return "w"s; }) == "w");
  CHECK(there.GetStats().outages == 0);
}

TEST_CASE(
    "redis: an exception is unchanged in its own process, and a RemoteError with its message in "
    "others") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  std::optional<std::string> domain_error;
  std::optional<std::string> remote_error;
  {
    RedisLeader leader(here, "k",
                       [](const auto&) -> std::string { throw std::domain_error("no\0pe"s); });
    JoiningThread same([&] {
      try {
        static_cast<void>(here.Do("k", NeverRun));
      } catch (const std::domain_error& error) {
        domain_error = error.what();
      }
    });
    JoiningThread follower([&] {
      try {
        static_cast<void>(there.Do("k", NeverRun));
      } catch (const redis::RemoteError& error) {
        remote_error = error.what();
      }
    });
    AwaitCallers(here, "k", 2);
    Await([&] { return server.BlockedClients() == 1; });
    leader.Finish();
  }
  CHECK(domain_error == "no");
  CHECK(remote_error == "no");
  CHECK(here.GetStats().calls.failures == 1);
  CHECK(there.GetStats().remote == 1);
}

TEST_CASE(
    "redis: a thrown object that is not a std::exception reaches other processes as a message, "
    "too") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  std::optional<int> thrown;
  JoiningThread leader([&] {
    try {
      static_cast<void>(here.Do("k", [&]() -> std::string {
        Await([&] { return server.BlockedClients() == 1; });
        throw 42;
      }));
    } catch (int number) {
      thrown = number;
    }
  });
  AwaitCallers(here, "k", 1);
  Await([&] { return !server.Keys().empty(); });
  CHECK(Keep([&] { return there.Do("k", NeverRun); }).message ==
        "an exception that is not derived from std::exception");
  leader.join();
  CHECK(thrown == 42);
}

TEST_CASE(
    "redis: with kRetry a follower whose leader failed in another process runs its own function") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", [](const auto&) -> std::string { throw std::runtime_error("no"); });
  test::Caller follower(
      [&] { return there.Do("k", [] { return "mine"s; }, {.on_failure = OnFailure::kRetry}); });
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  CHECK(follower.Join().value == "mine");
  CHECK(follower.Join().role == Role::kLeader);
}

TEST_CASE(
    "redis: a function may take its lease, with the token on the server and a growing fence") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  std::uint64_t last = 0;
  for (RedisPages* pages : {&here, &there, &here}) {
    static_cast<void>(pages->Do("k", [&](const redis::Lease& lease) {
      CHECK(lease.Held());
      CHECK(lease.fence() > last);
      last = lease.fence();
      CHECK(server.Get(LeaseName("t", "k")) == std::string(lease.token()));
      CHECK(lease.token().size() == 32);
      return ""s;
    }));
  }
}

TEST_CASE("redis: a lease is renewed while its function runs") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.lease = 2s;
  RedisPages pages(options);
  const std::string name = LeaseName("t", "k");
  static_cast<void>(pages.Do("k", [&](const redis::Lease& lease) {
    for (int renewals = 0; renewals < 2; ++renewals) {
      long long left = server.Ask("PTTL", name).number;
      Await([&] {
        const long long before = std::exchange(left, server.Ask("PTTL", name).number);
        return left > before;
      });
    }
    CHECK(lease.Held());
    return ""s;
  }));
  CHECK(pages.GetStats().unpublished == 0);
}

TEST_CASE("redis: a leader older than the maximum age is replaced in every process") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.group.max_age = 300ms;
  RedisPages here(options), there(options);
  RedisLeader stuck(here, "k", "old"s);
  CHECK(server.Ask("PTTL", LeaseName("t", "k")).number <= 300);
  CHECK(*there.Do("k", [] { return "new"s; }) == "new");
  CHECK(*here.Do("k", [] { return "newer"s; }) == "newer");
  CHECK(stuck.Finish().value == "old");
  CHECK(here.GetStats().unpublished == 1);
}

TEST_CASE("redis: a leader that has lost its lease publishes nothing and deletes nothing") {
  const RedisServer server;
  RedisPages here(OptionsFor(server));
  RedisLeader leader(here, "k", "late"s);
  TakeLease(server, kToken + "+");
  CHECK(leader.Finish().value == "late");
  CHECK_FALSE(leader.Finish().shared);
  CHECK(server.Keys() == std::vector{LeaseName("t", "k")});
  CHECK(server.Get(LeaseName("t", "k")) == kToken + "+");
  CHECK(here.GetStats().unpublished == 1);
}

TEST_CASE("redis: a process learns that it has lost its lease") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.lease = 200ms;
  RedisPages pages(options);
  bool lost = false;
  static_cast<void>(pages.Do("k", [&](const redis::Lease& lease) {
    TakeLease(server, kToken);
    Await([&] { return !lease.Held(); });
    lost = true;
    return ""s;
  }));
  CHECK(lost);
}

TEST_CASE("redis: a follower takes over when the lease has expired without an outcome") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  server.Ask("SET", LeaseName("t", "k"), kToken, "PX", "100");
  CHECK(*pages.Do("k", [] { return "mine"s; }) == "mine");
  CHECK(pages.GetStats().takeovers == 1);
}

TEST_CASE("redis: Forget lets the next caller start a new call, in every process") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server)), third(OptionsFor(server));
  RedisLeader leader(here, "k", "old"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  CHECK(third.Forget("k"));
  CHECK(*third.Do("k", [] { return "new"s; }) == "new");
  CHECK(leader.Finish().value == "old");
  CHECK(leader.Finish().shared);
  CHECK(follower.Join().value == "old");
  CHECK(here.GetStats().unpublished == 0);
}

TEST_CASE("redis: a call that was forgotten before anybody joined is not published") {
  const RedisServer server;
  RedisPages here(OptionsFor(server));
  RedisLeader leader(here, "k", "old"s);
  CHECK(here.Forget("k"));
  CHECK(server.Keys() == std::vector{"t:{k}:forgotten:" + leader.Token()});
  CHECK(*here.Do("k", [] { return "new"s; }) == "new");
  CHECK_FALSE(leader.Finish().shared);
  CHECK(server.Keys().empty());
}

TEST_CASE("redis: the lease of a call that was forgotten is still renewed") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.lease = 1s;
  RedisPages here(options), there(options);
  RedisLeader leader(here, "k", "old"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  REQUIRE(here.Forget("k"));
  const std::string name = "t:{k}:forgotten:" + leader.Token();
  long long left = server.Ask("PTTL", name).number;
  Await([&] {
    const long long before = std::exchange(left, server.Ask("PTTL", name).number);
    return left > before;
  });
  leader.Finish();
  CHECK(follower.Join().value == "old");
}

TEST_CASE("redis: Forget says whether a call was in flight") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  CHECK_FALSE(here.Forget("k"));
  RedisLeader leader(here, "k", "v"s);
  CHECK(there.Forget("k"));
  CHECK_FALSE(there.Forget("k"));
  leader.Finish();
  CHECK_FALSE(here.Forget("k"));
}

TEST_CASE("redis: keys of any bytes, and the empty key, are distinct") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  const std::vector<std::string> keys = {"",         "}",   "}x",   "a{b", "{}",   "{a}b",
                                         "a}:lease", "\0"s, "\0x"s, " ",   "\r\n", "\xff\xfe%b%s",
                                         "a:{b}",    "a"};
  std::vector<std::unique_ptr<RedisLeader<>>> leaders;
  for (const std::string& key : keys) {
    leaders.push_back(std::make_unique<RedisLeader<>>(here, key, "of " + key));
  }
  std::vector<std::unique_ptr<test::Caller<std::string>>> followers;
  for (const std::string& key : keys) {
    followers.push_back(
        std::make_unique<test::Caller<std::string>>([&] { return there.Do(key, NeverRun); }));
  }
  Await([&] { return server.BlockedClients() == static_cast<long long>(keys.size()); });
  for (auto& leader : leaders) leader->Finish();
  for (std::size_t i = 0; i < keys.size(); ++i)
    CHECK(followers[i]->Join().value == "of " + keys[i]);
}

TEST_CASE("redis: a null pointer is not a key") {
  redis::Group<int> group;
  const char* const null = nullptr;
  CHECK_THROWS_AS(static_cast<void>(group.Do(null, [] { return 1; })), std::invalid_argument);
  CHECK_THROWS_AS(static_cast<void>(group.Do(null, [] { return 1; }, {})), std::invalid_argument);
  CHECK_THROWS_AS(group.Forget(null), std::invalid_argument);
  CHECK_THROWS_AS(group.Callers(null), std::invalid_argument);
}

TEST_CASE("redis: values of any bytes, of no bytes and of 16 MiB reach other processes unchanged") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  std::string large(16 << 20, 'x');
  for (std::size_t i = 0; i < large.size(); i += 4099) large[i] = static_cast<char>(i >> 12);
  for (const std::string& value : {""s, "\0\r\n\xff"s, large}) {
    RedisLeader leader(here, "k", value);
    test::Caller follower([&] { return there.Do("k", NeverRun); });
    Await([&] { return server.BlockedClients() == 1; });
    CHECK((leader.Finish().value == value));
    CHECK((follower.Join().value == value));
  }
}

TEST_CASE("redis: a struct whose codec derives from CopyBytes reaches other processes") {
  const RedisServer server;
  redis::Group<Point> here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader<redis::Group<Point>> leader(here, "k", Point{3, 0.5});
  test::Caller follower([&] { return there.Do("k", []() -> Point { throw 1; }); });
  Await([&] { return server.BlockedClients() == 1; });
  leader.Finish();
  REQUIRE(follower.Join().value);
  CHECK(follower.Join().value->x == 3);
  CHECK(follower.Join().value->y == 0.5);
}

TEST_CASE(
    "redis: a value that cannot be copied or assigned reaches other processes through its codec") {
  const RedisServer server;
  redis::Group<MoveOnly> here(OptionsFor(server)), there(OptionsFor(server));
  int led = 0, followed = 0;
  {
    JoiningThread leader([&] {
      led = *here.Do("k",
                     [&] {
                       Await([&] { return server.BlockedClients() == 1; });
                       return MoveOnly(7);
                     })
                 ->number;
    });
    Await([&] { return !server.Keys().empty(); });
    followed = *there.Do("k", []() -> MoveOnly { throw 1; })->number;
  }
  CHECK(led == 7);
  CHECK(followed == 7);
}

TEST_CASE("redis: a Value may be void") {
  const RedisServer server;
  redis::Group<void> here(OptionsFor(server)), there(OptionsFor(server));
  bool shared = false;
  {
    JoiningThread leader([&] {
      shared = here.Do("k", [&] { Await([&] { return server.BlockedClients() == 1; }); }).shared();
    });
    Await([&] { return !server.Keys().empty(); });
    const Result<void> result = there.Do("k", [] { throw 1; });
    CHECK(result.shared());
    CHECK(result.role() == Role::kFollower);
  }
  CHECK(shared);
}

TEST_CASE("redis: an outcome that a codec cannot read counts as if its leader had died") {
  const RedisServer server;
  for (const int number : {100, -1}) {  // Decode returns nothing for 100, and throws for -1
    redis::Group<int, SmallNumbers> here(OptionsFor(server)), there(OptionsFor(server));
    RedisLeader<redis::Group<int, SmallNumbers>> leader(here, "k", number);
    test::Caller follower([&] { return there.Do("k", [] { return 5; }); });
    Await([&] { return server.BlockedClients() == 1; });
    CHECK(leader.Finish().value == number);
    CHECK(follower.Join().value == 5);
    CHECK(there.GetStats().undecodable == 1);
    CHECK(there.GetStats().takeovers == 1);
  }
}

TEST_CASE("redis: an exception from Encode reaches all callers") {
  struct Refuses {
    static std::string Encode(const int&) { throw std::runtime_error("not this one"); }
    static std::optional<int> Decode(std::string_view) { return std::nullopt; }
  };
  const RedisServer server;
  redis::Group<int, Refuses> here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader<redis::Group<int, Refuses>> leader(here, "k", 1);
  test::Caller follower([&] { return there.Do("k", [] { return 2; }); });
  Await([&] { return server.BlockedClients() == 1; });
  CHECK(leader.Finish().message == "not this one");
  CHECK(follower.Join().message == "not this one");
}

TEST_CASE(
    "redis: an outcome of another format, or a damaged one, counts as if its leader had died") {
  using redis::detail::Pack, redis::detail::PayloadKind, redis::detail::Checksum;
  const std::string whole = Pack({PayloadKind::kValue, "v"}, kToken);
  const auto with = [&](std::size_t at, char byte) {
    std::string changed = whole;
    changed[at] = byte;
    return changed;
  };
  std::string of_tomorrow = with(0, 2);
  const std::uint64_t checksum = Checksum(kToken, std::string_view(of_tomorrow).substr(0, 2), "v");
  for (std::size_t i = 0; i < 8; ++i) of_tomorrow[2 + i] = static_cast<char>(checksum >> 8 * i);
  const RedisServer server;
  for (const std::string& payload :
       {""s, "x"s, of_tomorrow, with(0, 0), with(1, 2), with(1, 9), with(5, 'x'), whole + "x",
        whole.substr(0, 10), Pack({PayloadKind::kValue, "v"}, std::string(32, 'a')),
        Pack({static_cast<PayloadKind>(9), "v"}, kToken)}) {
    RedisPages pages(OptionsFor(server));
    TakeLease(server, kToken);
    test::Caller follower([&] { return pages.Do("k", [] { return "mine"s; }); });
    Await([&] { return server.BlockedClients() == 1; });
    PutOutcome(server, kToken, payload);
    CHECK(follower.Join().value == "mine");
    CHECK(pages.GetStats().undecodable == 1);
    server.Ask("FLUSHALL");
  }
}

TEST_CASE("redis: a valid outcome is read, whoever wrote it") {
  using redis::detail::Pack, redis::detail::PayloadKind;
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  TakeLease(server, kToken);
  test::Caller follower([&] { return pages.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  PutOutcome(server, kToken, Pack({PayloadKind::kValue, "v"}, kToken));
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: an outcome that is there before a follower waits for it is not lost") {
  using redis::detail::Pack, redis::detail::PayloadKind;
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  TakeLease(server, kToken);
  server.Ask("XADD", "t:{k}:" + kToken, "*", "outcome", Pack({PayloadKind::kValue, "v"}, kToken));
  CHECK(*pages.Do("k", NeverRun) == "v");
}

TEST_CASE("redis: a follower does not take the lease of a call that may still have an outcome") {
  namespace detail = redis::detail;
  const RedisServer server;
  const redis::Options options = OptionsFor(server);
  detail::Server connections(options);
  detail::LeaseCommands leases(connections, options);
  const detail::RedisKeys names("t", "k");
  const std::string mine = detail::NewToken();
  const auto holder = [&] { return leases.Take(names, mine, 1h, kToken).token; };

  server.Ask("SET", names.Forgotten(kToken), kToken, "PX", "3600000");
  CHECK(holder() == kToken);
  server.Ask("DEL", names.Forgotten(kToken));
  PutOutcome(server, kToken, "v");
  CHECK(holder() == kToken);
  server.Ask("DEL", names.Outcome(kToken));
  CHECK(holder() == mine);
}

// The model tests/model/lease.pml found what goes wrong otherwise.
TEST_CASE("redis: a process that asks for a lease again after a lost answer finds its own call") {
  namespace detail = redis::detail;
  const RedisServer server;
  const redis::Options options = OptionsFor(server);
  detail::Server connections(options);
  detail::LeaseCommands leases(connections, options);
  const detail::RedisKeys names("t", "k");
  const std::string mine = detail::NewToken(), other = detail::NewToken();
  const auto holder = [&](const std::string& token) {
    return leases.Take(names, token, 1h, "").token;
  };

  CHECK(holder(mine) == mine);
  CHECK(holder(mine) == mine);
  CHECK(holder(other) == mine);
  REQUIRE(leases.Forget(names));
  CHECK(holder(mine) == mine);
  CHECK(leases.Publish(names, mine, "v") == detail::LeaseCommands::Published::kToOthers);
  CHECK(leases.Publish(names, mine, "v") == detail::LeaseCommands::Published::kToOthers);
  CHECK(holder(mine) == mine);  // takes no lease for a landed call, as the next line shows
  CHECK(holder(other) == other);
}

TEST_CASE("redis: a foreign entry in the stream does not keep the outcome from followers") {
  const RedisServer server;
  RedisPages here(OptionsFor(server)), there(OptionsFor(server));
  RedisLeader leader(here, "k", "v"s);
  test::Caller follower([&] { return there.Do("k", NeverRun); });
  Await([&] { return server.BlockedClients() == 1; });
  server.Ask("XADD", "t:{k}:" + leader.Token(), "*", "outcome", "nonsense");
  Await([&] { return there.GetStats().undecodable == 1 && server.BlockedClients() == 1; });
  leader.Finish();
  CHECK(follower.Join().value == "v");
}

TEST_CASE("redis: a function that asks for its own key is refused") {
  const RedisServer server;
  RedisPages pages(OptionsFor(server));
  std::optional<std::errc> error;
  static_cast<void>(pages.Do("k", [&] {
    error = ErrorOf([&] { return pages.Do("k", NeverRun); });
    return ""s;
  }));
  CHECK(error == std::errc::resource_deadlock_would_occur);
}

TEST_CASE("redis: the limits apply to the process's own group") {
  const RedisServer server;
  redis::Options options = OptionsFor(server);
  options.group.max_callers_per_call = 1;
  RedisPages pages(options);
  RedisLeader leader(pages, "k", "v"s);
  CHECK(ErrorOf([&] { return pages.Do("k", NeverRun); }) ==
        std::errc::resource_unavailable_try_again);
}

TEST_CASE("redis: options that make no sense are refused at once") {
  std::vector<redis::Options> wrong(14);
  wrong[0].host = "";
  wrong[1].port = 0;
  wrong[2].port = 65536;
  wrong[3].database = -1;
  wrong[4].prefix = "a{b";
  wrong[5].prefix = "a}b";
  wrong[6].lease = 9ms;
  wrong[7].linger = 0ms;
  wrong[8].connect_timeout = 0ms;
  wrong[9].command_timeout = -1ms;
  wrong[10].retry_after = -1ms;
  wrong[11].user = "without a password";
  wrong[12].lease = std::chrono::milliseconds::max();
  wrong[13].tls.emplace();  // hiredis has no TLS, or no certificate authority is given
  for (const redis::Options& options : wrong) {
    CHECK_THROWS_AS(RedisPages(options), std::invalid_argument);
  }
}

TEST_CASE("redis: tokens are well formed and do not repeat") {
  std::vector<std::string> tokens;
  for (int i = 0; i < 1000; ++i) tokens.push_back(redis::detail::NewToken());
  CHECK(std::ranges::all_of(tokens, redis::detail::IsToken));
  std::ranges::sort(tokens);
  CHECK(std::ranges::adjacent_find(tokens) == tokens.end());
}

TEST_CASE("redis: the slot of a name is the slot of its tag") {
  using redis::detail::SlotOf;
  CHECK(SlotOf("123456789") == 0x31c3 % 16384);  // the check value of CRC-16/XMODEM
  CHECK(SlotOf("a:{123456789}:lease") == 0x31c3 % 16384);
  CHECK(SlotOf("{}x") == SlotOf("{}x"));
  CHECK(SlotOf("{}x") != SlotOf("x"));
  for (const std::string key : {"", "}", "}x", "a}b", "{", "{}"}) {
    const redis::detail::RedisKeys names("p", key);
    CHECK(SlotOf(names.Lease()) == SlotOf(names.Outcome(kToken)));
    CHECK(SlotOf(names.Lease()) == SlotOf(names.Forgotten(kToken)));
  }
}

// SPDX-License-Identifier: MIT

// Promise 1 across processes: all callers that ask for a key at the same time get the result of one
// execution.

#include <cstddef>
#include <list>
#include <ostream>
#include <set>
#include <singleflight/redis_options.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "members.hpp"
#include "processes.hpp"
#include "server.hpp"
#include "support/catch.hpp"
#include "support/support.hpp"

using namespace test;
using singleflight::Role;

namespace {

constexpr std::size_t kProcesses = 8;
constexpr std::size_t kThreads = 16;
constexpr std::size_t kKeys = 200;

// Starts `count` processes, named process0, process1 and so on.
std::list<RedisMember> StartFleet(const RedisServer& server, std::size_t count) {
  std::list<RedisMember> fleet;
  for (std::size_t i = 0; i < count; ++i) {
    fleet.emplace_back("process" + std::to_string(i), server.Socket());
  }
  return fleet;
}

// Returns when all threads of all processes are on the call for `key`, and all processes but the
// leader's wait for its outcome.
void AwaitWholeFleet(const RedisServer& server, std::list<RedisMember>& fleet,
                     std::string_view key) {
  for (RedisMember& member : fleet) {
    AwaitInTime([&] { return member.Callers(key) == kThreads; });
  }
  const std::string lease = LeaseName("fleet", std::string(key));
  AwaitInTime([&] { return InboxesAt(server, lease).size() == fleet.size() - 1; });
}

// A Landing is what all callers of one call got.
struct Landing {
  std::set<std::string> values;
  std::size_t values_given = 0;
  std::size_t leaders = 0;
  std::size_t alone = 0;

  bool operator==(const Landing&) const = default;
};

std::ostream& operator<<(std::ostream& out, const Landing& landing) {
  out << "{" << landing.values_given << " callers got one of:";
  for (const std::string& value : landing.values) out << ' ' << value;
  return out << ", leaders " << landing.leaders << ", not shared " << landing.alone << "}";
}

}  // namespace

TEST_CASE(
    "redis: 8 processes of 16 threads ask for 200 keys, and each is executed once for all 128") {
  const RedisServer server;
  std::list<RedisMember> fleet = StartFleet(server, kProcesses);
  std::vector<std::string> keys;
  std::string all_keys;
  for (std::size_t i = 0; i < kKeys; ++i) {
    keys.push_back("key" + std::to_string(i));
    all_keys += keys.back() + ' ';
  }
  for (RedisMember& member : fleet) member.Ask(all_keys, kThreads);

  for (const std::string& key : keys) {
    AwaitWholeFleet(server, fleet, key);
    for (RedisMember& member : fleet) member.Order(key, "return");
    Landing landing;
    std::string leader;
    std::size_t number = 0;
    for (RedisMember& member : fleet) {
      for (std::size_t i = 0; i < kThreads; ++i) {
        const MemberOutcome outcome = member.AwaitOutcome(key);
        landing.values.insert(outcome.value);
        ++landing.values_given;
        landing.alone += outcome.shared ? 0 : 1;
        if (outcome.role == Role::kLeader) {
          ++landing.leaders;
          leader = "process" + std::to_string(number);
        }
      }
      ++number;
    }
    CHECK(landing == Landing{.values = {leader + ':' + key},
                             .values_given = kProcesses * kThreads,
                             .leaders = 1,
                             .alone = 0});
  }

  singleflight::redis::Stats sum;
  std::size_t runs = 0;
  for (RedisMember& member : fleet) {
    const singleflight::redis::Stats stats = member.GetStats();
    sum.executions += stats.executions;
    sum.remote += stats.remote;
    sum.takeovers += stats.takeovers;
    sum.unpublished += stats.unpublished;
    sum.untold += stats.untold;
    sum.told_to_run += stats.told_to_run;
    sum.lost_leases += stats.lost_leases;
    sum.undecodable += stats.undecodable;
    sum.outages += stats.outages;
    sum.calls.executions += stats.calls.executions;
    sum.calls.followers += stats.calls.followers;
    sum.calls.failures += stats.calls.failures;
    runs += member.Unread("running");
    CHECK(member.End() == "exit 0");
  }
  CHECK(runs == kKeys);
  CHECK((sum ==
         singleflight::redis::Stats{.executions = kKeys,
                                    .remote = (kProcesses - 1) * kKeys,
                                    .calls = {.executions = kProcesses * kKeys,
                                              .followers = kProcesses * (kThreads - 1) * kKeys}}));
  CHECK(server.Keys("*:lease").empty());
}

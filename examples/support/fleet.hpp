// SPDX-License-Identifier: MIT
#pragma once

// One process of redis_fleet.cpp, and how its counts are printed.

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <iostream>
#include <singleflight/redis.hpp>
#include <string>
#include <vector>

#include "event_loop.hpp"
#include "redis_own_server.hpp"

// A process with one client, one group, and one thread that runs all of its coroutines.
//
// Lifetime: it is made after the fork.
class FleetMember {
 public:
  FleetMember(const std::string& socket, std::chrono::milliseconds lease)
      // A slow machine must not look like an outage.
      : client_({.unix_socket = socket,
                 .client_name = NameOf(::getpid()),
                 .connect_timeout = std::chrono::minutes(1),
                 .command_timeout = std::chrono::minutes(1)}),
        group_(client_, "redis_fleet",
               {.lease = lease, .on_outage = singleflight::redis::OnOutage::kFail}),
        server_(socket) {}

  Loop& EventLoop() { return loop_; }
  singleflight::redis::Group<std::string>& Group() { return group_; }

  // Runs the coroutines. Returns how many have got the right answer.
  int Run(const std::vector<Task<bool>>& asked) {
    loop_.RunUntil([&] { return std::ranges::all_of(asked, &Task<bool>::Done); });
    return static_cast<int>(std::ranges::count(asked, true, &Task<bool>::Result));
  }

  // Returns how many other processes follow the call for `key`. The lease of a call is a hash with
  // seven fields, and one more for each of them.
  std::size_t ProcessesThatFollow(const std::string& key) {
    const auto fields = std::stoul(server_.Ask("HLEN redis_fleet:{" + key + "}:lease"));
    return fields < 7 ? 0 : fields - 7;
  }
  // Returns how many connections this process's client has.
  int Connections() {
    const std::string clients = server_.Ask("CLIENT LIST"), name = NameOf(::getpid());
    int count = 0;
    for (auto at = clients.find(name); at != clients.npos; at = clients.find(name, at + 1)) ++count;
    return count;
  }

 private:
  static std::string NameOf(pid_t process) {
    return "redis_fleet." + std::to_string(process) + ".";
  }

  Loop loop_;
  singleflight::redis::Client client_;
  singleflight::redis::Group<std::string> group_;
  PlainRedis server_;  // only for the counts above: a process of yours needs none
};

template <class Counts>
void PrintCounts(const char* what, const Counts& counts) {
  std::cout << "  " << what << ':';
  for (const int count : counts) std::cout << ' ' << count;
  std::cout << '\n';
}
template <class Counts>
int SumOf(const Counts& counts) {
  int sum = 0;
  for (const int count : counts) sum += count;
  return sum;
}

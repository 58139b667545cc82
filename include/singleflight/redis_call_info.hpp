// SPDX-License-Identifier: MIT
#pragma once

// LeaseInfo: one lease of the fleet, as InspectFleet of a redis::Group and of a redis::ReadThrough
// sees it on the server.
//
//   for (const singleflight::redis::LeaseInfo& lease : pages.InspectFleet({.timeout = 1s})) {
//     page << lease.key << " is led by " << lease.host << ':' << lease.pid << " for "
//          << lease.age.count() << " ms, and " << lease.followers << " processes follow\n";
//   }

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

namespace singleflight::redis {

// Describes one lease at the moment when the server was asked about it. All times are measured by
// the server's clock.
struct LeaseInfo {
  std::string key;
  std::string host;                     // of the process that leads
  std::int64_t pid = 0;                 // of that process. 0 if it is not known
  std::string token;                    // as Lease::token() of the leader
  std::uint64_t fence = 0;              // as Lease::fence() of the leader
  std::chrono::milliseconds age = {};   // since the lease was made
  std::chrono::milliseconds left = {};  // until it expires, if it is not renewed
  std::size_t followers = 0;            // other processes that follow. Their callers are not known
  bool forgotten = false;               // the next caller starts a new call

  bool operator==(const LeaseInfo&) const = default;
};

}  // namespace singleflight::redis

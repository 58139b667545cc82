// SPDX-License-Identifier: MIT
#pragma once

// What a redis::Group or a redis::ReadThrough says about the work that is in flight. CallInfo: one
// call of this process, as Inspect sees it. LeaseInfo: one lease of the fleet, as InspectFleet sees
// it on the server.
//
//   for (const singleflight::redis::CallInfo& call : pages.Inspect()) {
//     page << call.key << ": " << call.callers << " callers"
//          << (call.phase == singleflight::redis::CallPhase::kLeading ? ", run here\n" : "\n");
//   }
//   for (const singleflight::redis::LeaseInfo& lease : pages.InspectFleet({.timeout = 1s})) {
//     page << lease.key << " is led by " << lease.host << ':' << lease.pid << " for "
//          << lease.age.count() << " ms, and " << lease.followers << " processes follow\n";
//   }

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>

#include "call_info.hpp"

namespace singleflight::redis {

// How far a call of this process is.
enum class CallPhase : unsigned char {
  kAsking,     // it is not known so far who leads
  kFollowing,  // another process leads, or did when the server was last asked
  kLeading,    // this process has begun the call's work
};

struct CallInfo : singleflight::CallInfo<std::string> {
  CallPhase phase;
};

// Describes one lease at the moment when the server was asked about it. All times are measured by
// the server's clock.
struct LeaseInfo {
  std::string key = {};
  std::string host = {};                // of the process that leads
  std::int64_t pid = 0;                 // of that process. 0 if it is not known
  std::string token = {};               // as Lease::token() of the leader
  std::uint64_t fence = 0;              // as Lease::fence() of the leader
  std::chrono::milliseconds age = {};   // since the lease was made
  std::chrono::milliseconds left = {};  // until it expires, if it is not renewed
  std::size_t followers = 0;            // other processes that follow. Their callers are not known
  // The tag of the leader's listener, in the bytes that its Codec has made: see redis_listener.hpp.
  // Empty if it has sent none, or if the tag of this group's listener is of another type.
  std::string leader = {};
  bool forgotten = false;  // the next caller starts a new call

  bool operator==(const LeaseInfo&) const = default;
};

}  // namespace singleflight::redis

// SPDX-License-Identifier: MIT
#pragma once

// Options configures a redis::Group, with OnOutage. Stats says what a Group has done.

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "options.hpp"

namespace singleflight::redis {

// Says what a caller gets while the server cannot be used.
enum class OnOutage : unsigned char {
  kRunLocally,  // the process's own call continues: one execution a process
  kFail,        // a std::system_error: `not_connected` or `protocol_error`
};

// Runs a function, once, somewhere.
using Executor = std::function<void(std::function<void()>)>;

// Group's constructor throws std::invalid_argument for an option out of its range. Durations are in
// milliseconds, and at most a year.
struct Options {
  // How long the others wait for a leader that has gone silent. The lease is renewed while `fn`
  // runs, at each third of it. A leader whose process stalls for longer may be overtaken. At least
  // 10 ms.
  std::chrono::milliseconds lease = std::chrono::seconds(10);

  // How long the server keeps an outcome that others follow, for those whom a message did not
  // reach. They ask again twice within that time. At least 2 ms.
  std::chrono::milliseconds linger = std::chrono::seconds(2);

  // A value that is larger, encoded, does not travel: the processes that follow run `fn`
  // themselves, at once. So does one for which `max_queued_bytes` leaves no room. Keep this below
  // `max_reply_bytes`: a follower that cannot read an outcome treats it as an outage.
  std::size_t max_value = std::size_t{8} << 20;

  OnOutage on_outage = OnOutage::kRunLocally;

  // Runs a plain `fn` of CoDo and CoDoMany that has no executor of its own. The executor is called
  // on a thread of the client's, and must not block. Empty: a new thread for each.
  Executor executor = {};

  // The limits of the process's own group. The lease of a call older than `max_age` is not renewed
  // any more, so that a stuck leader is overtaken everywhere.
  GroupOptions group = {};
};

// Counts exactly what a Group has done in this process since it was made.
struct Stats {
  std::uint64_t executions = 0;  // calls whose work this process began, or was about to
  std::uint64_t remote = 0;      // calls of this process that another process ran `fn` for
  std::uint64_t takeovers = 0;   // leases taken after waiting for one that gave no outcome
  // Outcomes that could not be published under their lease: it was lost, or the server could not be
  // used until it had expired.
  std::uint64_t unpublished = 0;
  // Outcomes that could not be told: larger than max_value, refused by the server, or too slow for
  // the connection. The processes that followed were told to run `fn` themselves.
  std::uint64_t untold = 0;
  std::uint64_t told_to_run = 0;      // calls of this process that were told so
  std::uint64_t failed_renewals = 0;  // renewals without an answer. They are tried again
  std::uint64_t lost_leases = 0;      // leases that another process has taken while `fn` ran
  std::uint64_t undecodable = 0;      // outcomes of other processes that did not decode
  std::uint64_t outages = 0;          // calls, and Forgets, that met no server that could be used
  // Counts of the process's own group.
  singleflight::Stats calls = {};

  bool operator==(const Stats&) const = default;
};

template <class Visitor>
void ForEachStat(const Stats& stats, Visitor&& visit) {
  visit.Counter("redis_executions", "Calls whose work this process began.", stats.executions);
  visit.Counter("redis_remote", "Calls that another process did the work for.", stats.remote);
  visit.Counter("redis_takeovers", "Leases taken after one that gave no outcome.", stats.takeovers);
  visit.Counter("redis_unpublished", "Outcomes that could not be published under their lease.",
                stats.unpublished);
  visit.Counter("redis_untold", "Outcomes that could not be told to other processes.",
                stats.untold);
  visit.Counter("redis_told_to_run", "Calls whose work this process was told to do itself.",
                stats.told_to_run);
  visit.Counter("redis_failed_renewals", "Renewals of a lease without an answer.",
                stats.failed_renewals);
  visit.Counter("redis_lost_leases", "Leases that another process took during the work.",
                stats.lost_leases);
  visit.Counter("redis_undecodable", "Outcomes of other processes that did not decode.",
                stats.undecodable);
  visit.Counter("redis_outages", "Operations that met no server that could be used.",
                stats.outages);
  ForEachStat(stats.calls, visit);
}

}  // namespace singleflight::redis

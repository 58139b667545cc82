// SPDX-License-Identifier: MIT
#pragma once

// Client: a process's connections to a Redis or Valkey server, for any number of groups.
//
//   singleflight::redis::Client redis({.host = "redis"});
//
// It has one thread for its connections, which are at most two to a server. While there is
// something to deliver, it has a second thread, and each name is looked up on a thread of its own.
// It connects when it is first used. While a server is away, the client alone tries it again, and
// nobody waits for that.
//
// Describe is made for a log:
//
//   redis:6379: away since 2026-11-27T08:11:09Z: Connection refused
//
// A Client is not a general Redis client: only the groups of this library send commands through it.

#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "detail/redis/client_core.hpp"
#include "detail/redis/fleet.hpp"
#include "detail/redis/resolver.hpp"
#include "redis_client_options.hpp"

namespace singleflight::redis {

namespace detail {
struct ClientAccess;
}  // namespace detail

// Returns what is known of a server in one line, for a log or a page.
inline std::string Describe(const NodeInfo& node) {
  constexpr const char* kStates[] = {"not used", "connecting", "up", "away"};
  const std::time_t since = std::chrono::system_clock::to_time_t(node.since);
  std::tm utc = {};
  ::gmtime_r(&since, &utc);
  char time[32] = "";
  std::strftime(time, sizeof(time), "%Y-%m-%dT%H:%M:%SZ", &utc);
  std::string text = (node.is_sentinel ? "Sentinel " : "") + node.address + ": " +
                     kStates[static_cast<unsigned char>(node.state)] + " since " + time;
  return node.why.empty() ? text : text + ": " + node.why;
}

class Client {
 public:
  // Connects to nothing yet.
  //
  // Errors: std::invalid_argument for an option out of its range, and std::system_error if the
  //   process has no more file descriptors.
  explicit Client(const ClientOptions& options = {}) : Client(options, detail::SystemLookUp()) {}

  // Waits until outcomes that are being published are on the server, at most for command_timeout.
  // Then closes the connections, and waits until all callers have been notified.
  //
  // Lifetime: groups that use the client are destroyed before it. In a forked child, where the
  //   client has no thread, it is leaked.
  ~Client() {
    if (core_->Loop().IsForked()) {
      static_cast<void>(core_.release());
      static_cast<void>(fleet_.release());
      return;
    }
    fleet_->AwaitPublishing(patience_);
    fleet_->Deliveries().Close();  // what it runs last may post to the loop
    core_->Close([this] { fleet_->Close(); });
    fleet_ = nullptr;
  }

  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // Returns what is known of each server: the state it is in, since when and why. Before the first
  // use, and in a forked child, there are none.
  //
  // Thread: any.
  std::vector<NodeInfo> Nodes() const { return core_->Nodes(); }

  // Returns the same as text, a line for each server.
  std::string Describe() const {
    std::string text;
    for (const NodeInfo& node : Nodes()) text += redis::Describe(node) + '\n';
    return text;
  }

 private:
  friend struct detail::ClientAccess;

  Client(const ClientOptions& options, detail::LookUp look_up)
      : patience_(options.command_timeout),
        core_(std::make_unique<detail::ClientCore>(options, std::move(look_up))),
        fleet_(std::make_unique<detail::Fleet>(*core_)) {}

  const std::chrono::milliseconds patience_;
  std::unique_ptr<detail::ClientCore> core_;
  std::unique_ptr<detail::Fleet> fleet_;
};

// Visits each server that the client knows of: see observe.hpp.
template <class Visitor>
void ForEachStat(const Client& client, Visitor&& visit) {
  for (const NodeInfo& node : client.Nodes()) ForEachStat(node, visit);
}

namespace detail {

// Lets the groups of this library use a Client, and its tests look names up in their own way.
struct ClientAccess {
  static Client Make(const ClientOptions& options, LookUp look_up) {
    return Client(options, std::move(look_up));
  }
  static ClientCore& Core(Client& client) noexcept { return *client.core_; }
  static detail::Fleet& FleetOf(Client& client) noexcept { return *client.fleet_; }
};

}  // namespace detail

}  // namespace singleflight::redis

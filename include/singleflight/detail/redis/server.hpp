// SPDX-License-Identifier: MIT
#pragma once

// Server: sends a command to the server and returns its reply. It has a connection pool, which
// connects on demand, and a circuit breaker for each endpoint. It remembers the redirections of a
// Redis Cluster.

#include <algorithm>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <exception>
#include <iterator>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "../../redis_options.hpp"
#include "connection.hpp"
#include "outage.hpp"

namespace singleflight::redis::detail {

// Returns the Redis Cluster slot of `name`: the CRC-16/XMODEM of what is between its first opening
// brace and the next closing one. If that is empty or missing, the whole name counts. Source: "Key
// distribution model" in the Redis Cluster specification.
inline unsigned SlotOf(std::string_view name) noexcept {
  const std::size_t open = name.find('{');
  const std::size_t close = name.find('}', open);
  if (close != std::string_view::npos && close > open + 1) {
    name = name.substr(open + 1, close - open - 1);
  }
  unsigned crc = 0;
  for (const char byte : name) {
    crc ^= static_cast<unsigned>(static_cast<unsigned char>(byte)) << 8;
    for (int bit = 0; bit < 8; ++bit) {
      crc = (crc << 1 ^ ((crc & 0x8000) != 0 ? 0x1021U : 0U)) & 0xffff;
    }
  }
  return crc % 16384;
}

// A Redis Cluster node answers "MOVED 3999 127.0.0.1:6381" if another node serves the name's slot.
struct Redirection {
  unsigned slot;
  Endpoint to;
};

inline std::optional<Redirection> ParseRedirection(std::string_view error, const Endpoint& from) {
  constexpr std::string_view kMoved = "MOVED ";
  if (!error.starts_with(kMoved)) return std::nullopt;
  error.remove_prefix(kMoved.size());
  const std::size_t space = error.find(' ');
  const std::size_t colon = error.rfind(':');  // the last one: an IPv6 address has some, too
  if (space == std::string_view::npos || colon == std::string_view::npos || colon <= space) {
    return std::nullopt;
  }
  const auto number = [](std::string_view digits, auto& value) {
    const auto [end, failed] = std::from_chars(digits.begin(), digits.end(), value);
    return failed == std::errc() && end == digits.end();
  };
  Redirection move{};
  move.to.host = error.substr(space + 1, colon - space - 1);
  if (move.to.host.empty()) move.to.host = from.host;  // the node does not know its own address
  if (!number(error.substr(0, space), move.slot) ||
      !number(error.substr(colon + 1), move.to.port)) {
    return std::nullopt;
  }
  return move;
}

// Says what Ask does while the circuit breaker is open, that is, for `retry_after` after a failure.
// New work fails at once. Work in progress tries all the same.
enum class WhenAway : bool { kFail, kTry };

// Every member may be called from any thread.
class Server {
 public:
  explicit Server(const Options& options) : options_(options) {}

  // Sends a command about `name` and returns the reply, which is not an error. A command that
  // failed on one connection is sent once more on a new one, so it must be idempotent. The reply is
  // null only for a blocking command that `limit` or the server cut short.
  //
  // Errors: Outage, within 2 * (connect_timeout + command_timeout). For a blocking command,
  //   server_waits + command_timeout are added to that.
  Reply Ask(std::string_view name, std::span<const std::string_view> command, WhenAway when_away) {
    return Ask(name, command, when_away, {}, {Clock::time_point::max()});
  }
  Reply Ask(std::string_view name, std::span<const std::string_view> command, WhenAway when_away,
            std::chrono::milliseconds server_waits, const WaitLimit& limit) {
    for (int redirections = 0;; ++redirections) {
      const Endpoint where = EndpointOf(name);
      if (when_away == WhenAway::kFail) ThrowIfAway(where);
      Reply reply = AskAt(where, command, server_waits, limit);
      if (reply == nullptr || reply->type != REDIS_REPLY_ERROR) return reply;
      const std::string_view error = TextOf(*reply);
      const bool is_demoted =
          error.find("READONLY") != std::string_view::npos || error.starts_with("UNBLOCKED");
      if (is_demoted) Drop(where);  // another node is the master now
      if (error.starts_with("UNBLOCKED") && server_waits.count() > 0) return nullptr;
      std::optional<Redirection> move = ParseRedirection(error, where);
      if (!move || redirections == kMaxRedirections) {
        throw Outage(std::errc::protocol_error, std::string(error));
      }
      const std::lock_guard lock(mutex_);
      moved_[move->slot] = std::move(move->to);
    }
  }

  Endpoint EndpointOf(std::string_view name) const {
    const std::lock_guard lock(mutex_);
    if (!moved_.empty()) {
      if (const auto found = moved_.find(SlotOf(name)); found != moved_.end()) {
        return found->second;
      }
    }
    return {options_.host, options_.port};
  }

  // Remembers an outage that a caller has met, for LastOutage.
  void NoteOutage(const Outage& outage) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      last_outage_ = outage.what();
    } catch (const std::exception&) {  // no memory for the text
    }
  }
  std::string LastOutage() const {
    const std::lock_guard lock(mutex_);
    return last_outage_;
  }

 private:
  static constexpr int kMaxRedirections = 5;  // redirections that are followed for one command

  Reply AskAt(const Endpoint& where, std::span<const std::string_view> command,
              std::chrono::milliseconds server_waits, const WaitLimit& limit) {
    const auto ask = [&](std::unique_ptr<Connection> connection) {
      Reply reply = connection->Ask(command, server_waits, limit);
      GiveBack(std::move(connection));
      return reply;
    };
    try {
      try {
        std::unique_ptr<Connection> connection = TakeIdle(where);
        if (connection == nullptr) connection = std::make_unique<Connection>(options_, where);
        return ask(std::move(connection));
      } catch (const Outage& outage) {
        // A blocking command that has used up its time is not repeated.
        const bool has_blocked = outage.IsTimeout() && server_waits.count() > 0;
        if (!outage.IsConnectionLoss() || has_blocked) throw;
        Drop(where);  // its idle connections are probably broken, too
      }
      return ask(std::make_unique<Connection>(options_, where));
    } catch (const Outage& outage) {
      if (outage.IsConnectionLoss()) MarkAway(where, outage.what());
      throw;
    }
  }

  // Spares new work the timeouts of an endpoint whose circuit breaker is open.
  void ThrowIfAway(const Endpoint& where) const {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(away_.begin(), away_.end(),
                                    [&](const Away& away) { return away.where == where; });
    if (found != away_.end() && Clock::now() < found->until) {
      throw Outage(std::errc::not_connected,
                   "not contacted for `retry_after` after: " + found->why);
    }
  }

  std::unique_ptr<Connection> TakeIdle(const Endpoint& where) {
    const std::lock_guard lock(mutex_);
    const auto found = std::find_if(idle_.rbegin(), idle_.rend(), [&](const auto& connection) {
      return connection->endpoint() == where;
    });
    if (found == idle_.rend()) return nullptr;
    std::unique_ptr<Connection> connection = std::move(*found);
    idle_.erase(std::next(found).base());
    return connection;
  }

  void GiveBack(std::unique_ptr<Connection> connection) {
    if (!connection->IsIdle()) return;
    try {
      const std::lock_guard lock(mutex_);
      if (idle_.size() < options_.max_idle_connections) idle_.push_back(std::move(connection));
    } catch (const std::bad_alloc&) {  // the connection is closed, but the reply is valid
    }
  }

  void Drop(const Endpoint& where) {
    std::vector<std::unique_ptr<Connection>> dropped;  // before the lock, so closed without it
    const std::lock_guard lock(mutex_);
    dropped.reserve(idle_.size());
    for (auto& connection : idle_) {
      if (connection->endpoint() == where) dropped.push_back(std::move(connection));
    }
    std::erase(idle_, nullptr);
  }

  // Opens an endpoint's circuit breaker after a failure of the connection itself, and forgets which
  // slots had moved there.
  void MarkAway(const Endpoint& where, const char* why) {
    const std::lock_guard lock(mutex_);
    std::erase_if(away_, [&](const Away& away) { return away.where == where; });
    away_.push_back({where, Clock::now() + options_.retry_after, why});
    std::erase_if(moved_, [&](const auto& entry) { return entry.second == where; });
  }

  struct Away {
    Endpoint where;
    Clock::time_point until;
    std::string why;
  };

  const Options& options_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::vector<std::unique_ptr<Connection>> idle_;  // the most recently used is last
  std::map<unsigned, Endpoint> moved_;  // by slot: those not served by the endpoint in Options
  std::vector<Away> away_;              // circuit breakers, at most one for each endpoint
  std::string last_outage_;
};

}  // namespace singleflight::redis::detail

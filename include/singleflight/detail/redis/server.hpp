// SPDX-License-Identifier: MIT
#pragma once

// The server as its users see it: a command goes in, a reply comes out. Behind it are a pool of
// connections, made when they are needed, and for a Redis Cluster what has been learned of where
// its keys are.

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

namespace singleflight::redis::detail {

// Which of a Redis Cluster's slots a name is in: that of what is between the first brace and the
// next closing one, by CRC-16/XMODEM ("Key distribution model" of the Redis Cluster specification).
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

// What a node of a Redis Cluster says of a name that is another's: "MOVED 3999 127.0.0.1:6381".
struct Redirection {
  unsigned slot;
  Endpoint to;
};

inline std::optional<Redirection> ParseRedirection(std::string_view error, const Endpoint& from) {
  constexpr std::string_view kMoved = "MOVED ";
  if (!error.starts_with(kMoved)) return std::nullopt;
  error.remove_prefix(kMoved.size());
  const std::size_t space = error.find(' ');
  const std::size_t colon = error.rfind(':');  // the address may have some, too
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

// Whether to ask a server that has not answered within `retry_after`: who begins something does
// not; who is in the middle of it does.
enum class WhenAway : bool { kIfWell, kAnyway };

// Every member may be called from any thread.
class Server {
 public:
  explicit Server(const Options& options) : options_(options) {}

  // Sends a command about `name` and returns the reply, which is no error; null only for one that
  // blocks, if limit or the server ended that. What failed on one connection is tried once more
  // on a new one: the command must mean the same when it comes twice. Throws Outage, of a command
  // that does not block within 2 * (connect_timeout + command_timeout), else within server_waits +
  // command_timeout, too.
  Reply Ask(std::string_view name, std::span<const std::string_view> command, WhenAway effort) {
    return Ask(name, command, effort, {}, {Clock::time_point::max()});
  }
  Reply Ask(std::string_view name, std::span<const std::string_view> command, WhenAway effort,
            std::chrono::milliseconds server_waits, const WaitLimit& limit) {
    for (int redirections = 0;; ++redirections) {
      const Endpoint where = EndpointOf(name);
      if (effort == WhenAway::kIfWell) ThrowIfAway(where);
      Reply reply = AskAt(where, command, server_waits, limit);
      if (reply == nullptr || reply->type != REDIS_REPLY_ERROR) return reply;
      const std::string_view error = TextOf(*reply);
      const bool is_demoted =
          error.find("READONLY") != std::string_view::npos || error.starts_with("UNBLOCKED");
      if (is_demoted) Drop(where);  // another is the master now
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

  // Of an outage that a caller has met.
  void NoteOutage(const Outage& outage) noexcept {
    try {
      const std::lock_guard lock(mutex_);
      last_outage_ = outage.what();
    } catch (const std::exception&) {  // no memory for it
    }
  }
  std::string LastOutage() const {
    const std::lock_guard lock(mutex_);
    return last_outage_;
  }

 private:
  static constexpr int kMaxRedirections = 5;  // as many as nodes that are wrong in turn

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
        // What has blocked for its whole time is not to block as long again.
        const bool has_blocked = outage.IsTimeout() && server_waits.count() > 0;
        if (!outage.IsConnectionLoss() || has_blocked) throw;
        Drop(where);  // what is kept open is likely of no use either
      }
      return ask(std::make_unique<Connection>(options_, where));
    } catch (const Outage& outage) {
      if (outage.IsConnectionLoss()) MarkAway(where, outage.what());
      throw;
    }
  }

  // So that not every caller waits for the timeouts.
  void ThrowIfAway(const Endpoint& where) const {
    const std::lock_guard lock(mutex_);
    const auto found = std::ranges::find(away_, where, &Away::where);
    if (found != away_.end() && Clock::now() < found->until) {
      throw Outage(std::errc::not_connected, "left alone for `retry_after`, since: " + found->why);
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
    } catch (const std::bad_alloc&) {  // then it is closed; the reply counts
    }
  }

  void Drop(const Endpoint& where) {
    std::vector<std::unique_ptr<Connection>> dropped;  // closed with no lock held
    const std::lock_guard lock(mutex_);
    dropped.reserve(idle_.size());
    for (auto& connection : idle_) {
      if (connection->endpoint() == where) dropped.push_back(std::move(connection));
    }
    std::erase(idle_, nullptr);
  }

  // After a failure of the connection itself.
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
  std::vector<std::unique_ptr<Connection>> idle_;  // used last: last
  std::map<unsigned, Endpoint> moved_;             // by slot; the others are where we start
  std::vector<Away> away_;                         // one for each endpoint that failed last
  std::string last_outage_;
};

}  // namespace singleflight::redis::detail

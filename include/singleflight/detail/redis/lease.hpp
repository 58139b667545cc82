// SPDX-License-Identifier: MIT
#pragma once

// LeaseCommands: the commands by which one process of the fleet takes the lease for a key and the
// others learn the outcome of its call. The server holds, with BASE = `prefix:{key}`:
//
//   BASE:lease             the leader's token, with "+" after it once another process follows. It
//                          expires.
//   BASE:TOKEN             a stream with one entry: the outcome of the call with that token. It
//                          exists only if another process followed, and only for `linger`.
//   BASE:forgotten:TOKEN   the lease of a forgotten call. Only its own followers still look at it.
//
// Each function of LeaseCommands is one command or script, which the server runs as one step. Only
// Forget runs two. A command may arrive twice without harm, since a token is used for one call
// only. One that arrives after its sender has given up may leave a lease that no process holds, as
// if its leader had died. tests/model/lease.pml is a model of these steps.

#include <sys/random.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "connection.hpp"
#include "outage.hpp"
#include "server.hpp"

namespace singleflight::redis::detail {

// Returns 128 random bits as 32 hexadecimal digits.
inline std::string NewToken() {
  std::array<unsigned char, 16> bits;
  if (::getentropy(bits.data(), bits.size()) != 0) {
    throw std::system_error(errno, std::generic_category(), "singleflight::redis: getentropy");
  }
  std::string token;
  for (const unsigned char byte : bits) {
    for (const int digit : {byte >> 4, byte & 15}) token += "0123456789abcdef"[digit];
  }
  return token;
}

inline bool IsToken(std::string_view text) noexcept {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Names the keys on the server that belong to one key of a Group. A Redis Cluster
// chooses their node by what is in the first braces, unless that is empty. So a key that would
// leave the braces empty comes after them.
class RedisKeys {
 public:
  RedisKeys(std::string_view prefix, std::string_view key) : base_(prefix) {
    if (key.empty() || key.front() == '}') {
      (base_ += ".{.}") += key;
    } else {
      ((base_ += ":{") += key) += '}';
    }
    lease_ = base_ + ":lease";
  }

  const std::string& Lease() const noexcept { return lease_; }
  std::string Outcome(std::string_view token) const { return base_ + ':' + std::string(token); }
  std::string Forgotten(std::string_view token) const {
    return base_ + ":forgotten:" + std::string(token);
  }

 private:
  std::string base_;
  std::string lease_;
};

class LeaseCommands {
 public:
  LeaseCommands(Server& server, const Options& options) : server_(server), options_(options) {}

  // Says which token has the lease: our own, which has just taken it, or another leader's.
  struct Holder {
    std::string token;
    std::chrono::milliseconds left;  // until the lease expires, unless it is renewed
    std::uint64_t fence = 0;         // greater than that of any earlier lease (0: not ours)
  };
  // Takes the lease for `token` if it is free, and returns its holder. `awaited` is the token of
  // the call whose outcome the caller waits for, or empty. If that outcome has come or may still
  // come, the holder of that call is returned instead.
  Holder Take(const RedisKeys& keys, std::string_view token, std::chrono::milliseconds lease,
              std::string_view awaited) {
    const std::string duration = std::to_string(lease.count());
    const Reply reply =
        awaited.empty()
            ? Run(keys, kTake,
                  {"3", keys.Lease(), keys.Outcome(token), keys.Forgotten(token), token, duration},
                  WhenAway::kFail)
            : Run(keys, kTake,
                  {"5", keys.Lease(), keys.Outcome(token), keys.Forgotten(token),
                   keys.Outcome(awaited), keys.Forgotten(awaited), token, duration, awaited});
    const bool is_holder = reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
                           reply->element[0]->type == REDIS_REPLY_STRING &&
                           reply->element[1]->type == REDIS_REPLY_INTEGER &&
                           reply->element[2]->type == REDIS_REPLY_INTEGER;
    if (!is_holder || reply->element[1]->integer < 0) {
      throw Outage(std::errc::protocol_error, "unexpected data at " + keys.Lease());
    }
    return {std::string(TextOf(*reply->element[0])),
            std::chrono::milliseconds(reply->element[1]->integer),
            static_cast<std::uint64_t>(reply->element[2]->integer)};
  }

  struct Entry {
    std::string id;
    std::string payload;
  };
  // Returns the first entry after `last` in the stream with a call's outcome. Returns nothing if
  // none came within `wait`, or before `limit` was reached.
  std::optional<Entry> Read(const RedisKeys& keys, std::string_view token, const std::string& last,
                            std::chrono::milliseconds wait, const WaitLimit& limit) {
    const std::string name = keys.Outcome(token);
    const std::string block = std::to_string(wait.count());
    const std::initializer_list<std::string_view> command = {"XREAD", "COUNT",   "1",  "BLOCK",
                                                             block,   "STREAMS", name, last};
    const Reply reply = server_.Ask(name, command, WhenAway::kTry, wait, limit);
    if (reply == nullptr || reply->type == REDIS_REPLY_NIL) return std::nullopt;
    // The reply is [[name, [[id, [field, value, ...]]]]].
    const auto child = [](const redisReply* parent, std::size_t i) -> const redisReply* {
      const bool has_it =
          parent != nullptr && parent->type == REDIS_REPLY_ARRAY && parent->elements > i;
      return has_it ? parent->element[i] : nullptr;
    };
    const redisReply* const entry = child(child(child(reply.get(), 0), 1), 0);
    const redisReply* const id = child(entry, 0);
    if (id == nullptr || id->type != REDIS_REPLY_STRING) {
      throw Outage(std::errc::protocol_error, "unexpected data at " + name);
    }
    const redisReply* const value = child(child(entry, 1), 1);
    return Entry{std::string(TextOf(*id)),
                 std::string(value != nullptr ? TextOf(*value) : std::string_view())};
  }

  // Makes the lease last for `lease` from now on. False if `token` does not hold it any more.
  bool Renew(const RedisKeys& keys, std::string_view token, std::chrono::milliseconds lease) {
    const std::string duration = std::to_string(lease.count());
    return Number(Run(keys, kRenew, {"2", keys.Lease(), keys.Forgotten(token), token, duration})) ==
           1;
  }

  enum class Published : signed char {
    kTooLate = -1,  // the lease was lost, and nothing was published
    kToNobody = 0,  // the lease was given back, and no other process follows
    kToOthers = 1,  // the lease was given back, and the outcome published
  };
  // Gives the lease back, and publishes the outcome if other processes follow.
  Published Publish(const RedisKeys& keys, std::string_view token, std::string_view payload) {
    const std::string linger = std::to_string(options_.linger.count());
    return static_cast<Published>(
        std::clamp(Number(Run(keys, kPublish,
                              {"3", keys.Lease(), keys.Outcome(token), keys.Forgotten(token), token,
                               payload, linger})),
                   -1LL, 1LL));
  }

  // Makes the next process that asks start a new call. Followers of the call in flight still get
  // its outcome. True if there was a call.
  bool Forget(const RedisKeys& keys) {
    const std::initializer_list<std::string_view> command = {"GETRANGE", keys.Lease(), "0", "31"};
    const std::string token(TextOf(*server_.Ask(keys.Lease(), command, WhenAway::kFail)));
    if (!IsToken(token)) return false;
    if (Number(Run(keys, kForget, {"2", keys.Lease(), keys.Forgotten(token), token})) < 0) {
      throw Outage(std::errc::protocol_error, "unexpected data at " + keys.Forgotten(token));
    }
    return true;  // also if the call has landed meanwhile
  }

 private:
  // Answers with a holder: {token, milliseconds left, fence}. -1 milliseconds means that the value
  // there is not a lease of ours. It stays as it is. The command may arrive again because its
  // answer was lost. Its call may have been forgotten or have landed meanwhile, so the script first
  // looks for `token`.
  static constexpr std::string_view kTake = R"lua(
    local function follow(name)
      local value, left = redis.call('GET', name), redis.call('PTTL', name)
      if left < 0 or not string.find(value, '^' .. string.rep('[0-9a-f]', 32) .. '%+?$') then
        return {'', -1, 0}
      end
      if #value == 32 then redis.call('APPEND', name, '+') end
      return {string.sub(value, 1, 32), left, 0}
    end
    local function mine()
      local now = redis.call('TIME')
      return {ARGV[1], tonumber(ARGV[2]), now[1] * 1000000 + now[2]}
    end
    if redis.call('GETRANGE', KEYS[1], 0, 31) == ARGV[1] or
       redis.call('EXISTS', KEYS[2], KEYS[3]) > 0 then
      return mine()
    end
    if KEYS[4] then
      if redis.call('XLEN', KEYS[4]) > 0 then return {ARGV[3], 0, 0} end
      if redis.call('EXISTS', KEYS[5]) == 1 then return follow(KEYS[5]) end
    end
    if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return mine() end
    return follow(KEYS[1])
  )lua";

  static constexpr std::string_view kRenew = R"lua(
    for _, name in ipairs(KEYS) do
      if redis.call('GETRANGE', name, 0, 31) == ARGV[1] then
        return redis.call('PEXPIRE', name, ARGV[2])
      end
    end
    return 0
  )lua";

  // Deletes the lease first: it is then free even if the server has no room for the outcome.
  static constexpr std::string_view kPublish = R"lua(
    local name = KEYS[1]
    if redis.call('GETRANGE', name, 0, 31) ~= ARGV[1] then
      name = KEYS[3]
      if redis.call('EXISTS', name) == 0 then return redis.call('XLEN', KEYS[2]) > 0 and 1 or -1 end
    end
    local followed = redis.call('STRLEN', name) > 32
    redis.call('DEL', name)
    if not followed then return 0 end
    redis.call('XADD', KEYS[2], '*', 'outcome', ARGV[2])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return 1
  )lua";

  // Answers 1 if the call was forgotten, 0 if the key does not hold its lease, and -1 if unexpected
  // data is under the new name.
  static constexpr std::string_view kForget = R"lua(
    local value = redis.call('GET', KEYS[1])
    if (value == ARGV[1] or value == ARGV[1] .. '+') and redis.call('PTTL', KEYS[1]) >= 0 then
      return 2 * redis.call('RENAMENX', KEYS[1], KEYS[2]) - 1
    end
    return 0
  )lua";

  Reply Run(const RedisKeys& keys, std::string_view script,
            std::initializer_list<std::string_view> arguments,
            WhenAway when_away = WhenAway::kTry) {
    std::vector<std::string_view> command = {"EVAL", script};
    command.insert(command.end(), arguments);
    return server_.Ask(keys.Lease(), command, when_away);
  }

  static long long Number(const Reply& reply) noexcept {
    return reply->type == REDIS_REPLY_INTEGER ? reply->integer : 0;
  }

  Server& server_;
  const Options& options_;
};

}  // namespace singleflight::redis::detail

// SPDX-License-Identifier: MIT
#pragma once

// The protocol of the fleet: by which scripts one process takes the lease for a key, and the others
// learn the outcome of its call. The server holds, with BASE = `prefix:{key}`:
//
//   BASE:lease             a hash: token, fence, who, since, tag, inbox, and a field "f:INBOX" for
//                          each process that follows. It expires.
//   BASE:forgotten:TOKEN   the lease of a forgotten call. Only its own followers still look at it.
//   BASE:outcome:TOKEN     the payload. It exists only if another process followed, or might have,
//                          and only for `linger`.
//
// An inbox is a channel, one for each client and prefix: `prefix:inbox:RANDOM`. A message in it is
// a token, one byte that says what it is, and a payload:
//
//   p  the outcome: the payload follows
//   a  ask for the outcome: it is large, and kept at BASE:outcome:TOKEN
//   f  the call was forgotten
//
// Each script is one step on the server, and may run twice without harm: a token is used for one
// call only. So a script whose answer was lost is sent again. One that arrives after its sender has
// given up may leave a lease that no process holds, as if its leader had died.
// tests/model/lease.pml is a model of these steps.

#include <sys/random.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <ctime>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include "reply.hpp"
#include "script.hpp"

namespace singleflight::redis::detail {

inline constexpr std::size_t kTokenSize = 32;

// Returns 128 random bits as 32 hexadecimal digits.
inline std::string NewToken() {
  std::array<unsigned char, kTokenSize / 2> bits;
  if (::getentropy(bits.data(), bits.size()) != 0) {
    throw std::system_error(errno, std::generic_category(), "singleflight::redis: getentropy");
  }
  std::string token;
  token.reserve(kTokenSize);
  for (const unsigned char byte : bits) {
    for (const int digit : {byte >> 4, byte & 15}) token += "0123456789abcdef"[digit];
  }
  return token;
}

inline bool IsToken(std::string_view text) noexcept {
  return text.size() == kTokenSize &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

// Returns `host:pid`, which a lease shows to whoever looks at it.
inline std::string Who() {
  std::array<char, 256> host = {};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return std::string(host.data()) + ':' + std::to_string(::getpid());
}

// Names what belongs to one key of a Group. A Redis Cluster chooses the node by what is in the
// first braces, unless that is empty. So a key that would leave the braces empty comes after them.
inline std::string BaseOf(std::string_view prefix, std::string_view key) {
  std::string base(prefix);
  if (key.empty() || key.front() == '}') {
    (base += ".{.}") += key;
  } else {
    ((base += ":{") += key) += '}';
  }
  return base;
}
inline std::string LeaseName(std::string_view base) { return std::string(base) += ":lease"; }
inline std::string OutcomeName(std::string_view base, std::string_view token) {
  return (std::string(base) += ":outcome:") += token;
}
inline std::string ForgottenName(std::string_view base, std::string_view token) {
  return (std::string(base) += ":forgotten:") += token;
}

enum class MessageKind : char { kPayload = 'p', kAsk = 'a', kForgotten = 'f' };

// What came in an inbox.
struct Message {
  std::string_view token;
  MessageKind kind;
  std::string_view payload;
};
inline std::optional<Message> ReadMessage(std::string_view bytes) noexcept {
  if (bytes.size() <= kTokenSize || !detail::IsToken(bytes.substr(0, kTokenSize))) {
    return std::nullopt;
  }
  return Message{bytes.substr(0, kTokenSize), static_cast<MessageKind>(bytes[kTokenSize]),
                 bytes.substr(kTokenSize + 1)};
}

// ---- Take: leads, follows, or learns the outcome
//
// KEYS: lease, forgotten:OWN, and if an outcome is awaited: outcome:AWAITED, forgotten:AWAITED
// ARGV: own token, milliseconds, inbox, who, tag, awaited token or ''

inline const Script& TakeScript() {
  static const Script script(R"lua(
    local function follow(name)
      local has = redis.call('HMGET', name, 'token', 'tag')
      local left = redis.call('PTTL', name)
      if not has[1] or left < 0 then return {'foreign'} end
      if has[2] ~= ARGV[5] then return {'tag', tostring(has[2])} end
      redis.call('HSET', name, 'f:' .. ARGV[3], '1')
      return {'follow', has[1], left}
    end
    if KEYS[3] then
      local outcome = redis.call('GET', KEYS[3])
      if outcome then return {'outcome', outcome} end
    end
    local taken
    for i = 2, 1, -1 do
      taken = redis.pcall('HGET', KEYS[i], 'token')
      if type(taken) == 'table' then return {'foreign'} end
      if taken == ARGV[1] then return {'lead', redis.call('HGET', KEYS[i], 'fence')} end
    end
    if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 1 then return follow(KEYS[4]) end
    if taken or redis.call('EXISTS', KEYS[1]) == 1 then return follow(KEYS[1]) end
    local now = redis.call('TIME')
    local fence = string.format('%s%06d', now[1], now[2])
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fence', fence, 'who', ARGV[4],
      'since', now[1], 'tag', ARGV[5], 'inbox', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {'lead', fence}
  )lua");
  return script;
}

struct Taken {
  enum class Kind : unsigned char {
    kLead,     // `fence`
    kFollow,   // `token` and `left`
    kOutcome,  // `text` is the payload
    kTag,      // the lease is of another type of value, and `text` is its tag
    kForeign,  // there is something at the lease's place that this library has not put there
  };
  Kind kind = Kind::kForeign;
  std::string token = {};
  std::chrono::milliseconds left = {};
  std::uint64_t fence = 0;
  std::string text = {};
};

inline std::optional<Taken> ReadTaken(Reply& reply) {
  const auto& part = reply.elements;
  if (part.empty() || !part[0].IsText()) return std::nullopt;
  const std::string& what = part[0].text;
  if (what == "foreign") return Taken{Taken::Kind::kForeign};
  if (part.size() < 2) return std::nullopt;
  Taken taken;
  if (what == "lead") {
    taken.kind = Taken::Kind::kLead;
    const std::string& digits = part[1].text;
    std::from_chars(digits.data(), digits.data() + digits.size(), taken.fence);
  } else if (what == "follow" && part.size() == 3 && detail::IsToken(part[1].text)) {
    taken.kind = Taken::Kind::kFollow;
    taken.token = part[1].text;
    taken.left = std::chrono::milliseconds(part[2].integer);
  } else if (what == "outcome" || what == "tag") {
    taken.kind = what == "tag" ? Taken::Kind::kTag : Taken::Kind::kOutcome;
    taken.text = std::move(reply.elements[1].text);
  } else {
    return std::nullopt;
  }
  return taken;
}

// ---- Publish: ends a lease, and gives the outcome to those who follow
//
// KEYS: lease, forgotten:OWN, outcome:OWN
// ARGV: own token, payload, milliseconds to keep it, payload for the case that the server refuses
// the first, 1 if the payload goes with the message, else 0
//
// Answers how many processes follow. -1: the lease was lost, but those who still wait find the
// outcome. -2: the server has refused the payload.

inline const Script& PublishScript() {
  static const Script script(R"lua(
    local name
    for _, each in ipairs({KEYS[1], KEYS[2]}) do
      if redis.call('HGET', each, 'token') == ARGV[1] then name = each end
    end
    if not name then
      if redis.call('EXISTS', KEYS[3]) == 0 then
        redis.pcall('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
      end
      return -1
    end
    local inboxes = {}
    for _, field in ipairs(redis.call('HKEYS', name)) do
      if string.sub(field, 1, 2) == 'f:' then inboxes[#inboxes + 1] = string.sub(field, 3) end
    end
    redis.call('DEL', name)
    local answer, message = #inboxes, ARGV[1] .. 'a'
    if #inboxes > 0 then
      local kept = redis.pcall('SET', KEYS[3], ARGV[2], 'PX', ARGV[3])
      if type(kept) == 'table' and kept['err'] then
        answer, message = -2, ARGV[1] .. 'p' .. ARGV[4]
      elseif ARGV[5] == '1' then
        message = ARGV[1] .. 'p' .. ARGV[2]
      end
    end
    for _, inbox in ipairs(inboxes) do redis.call('PUBLISH', inbox, message) end
    return answer
  )lua");
  return script;
}

// ---- Renew: lets a lease last longer
//
// KEYS: lease, forgotten:OWN
// ARGV: own token, milliseconds, inbox, who, tag, fence, 1 if the call is known to be forgotten
//
// If there is no lease at all, the server has lost its memory, and the lease is made again. Answers
// 1 if it is held, 2 if it is that of a forgotten call, and 0 if it is lost.

inline const Script& RenewScript() {
  static const Script script(R"lua(
    for i, name in ipairs({KEYS[1], KEYS[2]}) do
      if redis.call('HGET', name, 'token') == ARGV[1] then
        redis.call('PEXPIRE', name, ARGV[2])
        return i
      end
    end
    if ARGV[7] == '1' or redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fence', ARGV[6], 'who', ARGV[4],
      'since', redis.call('TIME')[1], 'tag', ARGV[5], 'inbox', ARGV[3])
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return 1
  )lua");
  return script;
}

// ---- Forget: those on the call get its outcome, and newcomers start afresh
//
// KEYS: lease. ARGV: BASE:forgotten:
//
// Answers 1 if there was a lease. The processes on the call are told, so that they forget it, too.

inline const Script& ForgetScript() {
  static const Script script(R"lua(
    if redis.call('TYPE', KEYS[1])['ok'] ~= 'hash' then return 0 end
    local token = redis.call('HGET', KEYS[1], 'token')
    if not token or redis.call('PTTL', KEYS[1]) < 0 then return 0 end
    redis.call('RENAME', KEYS[1], ARGV[1] .. token)
    local message = token .. 'f'
    redis.call('PUBLISH', redis.call('HGET', ARGV[1] .. token, 'inbox'), message)
    for _, field in ipairs(redis.call('HKEYS', ARGV[1] .. token)) do
      if string.sub(field, 1, 2) == 'f:' then
        redis.call('PUBLISH', string.sub(field, 3), message)
      end
    end
    return 1
  )lua");
  return script;
}

}  // namespace singleflight::redis::detail

// SPDX-License-Identifier: MIT
#pragma once

// The protocol of the fleet: by which scripts one process takes the lease for a key, and the others
// learn the outcome of its call. The server holds, with BASE = `prefix:{key}`:
//
//   BASE:lease             a hash: token, fence, who, since, tag, inbox, lasts, perhaps leader, and
//                          a field "f:INBOX" for each group that follows. It expires. It lasts for
//                          `lasts` milliseconds, unless the server's clock is set back.
//   BASE:forgotten:TOKEN   the lease of a forgotten call. Only its own followers still look at it.
//   BASE:outcome:TOKEN     the fence and the payload, for `linger`. It exists only if another
//                          process followed, or might have.
//
// A token is used for one call only. Those of one group are in the order of its calls. The fence
// tells a token's lease from one that the server has made for the same token later, because a
// command came late. Together they are the lease's id.
//
// An inbox is a channel, one for each group: `prefix:inbox:RANDOM`. A message in it is a token, one
// byte that says what it is, a fence, and a payload:
//
//   p  the outcome: the payload follows
//   a  ask for the outcome: it is large, and kept at BASE:outcome:TOKEN
//   f  the call was forgotten
//   h  a follower asks the leader whether it holds this lease. Its name follows
//
// A server that takes the place of another one may have a lease that has ended. So may a server
// that got a late command. A leader that does not hold a lease ends it when it is asked.
//
// Each script is one step on the server. Take, Publish and Forget may run twice without harm, so
// they are sent again if their answer was lost. Renew is not. A Take that arrives after its sender
// has given up may leave a lease that no process holds, as if its leader had died. The next Take of
// the same group puts it aside. tests/model/lease.pml is a model of these steps.

#include <sys/random.h>
#include <unistd.h>

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

#include "reply.hpp"
#include "script.hpp"

namespace singleflight::redis::detail {

inline constexpr std::size_t kTokenSize = 32;
inline constexpr std::size_t kOrderSize = 12;
inline constexpr std::size_t kFenceSize = 16;
inline constexpr std::size_t kIdSize = kTokenSize + kFenceSize;  // a token and its fence

// Returns a token: 32 hexadecimal digits, of which the first 12 say the order among the tokens of a
// group. The other 80 bits are random.
inline std::string NewToken(std::uint64_t order) {
  std::array<unsigned char, (kTokenSize - kOrderSize) / 2> bits;
  if (::getentropy(bits.data(), bits.size()) != 0) {
    throw std::system_error(errno, std::generic_category(), "singleflight::redis: getentropy");
  }
  constexpr std::string_view kDigits = "0123456789abcdef";
  std::string token(kOrderSize, '0');
  token.reserve(kTokenSize);
  for (std::size_t i = kOrderSize; i-- > 0; order >>= 4) token[i] = kDigits[order & 15];
  for (const unsigned char byte : bits) (token += kDigits[byte >> 4]) += kDigits[byte & 15];
  return token;
}

inline bool IsToken(std::string_view text) noexcept {
  return text.size() == kTokenSize &&
         text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}
inline bool IsFence(std::string_view text) noexcept {
  return text.size() == kFenceSize &&
         text.find_first_not_of("0123456789") == std::string_view::npos;
}
inline std::string_view TokenOf(std::string_view id) noexcept { return id.substr(0, kTokenSize); }
inline std::string_view FenceOf(std::string_view id) noexcept { return id.substr(kTokenSize); }

// Returns `host:pid`, which a lease shows to whoever looks at it.
inline std::string Who() {
  std::array<char, 256> host = {};
  if (::gethostname(host.data(), host.size() - 1) != 0) host[0] = '?';
  return std::string(host.data()) + ':' + std::to_string(::getpid());
}

// Returns these, one after another.
//
// Cost: one allocation.
inline std::string Joined(std::initializer_list<std::string_view> parts) {
  std::size_t size = 0;
  for (const std::string_view part : parts) size += part.size();
  std::string joined;
  joined.reserve(size);
  for (const std::string_view part : parts) joined += part;
  return joined;
}

// Names what belongs to one key of a Group. A Redis Cluster chooses the node by what is in the
// first braces, unless that is empty. So a key that would leave the braces empty comes after them.
inline std::string BaseOf(std::string_view prefix, std::string_view key) {
  if (key.empty() || key.front() == '}') return Joined({prefix, ".{.}", key});
  return Joined({prefix, ":{", key, "}"});
}
// Returns a name for a message, which stays one line, and a short one, whatever is in the key.
inline std::string Printable(std::string_view name, std::size_t most = 200) {
  std::string text;
  for (const char byte : name.substr(0, most)) {
    const auto code = static_cast<unsigned char>(byte);
    if (code >= 0x20 && code < 0x7f) {
      text += byte;
    } else {
      ((text += "\\x") += "0123456789abcdef"[code >> 4]) += "0123456789abcdef"[code & 15];
    }
  }
  return name.size() > most ? text += "..." : text;
}
inline constexpr std::string_view kLeaseSuffix = ":lease";
inline std::string LeaseName(std::string_view base) { return Joined({base, kLeaseSuffix}); }
inline std::string OutcomeName(std::string_view base, std::string_view token) {
  return Joined({base, ":outcome:", token});
}
inline std::string ForgottenName(std::string_view base, std::string_view token) {
  return Joined({base, ":forgotten:", token});
}

enum class MessageKind : char { kPayload = 'p', kAsk = 'a', kForgotten = 'f', kHeld = 'h' };

// What came in an inbox.
struct Message {
  std::string id;
  MessageKind kind;
  std::string_view payload;
};
inline std::optional<Message> ReadMessage(std::string_view bytes) {
  if (bytes.size() <= kIdSize) return std::nullopt;
  const std::string_view token = bytes.substr(0, kTokenSize);
  const std::string_view fence = bytes.substr(kTokenSize + 1, kFenceSize);
  if (!detail::IsToken(token) || !detail::IsFence(fence)) return std::nullopt;
  return Message{std::string(token) += fence, static_cast<MessageKind>(bytes[kTokenSize]),
                 bytes.substr(kIdSize + 1)};
}

// ---- Take: leads, follows, or learns the outcome
//
// KEYS: lease, forgotten:OWN, outcome:OWN, and if an outcome is awaited: outcome:AWAITED,
// forgotten:AWAITED
// ARGV: own token, milliseconds, inbox, who, tag, BASE:forgotten:, fence of the awaited lease, 1 to
// have the leader look whether it holds the lease; and last, for listeners, what `leader` is to be
//
// A lease with our own inbox and an older token is that of a call which this process has landed or
// forgotten, but not published so far, or one that a late command has left. A group puts it aside.
// One with a newer token is followed: then this call was forgotten, and what it waited for has
// ended. A cache, whose script begins with more (see cache_protocol.hpp), follows both.

inline constexpr std::string_view kTakeText = R"lua(
    local function follow(name, has)
      local left, lasts = redis.call('PTTL', name), tonumber(has[5])
      if left < 0 or not lasts then return {'foreign'} end
      if left > lasts then  -- the clock was set back
        redis.call('PEXPIRE', name, lasts)
        left = lasts
      end
      if has[3] ~= ARGV[5] then return {'tag', tostring(has[3])} end
      local field = 'f:' .. ARGV[3]  -- a server without memory refuses to set it, but not to look
      if redis.call('HEXISTS', name, field) == 0 then redis.call('HSET', name, field, '1') end
      if ARGV[8] == '1' then
        redis.call('PUBLISH', has[4], has[1] .. 'h' .. has[2] .. KEYS[1])
      end
      return {'follow', has[1] .. has[2], left, has[6] or ''}
    end
    local function order(token) return tonumber(string.sub(token, 1, 12), 16) or 0 end
    local has, exists = {}, redis.call('EXISTS', KEYS[1], KEYS[2], KEYS[3])
    if exists > 0 then
      for i = 2, 1, -1 do
        has = redis.pcall('HMGET', KEYS[i], 'token', 'fence', 'tag', 'inbox', 'lasts', 'leader')
        if has['err'] then return {'foreign'} end
        if has[1] == ARGV[1] then return {'lead', has[2], i == 2 and 1 or nil} end
        if has[1] and not (has[2] and has[4]) then return {'foreign'} end
      end
      if redis.call('EXISTS', KEYS[3]) == 1 then return {'landed'} end
    end
    if ARGV[7] ~= '' then
      local outcome = redis.pcall('GET', KEYS[4])
      if type(outcome) == 'string' and string.sub(outcome, 1, 16) == ARGV[7] then
        return {'outcome', string.sub(outcome, 17)}
      end
      local forgotten = redis.pcall('HMGET', KEYS[5], 'token', 'fence', 'tag', 'inbox', 'lasts',
        'leader')
      if forgotten[2] == ARGV[7] then  -- else there is none, or something foreign
        local answer = follow(KEYS[5], forgotten)
        answer[5] = answer[3] and 1
        return answer
      end
    end
    local is_older = has[1] and has[4] == ARGV[3] and order(has[1]) < order(ARGV[1])
    if is_older and not KEYS[6] then
      redis.call('RENAME', KEYS[1], ARGV[6] .. has[1])
    elseif has[1] then
      return follow(KEYS[1], has)
    elseif exists > 0 and redis.call('EXISTS', KEYS[1]) == 1 then
      return {'foreign'}
    end
    local now = redis.call('TIME')
    local fence = string.format('%010d%06d', now[1], now[2])
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fence', fence, 'who', ARGV[4],
      'since', now[1], 'tag', ARGV[5], 'inbox', ARGV[3], 'lasts', ARGV[2])
    if ARGV[#ARGV] ~= '' then redis.call('HSET', KEYS[1], 'leader', ARGV[#ARGV]) end
    redis.call('PEXPIRE', KEYS[1], ARGV[2])
    return {'lead', fence}
)lua";

inline const Script& TakeScript() {
  static const Script& script = *new Script(kTakeText);
  return script;
}

// A value that a cache has on the server.
struct CachedValue {
  std::string payload = {};
  std::string token = {};               // with which the payload was packed
  std::chrono::milliseconds left = {};  // for which it is fresh, rounded down

  bool HasExpired() const noexcept { return left.count() < 0; }
};

struct Taken {
  enum class Kind : unsigned char {
    kLead,     // `text` is the fence, and `is_forgotten`
    kFollow,   // `text` is the lease's id, `left` what it has left, and `is_forgotten`
    kOutcome,  // `text` is the payload
    kTag,      // the lease is of another type of value, and `text` is its tag
    kForeign,  // there is something at the lease's place that this library has not put there
    // Of a cache:
    kHit,         // `value`
    kRefresh,     // likewise, and `text` is the fence of a lease under which to load a new one
    kWait,        // likewise, but it has expired. `text` and `left` are as for kFollow
    kFailure,     // the last load has failed a moment ago: `value` is its outcome
    kGeneration,  // `text` is the present one, or empty if there is none
  };
  Kind kind = Kind::kForeign;
  std::string text = {};
  std::chrono::milliseconds left = {};
  bool is_forgotten = false;
  CachedValue value = {};
  std::string leader = {};  // of kFollow and kWait: what the lease has for listeners
};

// Reads what only the script of a cache answers.
inline std::optional<Taken> ReadCached(std::vector<Reply>& part, Taken taken) {
  if (part.size() < 4 || !part[2].IsText() || part[2].text.size() != kTokenSize) {
    return std::nullopt;
  }
  const std::string& what = part[0].text;
  taken.value = {std::move(taken.text), std::move(part[2].text), detail::TimeLeft(part[3])};
  taken.text = part.size() > 4 && part[4].IsText() ? std::move(part[4].text) : std::string();
  if (what == "hit" || what == "failure") {
    taken.kind = what == "hit" ? Taken::Kind::kHit : Taken::Kind::kFailure;
  } else if (what == "refresh" && detail::IsFence(taken.text)) {
    taken.kind = Taken::Kind::kRefresh;
  } else if (what == "wait" && part.size() > 6 && taken.text.size() == kIdSize) {
    taken.kind = Taken::Kind::kWait;
    taken.left = detail::TimeLeft(part[5]);
    taken.leader = std::move(part[6].text);
  } else {
    return std::nullopt;
  }
  return taken;
}

inline std::optional<Taken> ReadTaken(Reply& reply) {
  auto& part = reply.elements;
  if (part.empty() || !part[0].IsText()) return std::nullopt;
  const std::string& what = part[0].text;
  if (what == "foreign") return Taken{Taken::Kind::kForeign};
  if (part.size() < 2 || !part[1].IsText()) return std::nullopt;
  Taken taken;
  taken.text = std::move(part[1].text);
  if (what == "lead" && detail::IsFence(taken.text)) {
    taken.kind = Taken::Kind::kLead;
    taken.is_forgotten = part.size() > 2;
  } else if (what == "follow" && part.size() >= 4 && taken.text.size() == kIdSize) {
    taken.kind = Taken::Kind::kFollow;
    taken.is_forgotten = part.size() > 4;
    taken.left = detail::TimeLeft(part[2]);
    taken.leader = std::move(part[3].text);
  } else if (what == "outcome" || what == "tag") {
    taken.kind = what == "tag" ? Taken::Kind::kTag : Taken::Kind::kOutcome;
  } else if (what == "generation") {
    taken.kind = Taken::Kind::kGeneration;
  } else {
    return detail::ReadCached(part, std::move(taken));
  }
  return taken;
}

// ---- Publish: ends a lease, and gives the outcome to those who follow
//
// KEYS: lease, forgotten:OWN, outcome:OWN
// ARGV: own token, fence or '' if it is not known, payload, milliseconds to keep it, payload for
// the case that the server refuses the first, 1 if the payload goes with the message, else 0, 1 if
// a Renew of this lease may come late
//
// The payload is kept if somebody follows, or if a late Renew must find that the call has landed.
// If the payload is empty, those who follow only ask again. Answers how many groups follow. -1: the
// lease was lost, but those who still wait find the outcome. -2: the server has refused the
// payload.

inline constexpr std::string_view kPublishText = R"lua(
    local name, fence
    for i = 1, 2 do
      local has = redis.pcall('HMGET', KEYS[i], 'token', 'fence')
      if has['err'] and not string.find(has['err'], 'WRONGTYPE') then return has end
      if has[1] == ARGV[1] and (ARGV[2] == '' or has[2] == ARGV[2]) then
        name, fence = KEYS[i], has[2]
        break
      end
    end
    if not name then
      if ARGV[2] ~= '' and ARGV[3] ~= '' and redis.call('EXISTS', KEYS[3]) == 0 then
        redis.pcall('SET', KEYS[3], ARGV[2] .. ARGV[3], 'PX', ARGV[4])
      end
      return -1
    end
    local inboxes = {}
    if redis.call('HLEN', name) > 7 then  -- else it has only what Take has put there
      for _, field in ipairs(redis.call('HKEYS', name)) do
        if string.sub(field, 1, 2) == 'f:' then inboxes[#inboxes + 1] = string.sub(field, 3) end
      end
    end
    redis.call('DEL', name)
    local answer, message = #inboxes, ARGV[1] .. 'a' .. fence
    if (#inboxes > 0 or ARGV[7] == '1') and ARGV[3] ~= '' then
      local kept = redis.pcall('SET', KEYS[3], fence .. ARGV[3], 'PX', ARGV[4])
      if kept['err'] and #inboxes > 0 then
        answer, message = -2, ARGV[1] .. 'p' .. fence .. ARGV[5]
      elseif ARGV[6] == '1' then
        message = ARGV[1] .. 'p' .. fence .. ARGV[3]
      end
    end
    for _, inbox in ipairs(inboxes) do redis.call('PUBLISH', inbox, message) end
    return answer
)lua";

inline const Script& PublishScript() {
  static const Script& script = *new Script(kPublishText);
  return script;
}

// ---- Renew: lets a lease last longer
//
// KEYS: lease, forgotten:OWN, outcome:OWN
// ARGV: own token, fence or '', milliseconds, inbox, who, tag, 1 if it may be made again, 2 if it
// is a cache's, else 0, and what `leader` is to be
//
// A lease that is not there, and cannot have expired, has been lost with the server's memory. It is
// made again, if the call is not known to be forgotten. That of a cache is not: its value may have
// been invalidated meanwhile. Answers 1 if it is held, 2 if it is that of a forgotten call, 3 if it
// is a cache's that nobody has, and 0 if it is lost.

inline const Script& RenewScript() {
  static const Script& script = *new Script(R"lua(
    for i = 1, 2 do
      local has = redis.pcall('HMGET', KEYS[i], 'token', 'fence')
      if has['err'] and not string.find(has['err'], 'WRONGTYPE') then return has end
      if has[1] == ARGV[1] and (ARGV[2] == '' or has[2] == ARGV[2]) then
        redis.call('PEXPIRE', KEYS[i], ARGV[3])
        return i
      end
    end
    if ARGV[2] == '' or redis.call('EXISTS', KEYS[1], KEYS[3]) > 0 then return 0 end
    if ARGV[7] == '2' then return 3 end
    if ARGV[7] ~= '1' then return 0 end
    redis.call('HSET', KEYS[1], 'token', ARGV[1], 'fence', ARGV[2], 'who', ARGV[5],
      'since', redis.call('TIME')[1], 'tag', ARGV[6], 'inbox', ARGV[4], 'lasts', ARGV[3])
    if ARGV[8] ~= '' then redis.call('HSET', KEYS[1], 'leader', ARGV[8]) end
    redis.call('PEXPIRE', KEYS[1], ARGV[3])
    return 1
  )lua");
  return script;
}

// ---- Forget: those on the call get its outcome, and newcomers start afresh
//
// KEYS: lease. ARGV: BASE:forgotten:
//
// Answers 1 if there was a lease. The processes on the call are told, so that they forget it, too.

inline constexpr std::string_view kForgetText = R"lua(
    local has = redis.pcall('HMGET', KEYS[1], 'token', 'fence', 'inbox')
    if has['err'] or not (has[1] and has[2] and has[3]) or redis.call('PTTL', KEYS[1]) < 0 then
      return 0
    end
    local forgotten, message = ARGV[1] .. has[1], has[1] .. 'f' .. has[2]
    redis.call('RENAME', KEYS[1], forgotten)
    redis.call('PUBLISH', has[3], message)
    for _, field in ipairs(redis.call('HKEYS', forgotten)) do
      if string.sub(field, 1, 2) == 'f:' then
        redis.call('PUBLISH', string.sub(field, 3), message)
      end
    end
    return 1
)lua";

inline const Script& ForgetScript() {
  static const Script& script = *new Script(kForgetText);
  return script;
}

}  // namespace singleflight::redis::detail

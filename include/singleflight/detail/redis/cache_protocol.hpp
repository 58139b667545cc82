// SPDX-License-Identifier: MIT
#pragma once

// What the protocol of the fleet has in addition for a cache: see protocol.hpp. Beside the lease of
// a key the server holds, with BASE = `prefix:GENERATION:{key}`:
//
//   BASE:value          the time until which it is fresh, how long its load took, the token of its
//                       lease, whether it expires when it is no longer fresh, and the payload.
//                       Times are the server's own, in microseconds
//   BASE:fresh          the token of the value, if that is kept for longer than it is fresh. This
//                       expires when it is not fresh any more
//   BASE:failed         the token and the outcome of a load that has failed. It expires when the
//                       next load may begin
//   prefix:generation   which generation of values is in use. InvalidateAll begins a new one, so
//                       that what earlier ones have left is never looked at again, and expires
//
// Two channels tell every process of invalidations: `prefix:invalidations` of single keys, for
// local caches, and `prefix:generation` of a new generation.
//
// One script answers whether there is a value, and if not, whether this process is to load one, or
// which one does. Another puts the value and tells those who wait for it. So there is no moment
// between these steps in which another process loads again. A process that expects a hit asks by
// one MGET first, which costs the server a tenth of what a script does: see CachedAsking.

#include <cstddef>
#include <string>
#include <string_view>

#include "protocol.hpp"
#include "script.hpp"

namespace singleflight::redis::detail {

inline std::string ValueName(std::string_view base) { return Joined({base, ":value"}); }
inline std::string FreshName(std::string_view base) { return Joined({base, ":fresh"}); }
inline std::string FailureName(std::string_view base) { return Joined({base, ":failed"}); }
inline std::string GenerationName(std::string_view prefix) {
  return Joined({prefix, ":generation"});
}
inline std::string InvalidationsChannel(std::string_view prefix) {
  return Joined({prefix, ":invalidations"});
}

inline constexpr std::size_t kValueHeader = 65;  // bytes of BASE:value before the payload

// ---- The generation
//
// It is the server's time when it was made. A server that has lost it makes a new one, and one that
// has an older one, because it took the place of another server, is told the newest.
//
// KEYS: generation. ARGV: the newest that is known, or ''

inline const Script& GenerationScript() {
  static const Script& script = *new Script(R"lua(
    local known = redis.call('GET', KEYS[1])
    if known and known >= ARGV[1] then return known end
    if not known then
      local now = redis.call('TIME')
      known = string.format('%010d%06d', now[1], now[2])
    end
    if known < ARGV[1] then known = ARGV[1] end
    redis.call('SET', KEYS[1], known)
    redis.call('PUBLISH', KEYS[1], known)
    return known
  )lua");
  return script;
}

// Begins a new one, and tells all processes, in the channel of the same name. KEYS and ARGV: as
// above.
inline const Script& InvalidateAllScript() {
  static const Script& script = *new Script(R"lua(
    local now, old = redis.call('TIME'), tonumber(redis.call('GET', KEYS[1]) or 0)
    local new = now[1] * 1000000 + now[2]
    if old and new <= old then new = old + 1 end
    if ARGV[1] ~= '' and new <= tonumber(ARGV[1]) then new = ARGV[1] + 1 end
    new = string.format('%016.0f', new)
    redis.call('SET', KEYS[1], new)
    redis.call('PUBLISH', KEYS[1], new)
    return new
  )lua");
  return script;
}

// ---- Get: finds the value, or else does what Take does
//
// KEYS: as for Take, with the awaited names in any case, then value and failed
// ARGV: as for Take, then
//    9  the name of the generation
//   10  the one that our names are of, or '' to go on following a load of an earlier one
//   11  how much earlier than it expires a value is refreshed, in millionths of the time that its
//       load took
//   12  1 to wait if the value has expired and another process loads a new one, 0 to take the
//   expired
//       one, '' if that is of no use: the server's own expiry may be a millisecond later
//   13  the token of a value or failure that the process cannot read: as if it were not there
//   14  as the last of Take
//
// In a Cluster, the generation is most likely on another node, and is not checked.

inline constexpr std::string_view kLookText = R"lua(
    local function generation()
      if ARGV[10] == '' then return end
      local known = redis.pcall('GET', ARGV[9])
      if not known then return {'generation', ''} end
      if type(known) == 'string' and known ~= ARGV[10] then return {'generation', known} end
    end
    local function look(name)
      local value = redis.pcall('GET', name)
      if type(value) ~= 'string' or #value < 65 then return end
      local fresh, load = tonumber(string.sub(value, 1, 16)), tonumber(string.sub(value, 17, 32))
      if not fresh or not load then return end
      local now = redis.call('TIME')
      local left = fresh - (now[1] * 1000000 + now[2])
      local payload, token = string.sub(value, 66), string.sub(value, 33, 64)
      if token == ARGV[13] or (left <= 0 and ARGV[12] == '') then return end
      return {'hit', payload, token, math.ceil(left / 1000) - 1}, left, load
    end
)lua";

inline const Script& GetScript() {
  static const Script& script =
      *new Script(std::string(kLookText) + "local function take()" + std::string(kTakeText) + R"lua(
    end
    local outdated = generation()
    if outdated then return outdated end
    local found, left, load = look(KEYS[6])
    if not found then
      local failed = redis.pcall('GET', KEYS[7])
      if type(failed) == 'string' and #failed >= 32 and string.sub(failed, 1, 32) ~= ARGV[13] then
        return {'failure', string.sub(failed, 33), string.sub(failed, 1, 32), 0}
      end
      return take()
    end
    if left > 0 and left > load * ARGV[11] / 1000000 then return found end
    local waits = ARGV[12] == '1' and left <= 0
    local lease = redis.pcall('HMGET', KEYS[1], 'token')
    local token = lease['err'] or lease[1]
    if token ~= ARGV[1] then
      if redis.call('EXISTS', KEYS[7]) == 1 then return found end  -- it is too early to try again
      if token and not waits then return found end  -- another one refreshes it, or it is foreign
    end
    local answer = take()
    if answer[1] == 'lead' then
      if waits then redis.call('HSET', KEYS[1], 'f:' .. ARGV[3], '1') end
      found[1], found[5] = 'refresh', answer[2]
    elseif answer[1] == 'follow' and waits then  -- else it has followed a load that was forgotten
      found[1], found[5], found[6], found[7] = 'wait', answer[2], answer[3], answer[4]
    elseif answer[1] == 'outcome' then
      return answer
    end
    return found
  )lua");
  return script;
}

// ---- Peek: finds the value, and does nothing else
//
// KEYS: value. ARGV: those of the same numbers as for Get, of which the first eight are not used

inline const Script& PeekScript() {
  static const Script& script = *new Script(std::string(kLookText) + R"lua(
    return generation() or look(KEYS[1]) or {'none'}
  )lua");
  return script;
}

// ---- Land: puts the value, and does what Publish does
//
// KEYS: as for Publish, then value, fresh and failed
// ARGV: as for Publish, then milliseconds for which the value is fresh, or '' to leave the old one,
// or '-' to remove it, milliseconds for which it is kept, microseconds that its load took, 16
// digits, and milliseconds for which the outcome is kept as a failure, or ''
//
// Nothing is put under a lease that was lost or forgotten.

inline constexpr std::string_view kPutText = R"lua(
    local function put(name, marker, failed, token, payload, fresh, usable, load, failure)
      if fresh == '-' then
        redis.call('DEL', name, marker)
      elseif fresh ~= '' then
        local now = redis.call('TIME')
        local fresh_until = now[1] * 1000000 + now[2] + fresh * 1000
        local is_short = fresh == usable  -- it expires when it is no longer fresh
        local value = string.format('%016.0f', fresh_until) .. load .. token ..
          (is_short and '1' or '0') .. payload
        if redis.pcall('SET', name, value, 'PX', usable)['err'] then
          redis.call('DEL', name, marker)
          return false
        end
        redis.call('DEL', failed)
        if not is_short then redis.pcall('SET', marker, token, 'PX', fresh) end
      end
      if failure ~= '' then redis.pcall('SET', failed, token .. payload, 'PX', failure) end
      return true
    end
)lua";

inline const Script& LandScript() {
  static const Script& script = *new Script(std::string(kPutText) + "local function publish()" +
                                            std::string(kPublishText) + R"lua(
    end
    local has = redis.pcall('HMGET', KEYS[1], 'token', 'fence')
    if has[1] == ARGV[1] and (ARGV[2] == '' or has[2] == ARGV[2]) then
      put(KEYS[4], KEYS[5], KEYS[6], ARGV[1], ARGV[3], ARGV[8], ARGV[9], ARGV[10], ARGV[11])
    end
    return publish()
  )lua");
  return script;
}

// ---- Invalidate: removes the value, forgets the load in flight, and perhaps puts another value
//
// KEYS: lease, value, fresh, failed
// ARGV: BASE:forgotten:, channel, message, then '' or the milliseconds for which the new value is
// fresh, those for which it is kept, the token of its payload, the payload, the generation's name,
// and ours
//
// Answers OK, {'generation', ...} as Get does, or an error if the server refuses the new value.

inline const Script& InvalidateScript() {
  static const Script& script = *new Script(std::string(kPutText) + "local function forget()" +
                                            std::string(kForgetText) + R"lua(
    end
    local known = redis.pcall('GET', ARGV[8])
    if not known then return {'generation', ''} end
    if type(known) == 'string' and known ~= ARGV[9] then return {'generation', known} end
    redis.call('DEL', KEYS[2], KEYS[3], KEYS[4])
    forget()
    redis.call('PUBLISH', ARGV[2], ARGV[3])
    if not put(KEYS[2], KEYS[3], KEYS[4], ARGV[6], ARGV[7], ARGV[4], ARGV[5],
               '0000000000000000', '') then
      return redis.error_reply('ERR the value cannot be kept')
    end
    return redis.status_reply('OK')
  )lua");
  return script;
}

}  // namespace singleflight::redis::detail

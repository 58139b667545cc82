// SPDX-License-Identifier: MIT
#pragma once

// LeaseWalk: finds all leases of a group, or of a cache, on all servers. It scans the names of each
// server in small steps, and asks about each lease that it finds, so that other commands pass in
// between. It writes nothing.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../../key_result.hpp"
#include "../../redis_call_info.hpp"
#include "../../stop_token.hpp"
#include "../errors.hpp"
#include "address.hpp"
#include "answer.hpp"
#include "cache_protocol.hpp"
#include "command_result.hpp"
#include "fleet.hpp"
#include "protocol.hpp"
#include "reply.hpp"
#include "router.hpp"
#include "script.hpp"

namespace singleflight::redis::detail {

// ---- Names

// What the name of a lease says.
struct LeasePlace {
  std::string key;
  std::string generation;  // of a cache's
  std::string token;       // of a forgotten call's. Empty: the next caller would follow
};

// Returns nothing for a name that is no lease of this group, or cache.
inline std::optional<LeasePlace> ReadLeaseName(std::string_view name, std::string_view prefix,
                                               bool is_cache) {
  LeasePlace place;
  if (!name.starts_with(prefix)) return std::nullopt;
  name.remove_prefix(prefix.size());
  if (is_cache) {
    if (!name.starts_with(':') || !detail::IsFence(name.substr(1, kFenceSize))) return std::nullopt;
    place.generation = name.substr(1, kFenceSize);
    name.remove_prefix(1 + kFenceSize);
  }
  constexpr std::string_view kForgotten = ":forgotten:";
  if (name.ends_with(kLeaseSuffix)) {
    name.remove_suffix(kLeaseSuffix.size());
  } else {
    if (name.size() < kForgotten.size() + kTokenSize) return std::nullopt;
    place.token = name.substr(name.size() - kTokenSize);
    name.remove_suffix(kTokenSize);
    if (!name.ends_with(kForgotten) || !detail::IsToken(place.token)) return std::nullopt;
    name.remove_suffix(kForgotten.size());
  }
  constexpr std::string_view kBraces = ".{.}";
  const bool is_after = name.starts_with(kBraces);  // see BaseOf
  if (is_after) {
    place.key = name.substr(kBraces.size());
  } else if (name.size() > 3 && name.starts_with(":{") && name.ends_with('}')) {
    place.key = name.substr(2, name.size() - 3);
  } else {
    return std::nullopt;
  }
  if (is_after != (place.key.empty() || place.key.front() == '}')) return std::nullopt;
  return place;
}

// Returns the pattern of SCAN for such names, and for few others: no value or outcome is among them
// unless its key looks like one.
inline std::string LeasePattern(std::string_view prefix, bool is_cache) {
  std::string pattern;
  for (const char byte : prefix) {
    if (std::string_view("*?[]\\").find(byte) != std::string_view::npos) pattern += '\\';
    pattern += byte;
  }
  if (is_cache) (pattern += ':').append(kFenceSize, '?');
  return pattern += "[:.]{*:[lf][eo][ar][sg][eo]*";  // ":lease" and ":forgotten:", in one pattern
}

// ---- Leases

// KEYS: the lease. Answers its token, its fence, who has it, how many milliseconds it has left, the
// time, how many other processes follow, and what it has for listeners. Nothing if it is no lease.
inline const Script& LookAtLeaseScript() {
  static const Script& script = *new Script(R"lua(
    local has = redis.pcall('HMGET', KEYS[1], 'token', 'fence', 'who', 'inbox', 'leader')
    if has['err'] or not (has[1] and has[2] and has[3] and has[4]) then return {} end
    local followers = 0
    if redis.call('HLEN', KEYS[1]) > 7 then  -- else it has only what Take has put there
      for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
        if string.sub(field, 1, 2) == 'f:' and string.sub(field, 3) ~= has[4] then
          followers = followers + 1
        end
      end
    end
    local now = redis.call('TIME')
    return {has[1], has[2], has[3], redis.call('PTTL', KEYS[1]),
            string.format('%010d%06d', now[1], now[2]), followers, has[5] or ''}
  )lua");
  return script;
}

// Reads that answer. Nothing if something else is at the lease's place.
inline std::optional<LeaseInfo> ReadLease(const Reply& reply, const LeasePlace& place) {
  const std::vector<Reply>& part = reply.elements;
  if (part.size() < 7 || !detail::IsToken(part[0].text) || !detail::IsFence(part[1].text) ||
      !detail::IsFence(part[4].text) || part[3].integer < 0) {
    return std::nullopt;
  }
  if (!place.token.empty() && place.token != part[0].text) return std::nullopt;
  const auto number = [](std::string_view digits, auto as) {
    std::from_chars(digits.data(), digits.data() + digits.size(), as);
    return as;
  };
  LeaseInfo lease;
  lease.key = place.key;
  const std::string_view who = part[2].text;
  lease.host = who.substr(0, who.rfind(':'));
  lease.pid = number(who.substr(std::min(who.size(), lease.host.size() + 1)), std::int64_t{0});
  lease.token = part[0].text;
  lease.fence = number(part[1].text, std::uint64_t{0});
  const std::chrono::microseconds age(number(part[4].text, std::int64_t{0}) -
                                      static_cast<std::int64_t>(lease.fence));
  lease.age = std::max(std::chrono::duration_cast<std::chrono::milliseconds>(age),
                       std::chrono::milliseconds(0));  // the clock may have been set back
  lease.left = detail::TimeLeft(part[3]);
  lease.followers = static_cast<std::size_t>(std::max(part[5].integer, 0LL));
  lease.leader = part[6].text;
  lease.forgotten = !place.token.empty();
  return lease;
}

// ---- The walk

// Thread: the loop's, except the constructor.
class LeaseWalk : public std::enable_shared_from_this<LeaseWalk> {
 public:
  using Leases = KeyResult<std::vector<LeaseInfo>>;

  // Returns what is to be shown of what a lease has for listeners.
  using ShowTag = std::string_view (*)(std::string_view);

  // Calls `then(leases)` once. It gives up when nobody wants them any more, which `unwanted` says.
  LeaseWalk(std::shared_ptr<GroupContext> context, ShowTag show_tag, StopToken unwanted,
            std::function<void(Leases)> then)
      : context_(std::move(context)),
        show_tag_(show_tag),
        unwanted_(std::move(unwanted)),
        then_(std::move(then)) {}

  // The first answer says which servers there are.
  void Begin() {
    if (!IsCache()) return Send({.words = {"PING"}, .is_first = true}, &LeaseWalk::OnFirst);
    const std::string name = detail::GenerationName(context_->prefix);
    Send({.key = name, .words = {"GET", name}, .is_first = true}, &LeaseWalk::OnFirst);
  }

 private:
  // A command, and what it is about.
  struct Step {
    std::optional<Address> server = {};   // set: no other one is asked
    std::optional<std::string> key = {};  // else: the server that has this
    std::vector<std::string> words = {};  // none: the script that looks at a lease
    LeasePlace place = {};                // of that
    bool is_first = false;
    int names = 0;  // that a SCAN is to look at
    int lost = 0;   // answers
  };
  using Handler = void (LeaseWalk::*)(const Step&, const Reply&);

  bool IsCache() const noexcept { return context_->cache != nullptr; }

  // Sends it once what is in flight leaves room, so that the client's other commands find some. The
  // order is kept, so the next SCAN comes after what the last one has found.
  void Send(Step step, Handler handler) {
    waiting_.push_back({std::make_shared<Step>(std::move(step)), handler});
    SendWhatFits();
  }
  void SendWhatFits() {
    const std::size_t room = context_->fleet.Core().RoomBeside(0) / 2;
    while (!waiting_.empty()) {
      const std::size_t cost = CostOf(*waiting_.front().step);
      if (in_flight_ > 0 && in_flight_bytes_ + cost > room) return;
      const Waiting next = std::move(waiting_.front());
      waiting_.pop_front();
      in_flight_bytes_ += cost;
      SendNow(next.step, next.handler);
    }
  }
  // Roughly: the server asks for the text of a script only once.
  static std::size_t CostOf(const Step& step) noexcept {
    return 1024 + (step.key ? step.key->size() : 0);
  }
  void SendNow(const std::shared_ptr<Step>& sent, Handler handler) {
    ++in_flight_;
    auto on_answer = [self = shared_from_this(), sent, handler](const Answer& answer) {
      self->OnAnswer(*sent, handler, answer);
    };
    Router& commands = context_->fleet.Core().Commands();
    const std::vector<std::string_view> words(sent->words.begin(), sent->words.end());
    if (sent->server) {
      commands.RunAt(*sent->server, words, std::move(on_answer));
    } else if (words.empty()) {
      const std::array<std::string_view, 1> keys = {*sent->key};
      commands.RunScript(detail::LookAtLeaseScript(), keys, {}, std::move(on_answer));
    } else {
      commands.Run(sent->key, words, std::move(on_answer));
    }
  }

  void OnAnswer(Step& step, Handler handler, const Answer& answer) {
    --in_flight_;
    in_flight_bytes_ -= CostOf(step);
    if (then_ == nullptr) return;
    if (unwanted_.stop_requested()) {
      return End(Leases::Failure(singleflight::detail::MakeCanceled()));
    }
    if (answer.kind == Answer::Kind::kUnknown && ++step.lost < 3) {
      return Send(std::move(step), handler);
    }
    if (answer.reply.type == Reply::Type::kTooLarge && step.names > 1) {
      names_ = std::min(names_, std::max(step.names / 4, 1));
      return Scan(*step.server, step.words[1]);
    }
    // A server that refuses the first has answered, too. It may be that the user has no right to
    // it.
    const bool will_do = step.is_first && answer.kind == Answer::Kind::kRefused;
    if (!answer.IsReply() && !will_do) return Fail(answer);
    (this->*handler)(step, answer.reply);
    SendWhatFits();
    if (in_flight_ == 0 && then_ != nullptr) Finish();
  }

  void OnFirst(const Step&, const Reply& reply) {
    if (IsCache() && reply.IsText()) generation_ = reply.text;
    Router& commands = context_->fleet.Core().Commands();
    const std::vector<Address> servers = commands.Servers().Masters();
    if (servers.empty() && commands.IsCluster()) {
      return Fail({Answer::Kind::kRefused,
                   {},
                   "the user has no right to CLUSTER SLOTS, or its answer is longer than "
                   "max_reply_bytes"});
    }
    if (servers.empty()) {
      return Fail({Answer::Kind::kNotSent, {}, commands.Servers().Why(std::nullopt)});
    }
    for (const Address& server : servers) Scan(server, "0");
  }

  void Scan(const Address& server, const std::string& cursor) {
    Send({.server = server,
          .words = {"SCAN", cursor, "MATCH", detail::LeasePattern(context_->prefix, IsCache()),
                    "COUNT", std::to_string(names_)},
          .names = names_},
         &LeaseWalk::OnScanned);
  }
  void OnScanned(const Step& step, const Reply& reply) {
    if (reply.elements.size() != 2 || !reply.elements[0].IsText()) {
      return Fail({Answer::Kind::kRefused, {}, "the server's answer to SCAN makes no sense"});
    }
    for (const Reply& name : reply.elements[1].elements) {
      if (auto place = detail::ReadLeaseName(name.text, context_->prefix, IsCache())) {
        Send({.key = name.text, .place = *std::move(place)}, &LeaseWalk::OnLookedAt);
      }
    }
    if (reply.elements[0].text != "0") Scan(*step.server, reply.elements[0].text);
  }

  // One lease may have two names, one after the other: it is forgotten then.
  void OnLookedAt(const Step& step, const Reply& reply) {
    std::optional<LeaseInfo> lease = detail::ReadLease(reply, step.place);
    if (!lease) return;
    lease->leader = std::string(show_tag_(lease->leader));
    if (!generation_.empty() && step.place.generation != generation_) lease->forgotten = true;
    LeaseInfo& found = found_[lease->token + std::to_string(lease->fence)];
    if (!found.forgotten) found = *std::move(lease);
  }

  void Finish() {
    std::vector<LeaseInfo> leases;
    leases.reserve(found_.size());
    for (auto& [id, lease] : found_) leases.push_back(std::move(lease));
    std::ranges::sort(leases, {}, [](const LeaseInfo& lease) {
      return std::tie(lease.fence, lease.token);  // the oldest first
    });
    End(std::move(leases));
  }
  void Fail(const Answer& answer) {
    context_->NoteWhy(answer.why);
    End(Leases::Failure(detail::ErrorOf(answer)));
  }
  // What is still in flight is of no interest.
  void End(Leases leases) {
    waiting_.clear();
    std::exchange(then_, nullptr)(std::move(leases));
  }

  struct Waiting {
    std::shared_ptr<Step> step;
    Handler handler;
  };

  const std::shared_ptr<GroupContext> context_;
  const ShowTag show_tag_;
  const StopToken unwanted_;
  std::function<void(Leases)> then_;  // null: it has ended
  std::string generation_;            // of a cache, or empty
  int names_ = 500;  // that a server looks at in one step, roughly. Fewer, if they are long
  std::deque<Waiting> waiting_;                       // for room
  std::size_t in_flight_ = 0;                         // commands
  std::size_t in_flight_bytes_ = 0;                   // what these take, roughly
  std::unordered_map<std::string, LeaseInfo> found_;  // by id
};

}  // namespace singleflight::redis::detail

// SPDX-License-Identifier: MIT
#pragma once

// CacheState: what a process knows of a cache that it shares with others: the generation of its
// values, which keys were invalidated, and which keys the server is being asked for.

#include <algorithm>
#include <array>
#include <atomic>
#include <bitset>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "../random.hpp"
#include "../wait_graph.hpp"
#include "answer.hpp"
#include "cache_protocol.hpp"
#include "fleet.hpp"
#include "payload.hpp"
#include "protocol.hpp"

namespace singleflight::redis::detail {

// What the policy has to do with asking the server.
struct AskingPolicy {
  bool uses_expired = false;                     // there is a stale_for
  std::optional<Clock::duration> patience = {};  // soft_timeout
  double early_refresh = 0;
};

// Thread: the loop's, unless a member says otherwise.
class CacheState final : public std::enable_shared_from_this<CacheState>, public ServerWatcher {
 public:
  // `is_local` says whether there is a local cache. Thread: any.
  CacheState(Fleet& fleet, std::string prefix, const AskingPolicy& policy, bool is_local)
      : fleet_(fleet),
        policy_(policy),
        prefix_(std::move(prefix)),
        generation_name_(detail::GenerationName(prefix_)),
        channel_(detail::InvalidationsChannel(prefix_)),
        is_local_(is_local) {}

  // A server that evicts the generation, or changes it, as often as it is asked cannot be used.
  static constexpr int kMostGenerations = 100;
  static constexpr const char* kNoGenerationLasts =
      "the generation of the cache's values does not last: is it evicted?";

  const std::optional<Clock::duration>& Patience() const noexcept { return policy_.patience; }
  // Returns what to do with a value that has expired, in the words of the scripts.
  std::string_view WhenExpired() const noexcept {
    return !policy_.uses_expired ? std::string_view() : policy_.patience ? "1" : "0";
  }
  // Returns how much earlier than it expires a value is refreshed, in millionths of the time that
  // its load took: XFetch, see cache_policy.hpp.
  std::string DrawEarliness() const {
    if (policy_.early_refresh <= 0) return "0";
    const double times = -std::log(singleflight::detail::RandomUnit()) * policy_.early_refresh;
    return std::to_string(static_cast<std::int64_t>(std::min(times, 1e6) * 1e6));
  }

  const std::string& GenerationName() const noexcept { return generation_name_; }
  const std::string& Channel() const noexcept { return channel_; }

  // ---- Epochs. A local value is of no use any more once its epoch is over. It is the one in which
  // the server was asked for the value, so that a message that has come since then counts.
  //
  // Thread: any.

  using Epoch = std::uint64_t;
  Epoch EpochOf(std::string_view key) const noexcept {
    // Both only grow, so their sum is the same only if both are.
    return of_all_.load(std::memory_order_relaxed) + OfKey(key).load(std::memory_order_relaxed);
  }
  void EndEpoch(std::string_view key) noexcept {
    OfKey(key).fetch_add(1, std::memory_order_relaxed);
  }
  void EndAllEpochs() noexcept {
    of_all_.fetch_add(1, std::memory_order_relaxed);
    emptied_.fetch_add(1, std::memory_order_relaxed);
  }
  std::uint64_t Emptied() const noexcept { return emptied_; }
  std::uint64_t Invalidations() const noexcept { return invalidations_; }

  // ---- The generation

  // Calls `then(failure)` once the generation is known, or with the answer that it did not get.
  void WithGeneration(std::function<void(const Answer*)> then) {
    if (!generation_.empty()) return then(nullptr);
    waiting_.push_back(std::move(then));
    Fetch();
  }
  const std::string& Generation() const noexcept { return generation_; }
  // The server has this one. If it has lost it, or has something else there, this is no generation.
  void Learn(std::string generation) {
    if (generation == generation_) return;
    ++generations_;
    if (detail::IsFence(generation) && generation >= newest_) {
      generation_ = newest_ = std::move(generation);
      space_ = prefix_ + ':' + generation_;
      EndAllEpochs();
    } else {  // it is told the newest, unless that has only overtaken an older answer
      generation_.clear();
    }
  }
  // Returns how often the generation has changed.
  std::uint64_t Generations() const noexcept { return generations_; }
  std::string BaseOf(std::string_view key) const { return detail::BaseOf(space_, key); }

  // ---- Hits: a key for which the server had a value when it was last asked is looked up by an
  // MGET first. That does not say how long the value will be fresh, so it is of no use if the
  // policy, or a local cache, needs to know.

  bool ExpectsHit(std::string_view key) const noexcept {
    return expects_hits_ && expects_hit_[StripeOf(key)];
  }
  void ExpectNoHits() noexcept { expects_hits_ = false; }
  void NoteHit(std::string_view key, bool is_hit) noexcept { expects_hit_[StripeOf(key)] = is_hit; }

  // ---- Turns: at most one command at a time asks for a key. Those that come meanwhile ask
  // together, afterwards.

  // True: `then` runs when it is its turn. False: it is. EndTurn must follow.
  template <class Then>
  bool WaitsForTurn(const std::string& key, const Then& then) {
    const auto [found, is_first] = turns_.try_emplace(key);
    if (!is_first) found->second.push_back(then);
    return !is_first;
  }
  void EndTurn(const std::string& key) {
    const auto found = turns_.find(key);
    if (found->second.empty()) {
      turns_.erase(found);
      return;
    }
    const std::function<void()> next = std::move(found->second.front());
    found->second.erase(found->second.begin());
    next();
  }

  // ---- Leases of this process that have ended, while their outcomes are on the way to the server
  //
  // A call that asks afterwards must not follow such a lease: it would get the failure of a load
  // that had finished before. If the server does not know the script, or is busy, the question can
  // get there first.

  // `id` is that of the lease. EndEnding must follow, and may be called twice.
  void BeginEnding(const std::string& id) { endings_[id].number = ++endings_so_far_; }
  void EndEnding(const std::string& id) {
    const auto found = endings_.find(id);
    if (found == endings_.end()) return;
    const std::vector<std::function<void()>> waiting = std::move(found->second.waiting);
    endings_.erase(found);
    for (const auto& then : waiting) then();
  }
  std::uint64_t EndingsSoFar() const noexcept { return endings_so_far_; }
  // True: `then` runs when the server has the outcome. `asked` is how many leases had ended when
  // the server was asked.
  bool WaitsForEnd(const std::string& id, std::uint64_t asked, std::function<void()> then) {
    const auto found = endings_.find(id);
    if (found == endings_.end() || found->second.number > asked) return false;
    found->second.waiting.push_back(std::move(then));
    return true;
  }

  // ---- Calls of this process

  // `call` works under the lease with this id.
  void NoteLead(const std::string& id, std::weak_ptr<const singleflight::detail::WaitTarget> call) {
    leads_.insert_or_assign(id, std::move(call));
    if (leads_.size() < 2 * leads_alive_ + 64) return;
    std::erase_if(leads_, [](const auto& each) { return each.second.expired(); });
    leads_alive_ = leads_.size();
  }
  std::shared_ptr<const singleflight::detail::WaitTarget> LeadOf(const std::string& id) const {
    const auto found = leads_.find(id);
    return found == leads_.end() ? nullptr : found->second.lock();
  }
  // `call` works without a lease, since no server can be used. `forget` runs as soon as that may
  // have changed, so that no caller joins the call who could ask a server. Neither is kept for long
  // when the call has landed.
  void WhenServersChange(std::weak_ptr<const void> call, std::function<void()> forget) {
    forgets_.emplace_back(std::move(call), std::move(forget));
    if (forgets_.size() < 2 * forgets_alive_ + 64) return;
    std::erase_if(forgets_, [](const auto& each) { return each.first.expired(); });
    forgets_alive_ = forgets_.size();
  }
  void OnServersChange() override {
    forgets_alive_ = 0;
    for (const auto& each : std::exchange(forgets_, {})) each.second();
  }

  // ---- Messages

  // Has `then(why)` run when the server begins to refuse messages, on the loop's thread. Call it
  // before the first Open.
  void WhenRefused(std::function<void(const std::string&)> then) {
    when_refused_ = std::move(then);
  }
  // The server refuses messages, so nobody would notice that a local value is invalidated.
  //
  // Thread: any.
  bool MissesMessages() const noexcept { return misses_messages_.load(std::memory_order_relaxed); }

  // Thread: any.
  bool IsOpen() const noexcept { return is_open_; }
  void Open() {
    if (is_open_.exchange(true)) return;
    fleet_.WatchServers(weak_from_this());
    const std::weak_ptr<CacheState> weak = weak_from_this();
    const auto with_self = [weak](auto fn) {
      return [weak, fn](auto... arguments) {
        if (const auto self = weak.lock()) std::invoke(fn, *self, arguments...);
      };
    };
    const auto listen = [&](const std::string& channel, auto on_message, auto on_subscribed) {
      auto subscribed = [then = std::move(on_subscribed), channel,
                         note = with_self(&CacheState::OnSubscribed)] {
        then();
        note(channel);
      };
      listeners_.push_back({channel, std::make_shared<const ChannelCallbacks>(ChannelCallbacks{
                                         std::move(on_message), std::move(subscribed),
                                         with_self(&CacheState::OnRefused)})});
      fleet_.Hub().Listen(fleet_.Core().Subscriptions(), channel, listeners_.back().second);
    };
    listen(generation_name_, with_self([](CacheState& self, std::string_view generation) {
             self.Learn(std::string(generation));
           }),
           with_self([](CacheState& self) { self.Fetch(); }));
    if (!is_local_) return;
    listen(channel_, with_self([](CacheState& self, std::string_view key) {
             self.invalidations_.fetch_add(1, std::memory_order_relaxed);
             self.EndEpoch(key);
           }),
           with_self([](CacheState& self) { self.EndAllEpochs(); }));
  }
  // Call it once, before the client goes.
  void Close() {
    for (const auto& [channel, listener] : listeners_) {
      fleet_.Hub().StopListening(fleet_.Core().Subscriptions(), channel, listener);
    }
    listeners_.clear();
  }

 private:
  static constexpr std::size_t kStripes = 1024;

  static std::size_t StripeOf(std::string_view key) noexcept {
    return detail::Fnv1a(key) % kStripes;
  }
  std::atomic<Epoch>& OfKey(std::string_view key) noexcept { return of_key_[StripeOf(key)]; }
  const std::atomic<Epoch>& OfKey(std::string_view key) const noexcept {
    return of_key_[StripeOf(key)];
  }

  void OnSubscribed(const std::string& channel) {
    std::erase(refused_, channel);
    if (refused_.empty()) misses_messages_ = false;
  }
  // The connection for messages is tried again soon, and with it the generation is learned.
  void OnRefused(const std::string& why) {
    refused_.clear();
    for (const auto& each : listeners_) refused_.push_back(each.first);
    Fetch();
    if (misses_messages_.exchange(true) || !when_refused_) return;
    when_refused_(is_local_ ? why + ": so the local cache is not used" : why);
  }

  void Fetch() {
    if (std::exchange(is_fetching_, true)) return;
    const std::array<std::string_view, 1> keys = {generation_name_};
    const std::array<std::string_view, 1> words = {newest_};
    fleet_.Core().Commands().RunScript(
        detail::GenerationScript(), keys, words,
        [self = shared_from_this()](Answer answer) { self->OnFetched(std::move(answer)); });
  }
  void OnFetched(Answer answer) {
    is_fetching_ = false;
    if (answer.IsReply() && answer.reply.IsText() && detail::IsFence(answer.reply.text)) {
      Learn(answer.reply.text);
    } else if (answer.IsReply()) {
      answer.kind = Answer::Kind::kRefused;
      answer.why = detail::Printable(generation_name_) + " holds something that is no generation";
    }
    const bool failed = generation_.empty();
    for (const auto& then : std::exchange(waiting_, {})) then(failed ? &answer : nullptr);
  }

  struct Ending {
    std::uint64_t number = 0;
    std::vector<std::function<void()>> waiting = {};
  };

  Fleet& fleet_;
  const AskingPolicy policy_;
  const std::string prefix_;
  const std::string generation_name_;
  const std::string channel_;
  const bool is_local_;
  std::atomic<Epoch> of_all_ = 0;
  std::array<std::atomic<Epoch>, kStripes> of_key_ = {};
  std::atomic<std::uint64_t> emptied_ = 0, invalidations_ = 0;  // relaxed: counts
  std::atomic<bool> is_open_ = false;
  // From a refusal until all channels are subscribed to. Only a hint: it guards nothing.
  std::atomic<bool> misses_messages_ = false;
  std::function<void(const std::string&)> when_refused_;  // set before Open

  // Used by the loop's thread alone.
  std::vector<std::pair<std::string, ChannelHub::Listener>> listeners_;
  std::vector<std::string> refused_;  // channels not subscribed to since the last refusal
  std::string generation_;            // empty: not known
  std::string newest_;                // that was ever known
  std::string space_;                 // the prefix of names in this generation
  std::uint64_t generations_ = 0;
  bool is_fetching_ = false;
  std::vector<std::function<void(const Answer*)>> waiting_;  // for the generation
  std::unordered_map<std::string, std::weak_ptr<const singleflight::detail::WaitTarget>> leads_;
  std::size_t leads_alive_ = 0;                      // when those that have gone were last removed
  std::unordered_map<std::string, Ending> endings_;  // by the lease's id
  std::uint64_t endings_so_far_ = 0;
  std::vector<std::pair<std::weak_ptr<const void>, std::function<void()>>> forgets_;
  std::size_t forgets_alive_ = 0;  // when those whose calls have landed were last removed
  std::unordered_map<std::string, std::vector<std::function<void()>>> turns_;  // by key
  bool expects_hits_ = !is_local_ && policy_.early_refresh <= 0;
  std::bitset<kStripes> expects_hit_;  // by stripes of keys
};

}  // namespace singleflight::redis::detail

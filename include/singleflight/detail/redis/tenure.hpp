// SPDX-License-Identifier: MIT
#pragma once

// Tenure: a lease that this process has, from when it was taken until its outcome is published. It
// is renewed while `fn` runs. It belongs to the client, not to the group: a publish that meets an
// outage is tried again until the lease would have ended.

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "answer.hpp"
#include "cache_protocol.hpp"
#include "cache_state.hpp"
#include "event_loop.hpp"
#include "fleet.hpp"
#include "payload.hpp"
#include "protocol.hpp"
#include "script.hpp"
#include "timer_queue.hpp"

namespace singleflight::redis::detail {

// The call of this process that a lease is for.
class LeasedCall {
 public:
  // Another process has the lease: `fn` should stop.
  virtual void OnLost() noexcept = 0;
  // Somebody has forgotten the call.
  virtual void OnForgotten() noexcept = 0;

 protected:
  ~LeasedCall() = default;
};

// What becomes of a cache's value, in the words of the Land script.
struct PutOrder {
  std::string fresh = {};   // '': the old one stays. '-': it is removed
  std::string usable = {};  // the new one is kept for so long
  std::string load_time = "0000000000000000";
  std::string failure = {};  // '': the outcome is not kept as a failure
};

class Tenure final : public std::enable_shared_from_this<Tenure>,
                     private Listener,
                     private LoopTask {
 public:
  // `asked` is when the lease was asked for. The fence is empty if the server may not have heard of
  // it.
  //
  // Thread: the loop's. So for the members below, unless they say otherwise.
  Tenure(std::shared_ptr<GroupContext> context, std::string base, std::string token,
         std::string fence, Clock::time_point asked, std::string tag)
      : context_(std::move(context)),
        base_(std::move(base)),
        token_(std::move(token)),
        fence_(std::move(fence)),
        tag_(std::move(tag)),
        taken_(asked),
        timer_(context_->Loop().Timers(), [this] { OnTimer(); }),
        ends_(asked + context_->LeaseAt({})) {
    if (!fence_.empty()) HoldUntil(ends_);
  }

  // Begins to renew the lease. From here on it keeps itself, until it has ended.
  void Begin(std::shared_ptr<LeasedCall> call) {
    self_ = shared_from_this();
    call_ = std::move(call);
    id_ = token_ + fence_;
    context_->inbox.Add(id_, *this);
    timer_.Set(taken_ + context_->options.lease / 3);
  }

  // The call was forgotten.
  void NoteForgotten() noexcept {
    is_forgotten_ = true;
    if (call_ != nullptr) call_->OnForgotten();
  }

  const std::string& Token() const noexcept { return token_; }      // any thread
  const std::string& FenceText() const noexcept { return fence_; }  // any thread
  // 0 if it is not known.
  //
  // Thread: any.
  std::uint64_t Fence() const noexcept {
    std::uint64_t number = 0;
    std::from_chars(fence_.data(), fence_.data() + fence_.size(), number);
    return number;
  }
  // False: another process may have the lease, as far as this one knows.
  //
  // Thread: any.
  bool IsHeld() const noexcept {
    return !ending_.load(std::memory_order_relaxed) &&
           Clock::now().time_since_epoch().count() < held_until_.load(std::memory_order_relaxed);
  }

  // True: the lease is not this process's any more. Any thread.
  bool IsLost() const noexcept { return is_lost_.load(std::memory_order_relaxed); }

  // Ends the lease with an outcome, or without: the first call of this wins. Does not wait.
  //
  // Thread: any.
  void End(PayloadKind kind, std::string_view body, std::optional<PutOrder> put = {}) {
    EndWith(kind, detail::Pack({kind, body}, context_->tag_hash, token_), std::move(put));
  }
  void GiveBack() noexcept { EndWith(PayloadKind::kAbandoned, {}); }

 private:
  // A payload up to this size goes with the message. A follower asks for a larger one.
  static constexpr std::size_t kSmall = std::size_t{16} << 10;
  // One larger than this may be what the server, or the network, does not take.
  static constexpr std::size_t kLarge = std::size_t{64} << 10;
  static constexpr auto kPause = std::chrono::milliseconds(50);

  void EndWith(PayloadKind kind, std::string packed, std::optional<PutOrder> put = {}) noexcept {
    if (ending_.exchange(true)) return;
    put_ = std::move(put);
    if (context_->Loop().IsForked()) return;  // the lease is the parent's
    kind_ = kind;
    payload_ = std::move(packed);
    if (!fence_.empty()) context_->fleet.BeginPublishing();
    context_->Loop().Post(static_cast<LoopTask&>(*this));
  }

  void HoldUntil(Clock::time_point time) noexcept {
    held_until_.store(time.time_since_epoch().count(), std::memory_order_relaxed);
  }

  // ---- Renewing

  void OnTimer() {
    if (!has_ended_) return Renew();
    if (!is_publishing_) return Publish();
    CannotTell();                                               // it takes too long
    timer_.Set(context_->Now() + context_->options.lease / 5);  // if it waits for a connection
    context_->fleet.Core().Commands().Interrupt(detail::LeaseName(base_), kLarge);
  }

  void Renew() {
    if (is_renewing_ || IsLost()) return;  // another process may have led meanwhile
    const auto now = context_->Now();
    if (now >= ends_) return LookWhoLeads();  // what the server may have is not ours
    const std::chrono::milliseconds lasts = context_->LeaseAt(now - taken_);
    if (lasts.count() == 0) return;  // it expires
    is_renewing_ = true;
    const std::string lease = detail::LeaseName(base_);
    const std::string forgotten = detail::ForgottenName(base_, token_);
    const std::string outcome = detail::OutcomeName(base_, token_);
    const std::string milliseconds = std::to_string(lasts.count());
    const std::array<std::string_view, 3> keys = {lease, forgotten, outcome};
    const std::array<std::string_view, 8> words = {
        token_,        fence_,        milliseconds,   context_->inbox.Channel(),
        context_->who, context_->tag, WhenVanished(), tag_};
    context_->fleet.Core().Commands().RunScript(
        detail::RenewScript(), keys, words,
        [self = shared_from_this(), asked = now, lasts](const Answer& answer) {
          self->OnRenewed(answer, asked, lasts);
        });
  }

  void OnRenewed(const Answer& answer, Clock::time_point asked, std::chrono::milliseconds lasts) {
    is_renewing_ = false;
    if (answer.kind == Answer::Kind::kUnknown) may_renew_late_ = true;
    if (has_ended_) return Publish();
    const auto lease = context_->options.lease;
    if (!answer.IsReply()) {
      ++context_->count.failed_renewals;
      const Clock::duration pause =
          std::clamp<Clock::duration>(lease / 12, std::chrono::milliseconds(5), kPause);
      timer_.Set(context_->Now() + pause);
      return;
    }
    if (answer.reply.integer == 0) return Lose();
    if (answer.reply.integer == 3) return Vanish();
    if (answer.reply.integer == 2 && !is_forgotten_) NoteForgotten();  // the message was lost
    ends_ = asked + lasts;
    HoldUntil(ends_);
    timer_.Set(std::max(asked + lease / 3, context_->Now()));
  }

  // The lease has expired while the server could not be asked. `fn` may go on, unless another
  // process leads.
  void LookWhoLeads() {
    is_renewing_ = true;
    const std::string lease = detail::LeaseName(base_);
    const std::array<std::string_view, 3> words = {"HMGET", lease, "token"};
    context_->fleet.Core().Commands().Run(
        lease, words, [self = shared_from_this()](const Answer& answer) {
          self->is_renewing_ = false;
          if (self->has_ended_) return self->Publish();
          const auto& found = answer.reply.elements;
          if (answer.IsReply() && !found.empty() && found[0].IsText() &&
              found[0].text != self->token_) {
            return self->Lose();
          }
          self->timer_.Set(self->context_->Now() + self->context_->options.lease / 3);
        });
  }
  // Returns what to do if the server has lost the lease, in the words of the script.
  std::string_view WhenVanished() const noexcept {
    return context_->cache != nullptr ? "2" : is_forgotten_ ? "0" : "1";
  }
  // The server has lost it, and no process has another one. `fn` may go on, for those on the call.
  void Vanish() {
    HoldUntil({});
    is_lost_.store(true, std::memory_order_relaxed);
    ++context_->count.lost_leases;
    if (!is_forgotten_) NoteForgotten();
  }
  // Another process has it.
  void Lose() {
    HoldUntil({});
    is_lost_.store(true, std::memory_order_relaxed);
    if (fence_.empty()) return;  // it was never ours
    ++context_->count.lost_leases;
    if (call_ != nullptr) call_->OnLost();
  }

  void OnMessage(const Message& message) noexcept override {
    if (message.kind == MessageKind::kForgotten) NoteForgotten();
  }
  void OnSubscribed() noexcept override {
    if (has_ended_) {
      if (!is_publishing_ && !is_renewing_) Publish();
    } else if (Clock::now() - taken_ > std::chrono::milliseconds(5)) {
      Renew();  // the server may have lost its memory
    }
  }

  // ---- Publishing

  // The LoopTask that End posts.
  void Run() noexcept override {
    has_ended_ = true;
    call_ = nullptr;
    timer_.Cancel();
    if (context_->cache != nullptr) context_->cache->BeginEnding(id_);
    const std::size_t limit = std::min(context_->options.max_value, RoomForValue());
    if (payload_.size() > limit + kPayloadHeader) CannotTell();
    if (kind_ == PayloadKind::kAbandoned) payload_ = PackKind(PayloadKind::kAbandoned);
    if (!is_renewing_) Publish();  // a renewal that came later would make the lease again
  }

  std::string PackKind(PayloadKind kind) const {
    return detail::Pack({kind, {}}, context_->tag_hash, token_);
  }

  // Return the script that publishes the outcome, and how many names it takes.
  const Script& PublishingScript() const {
    return put_ ? detail::LandScript() : detail::PublishScript();
  }
  std::size_t PublishedNames() const noexcept { return put_ ? 6 : 3; }

  // Returns the size of a value with which Publish's command fits into an empty queue. The key is
  // in each name, and the server may ask for the script's text.
  std::size_t RoomForValue() const {
    constexpr std::size_t kEachName = 64;  // what is in it besides the base, and around it
    constexpr std::size_t kRest = 1024;    // the other words, and the payload's header
    return context_->fleet.Core().RoomBeside(PublishedNames() * (base_.size() + kEachName) +
                                             PublishingScript().Text().size() + kRest);
  }

  // From now on the others are told to run `fn` themselves. But a failure that forbids that for a
  // while is told by a short one in its place.
  void CannotTell() {
    if (std::exchange(is_untold_, true)) return;
    ++context_->count.untold;
    if (put_ && !put_->failure.empty()) {
      constexpr std::string_view kWhy =
          "singleflight::redis: the last load has failed, and its failure could not be told";
      payload_ = detail::Pack({PayloadKind::kException, kWhy}, context_->tag_hash, token_);
      return;
    }
    payload_ = PackKind(PayloadKind::kRunIt);
    if (put_ && !put_->fresh.empty()) put_ = PutOrder{.fresh = "-"};  // else the old one stays
  }

  void Publish() {
    timer_.Cancel();
    // What the server may still have is not ours.
    if (context_->Now() >= ends_) return Finish(/*is_published=*/false);
    is_publishing_ = true;
    const std::string lease = detail::LeaseName(base_);
    const std::string forgotten = detail::ForgottenName(base_, token_);
    const std::string outcome = detail::OutcomeName(base_, token_);
    const std::string linger = std::to_string(context_->options.linger.count());
    const std::string run_it = PackKind(PayloadKind::kRunIt);
    std::string value, fresh, failure;
    std::array<std::string_view, 6> keys = {lease, forgotten, outcome};
    std::array<std::string_view, 11> words = {token_,
                                              fence_,
                                              payload_,
                                              linger,
                                              run_it,
                                              payload_.size() <= kSmall ? "1" : "0",
                                              may_renew_late_ ? "1" : "0"};
    if (put_) {
      keys[3] = value = detail::ValueName(base_);
      keys[4] = fresh = detail::FreshName(base_);
      keys[5] = failure = detail::FailureName(base_);
      words[7] = put_->fresh;
      words[8] = put_->usable;
      words[9] = put_->load_time;
      words[10] = put_->failure;
    }
    if (payload_.size() > kLarge) timer_.Set(context_->Now() + context_->options.lease / 5);
    context_->fleet.Core().Commands().RunScript(
        PublishingScript(), std::span(keys).first(PublishedNames()),
        std::span(words).first(put_ ? 11 : 7),
        [self = shared_from_this()](const Answer& answer) { self->OnPublished(answer); });
  }

  void OnPublished(const Answer& answer) {
    if (self_ == nullptr) return;
    timer_.Cancel();
    is_publishing_ = false;
    NoteAnswer();
    if (answer.IsReply()) {
      if (answer.reply.integer == -2) ++context_->count.untold;
      return Finish(answer.reply.integer != -1 || may_be_published_);
    }
    if (answer.kind == Answer::Kind::kUnknown && fence_.empty()) {
      // The next attempt may meet a lease that a late Take has made since: others have begun anew.
      payload_ = PackKind(PayloadKind::kAbandoned);
    }
    const bool is_large = payload_.size() > kLarge;
    may_be_published_ = may_be_published_ || answer.kind == Answer::Kind::kUnknown;
    if (answer.kind == Answer::Kind::kUnknown && is_large && ++cuts_ == 2) CannotTell();
    if (answer.kind == Answer::Kind::kRefused && !MayComeTrue(answer) && !is_untold_) CannotTell();
    if (context_->fleet.IsClosed()) return Finish(/*is_published=*/false);
    timer_.Set(context_->Now() + kPause);
  }

  bool Holds() const noexcept override { return true; }

  // Calls of a cache that ask for the key need not wait for the outcome any more.
  void NoteAnswer() {
    if (context_->cache != nullptr) context_->cache->EndEnding(id_);
  }

  void OnClose() noexcept override {
    if (has_ended_) Finish(/*is_published=*/false);
  }

  void Finish(bool is_published) {
    if (self_ == nullptr) return;
    if (!is_published && kind_ != PayloadKind::kAbandoned && !fence_.empty()) {
      ++context_->count.unpublished;
    }
    timer_.Cancel();
    NoteAnswer();
    context_->inbox.Remove(id_, *this);
    if (!fence_.empty()) context_->fleet.EndPublishing();
    context_->Loop().Post([self = std::move(self_)] {});  // this may be the last reference
  }

  const std::shared_ptr<GroupContext> context_;
  const std::string base_;
  const std::string token_;
  const std::string fence_;  // empty: not known
  const std::string tag_;    // for the listeners of other processes
  const Clock::time_point taken_;
  // Until then the server has the lease for us. Relaxed: no other data depends on it.
  std::atomic<Clock::rep> held_until_ = 0;
  std::atomic<bool> is_lost_ = false;  // relaxed, likewise
  std::atomic<bool> ending_ = false;   // End or GiveBack was called. IsHeld needs nothing with it
  // Set by End before it posts.
  PayloadKind kind_ = PayloadKind::kAbandoned;
  std::string payload_;
  std::optional<PutOrder> put_;  // of a cache

  // Used by the loop's thread alone.
  std::shared_ptr<Tenure> self_;
  std::shared_ptr<LeasedCall> call_;  // until it ends
  Timer timer_;                       // for the next renewal, or the next attempt to publish
  Clock::time_point ends_;            // the lease has expired then, unless it is renewed
  std::string id_;
  bool is_renewing_ = false;     // that command is in flight
  bool may_renew_late_ = false;  // one was in flight when its connection was cut
  bool is_publishing_ = false;   // likewise
  bool is_forgotten_ = false;
  bool has_ended_ = false;
  bool is_untold_ = false;
  bool may_be_published_ = false;  // an answer was lost: that attempt may have ended the lease
  int cuts_ = 0;                   // of the connection, while a large payload was on its way
};

}  // namespace singleflight::redis::detail

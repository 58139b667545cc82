// SPDX-License-Identifier: MIT
#pragma once

// Asking: what a process does for one of its calls until it leads or has an outcome: it asks the
// server for the lease, and follows the process that has it. If there is a cache, CachedAsking asks
// for the value first.

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "../errors.hpp"
#include "answer.hpp"
#include "event_loop.hpp"
#include "fleet.hpp"
#include "outage.hpp"
#include "payload.hpp"
#include "protocol.hpp"
#include "tenure.hpp"
#include "timer_queue.hpp"

namespace singleflight::redis::detail {

// It ends with exactly one of OnLead, OnOutcome, OnMustRun and OnFailure, unless Abandon comes
// first. OnOutcome may be followed by Undecodable, which asks again.
//
// Thread: the loop's.
class Asking : public std::enable_shared_from_this<Asking>, private Listener {
 public:
  Asking(const Asking&) = delete;
  Asking& operator=(const Asking&) = delete;

 protected:
  // Thread: any.
  Asking(std::shared_ptr<GroupContext> its_context, std::string base, std::string own_token)
      : context(std::move(its_context)),
        base_(std::move(base)),
        own_token_(std::move(own_token)),
        timer_(context->Loop().Timers(), [this] { OnTimer(); }),
        pause_(context->options.linger / 2) {}
  ~Asking() = default;

  // This process leads.
  virtual void OnLead(std::shared_ptr<Tenure> tenure) noexcept = 0;
  // Another one has led. `token` is that of its lease.
  virtual void OnOutcome(std::string payload, std::string token) noexcept = 0;
  // This process must run `fn` without a lease. If there is a tenure, the server may have given us
  // the lease without our hearing of it.
  virtual void OnMustRun(std::shared_ptr<Tenure> tenure) noexcept = 0;
  virtual void OnFailure(std::exception_ptr error) noexcept = 0;
  // Another process leads for now.
  virtual void OnFollows() noexcept = 0;
  virtual void OnForgottenElsewhere() noexcept = 0;
  // It follows a lease, whose leader has sent this with it: see redis_listener.hpp.
  virtual void OnRemoteLead(std::string_view /*tag*/) noexcept {}
  // What travels in a lease of its.
  virtual std::string_view OwnTag() const noexcept { return {}; }
  // Whether the next caller of this process begins a call of its own.
  virtual bool IsForgotten() const noexcept = 0;

  void StartAsking() {
    began_ = context->Now();
    is_asking_ = true;
  }
  // Nobody wants the outcome any more. True if it was asking: then none of the above comes.
  bool Abandon() {
    if (!is_asking_) return false;
    End();
    GiveBackWhatMayBeOurs();
    return true;
  }
  // The outcome did not decode: asks again, as if its leader had died.
  void Undecodable() {
    ++context->count.undecodable;
    is_asking_ = true;
    Take();
  }

  const std::shared_ptr<GroupContext> context;

  static constexpr auto kPause = std::chrono::milliseconds(25);

  // Makes what is called with the answer to a Take that is sent now.
  auto AnswerHandler() {
    return [self = shared_from_this(), asked = context->Now(), moment = context->inbox.TakeSent()](
               Answer answer) { self->OnAnswer(std::move(answer), asked, moment); };
  }
  // The same for a function that this calls later.
  template <class Derived>
  std::shared_ptr<Derived> Self(Derived&) {
    return std::static_pointer_cast<Derived>(shared_from_this());
  }

  // ---- What a cache does otherwise

  // False: Take is called again later.
  virtual bool IsReadyToTake() { return true; }
  virtual void SendTake(std::span<const std::string_view> keys,
                        std::span<const std::string_view> words) {
    context->fleet.Core().Commands().RunScript(
        detail::TakeScript(), keys.first(awaited_.empty() ? 3 : 5), words, AnswerHandler());
  }
  virtual void OnAnswered() {}
  // Whether it may wait for the outcome of the lease with this id.
  virtual bool CanAwait(const std::string& /*id*/) { return true; }
  // True: that was all.
  virtual bool OnTakenFirst(Taken&, Clock::time_point /*asked*/) { return false; }
  // Ends with an expired value, if there is one that will do. `can_work` says whether this process
  // could do the call's work instead.
  virtual bool EndsWithOldValue(bool /*can_work*/) { return false; }
  virtual void OnEnd() {}

  void Take() {
    if (!is_asking_ || is_in_flight_) return;
    timer_.Cancel();
    if (!IsReadyToTake()) return;
    is_in_flight_ = true;
    context->inbox.Open();
    const std::string lease = detail::LeaseName(base_);
    const std::string forgotten = detail::ForgottenName(base_, own_token_);
    const std::string outcome = detail::OutcomeName(base_, own_token_);
    const std::string_view awaited = detail::TokenOf(awaited_);
    const std::string awaited_outcome = detail::OutcomeName(base_, awaited);
    const std::string awaited_forgotten = detail::ForgottenName(base_, awaited);
    const std::string any_forgotten = detail::ForgottenName(base_, {});
    const std::string milliseconds = std::to_string(context->LeaseAt({}).count());
    const std::array<std::string_view, 5> keys = {lease, forgotten, outcome, awaited_outcome,
                                                  awaited_forgotten};
    const std::array<std::string_view, 9> words = {
        own_token_,
        milliseconds,
        context->inbox.Channel(),
        context->who,
        context->tag,
        any_forgotten,
        awaited_.empty() ? std::string_view() : detail::FenceOf(awaited_),
        std::exchange(doubts_leader_, false) ? "1" : "0",
        OwnTag()};
    SendTake(keys, words);
  }

  // Every now and then the leader is asked whether it holds the lease, which a server may have kept
  // although it has ended.
  void OnTimer() {
    doubts_leader_ = std::has_single_bit(++times_asked_);
    Take();
  }
  // The server was away, or another one is in its place. Asks a few times soon.
  void DoubtLeader() {
    doubts_leader_ = true;
    times_asked_ = 0;
    pause_ = std::min<Clock::duration>(kPause, context->options.linger / 2);
  }

  void OnAnswer(Answer answer, Clock::time_point asked, const Inbox::Moment& moment) {
    is_in_flight_ = false;
    OnAnswered();
    std::optional<Taken> taken;
    if (answer.IsReply()) taken = detail::ReadTaken(answer.reply);
    std::string id;  // of the lease that the answer tells of
    if (taken && (taken->kind == Taken::Kind::kFollow || taken->kind == Taken::Kind::kWait)) {
      id = taken->text;
    } else if (taken && taken->kind == Taken::Kind::kLead) {
      id = own_token_ + taken->text;
    }
    const Inbox::Missed missed = context->inbox.TakeAnswered(moment, id);
    if (answer.IsReply()) {
      may_be_ours_ = false;  // it is known now
      if (!taken) return OnOutage(std::errc::protocol_error, "the server's answer makes no sense");
      return OnTaken(std::move(*taken), asked, missed);
    }
    if (answer.kind == Answer::Kind::kUnknown) may_be_ours_ = true;
    if (!is_asking_) return GiveBackWhatMayBeOurs();
    DoubtLeader();
    if (MayComeTrue(answer) && context->Now() < began_ + std::chrono::seconds(1)) {
      if (answer.kind == Answer::Kind::kUnknown) return Take();
      timer_.Set(context->Now() + kPause);
      return;
    }
    if (!awaited_.empty() && context->Now() < lease_until_ &&
        (answer.kind != Answer::Kind::kRefused || MayComeTrue(answer))) {
      // The leader may live, and the server come back.
      timer_.Set(std::min(lease_until_, context->Now() + std::chrono::milliseconds(100)));
      return;
    }
    OnOutage(answer.kind == Answer::Kind::kRefused ? std::errc::protocol_error
                                                   : std::errc::not_connected,
             answer.why);
  }

  void OnTaken(Taken taken, Clock::time_point asked, const Inbox::Missed& missed) {
    const auto now = context->Now();
    if (OnTakenFirst(taken, asked)) return;
    if (taken.kind == Taken::Kind::kLead) {
      auto tenure = MakeTenure(std::move(taken.text), asked);
      if (!is_asking_ || EndsWithOldValue(/*can_work=*/true)) {  // too late
        tenure->Begin(nullptr);
        return tenure->GiveBack();
      }
      if (has_followed_) ++context->count.takeovers;
      if (missed.forgotten || taken.is_forgotten) {
        tenure->NoteForgotten();
        OnForgottenElsewhere();
      }
      End();
      return OnLead(std::move(tenure));
    }
    if (!is_asking_) return;
    began_ = now;  // the server answers
    switch (taken.kind) {
      case Taken::Kind::kWait:
      case Taken::Kind::kFollow: {
        if (awaited_ != taken.text) {
          Await(taken.text);
          if (!CanAwait(taken.text)) {
            if (EndsWithOldValue(/*can_work=*/false)) return;
            End();
            return OnFailure(singleflight::detail::MakeDeadlock());
          }
          OnRemoteLead(taken.leader);
        }
        has_followed_ = true;
        lease_until_ = now + taken.left;
        if (missed.forgotten || taken.is_forgotten) OnForgottenElsewhere();
        if (std::exchange(asks_again_, false) || missed.message) return Take();
        const Clock::duration until_expiry = taken.left + std::chrono::milliseconds(1);
        timer_.Set(now + std::min(until_expiry, pause_));
        pause_ = std::min<Clock::duration>(2 * pause_, context->options.linger / 2);
        if (!std::exchange(is_known_to_follow_, true)) OnFollows();
        return;
      }
      case Taken::Kind::kOutcome:
        if (awaited_.empty()) return Take();  // a message has brought it meanwhile, unreadable
        return OnPayload(std::move(taken.text));
      case Taken::Kind::kTag: {
        const std::string tag = detail::Printable(taken.text, 1000);
        return OnOutage(std::errc::protocol_error,
                        detail::Printable(base_) + " is led for values of type '" + tag +
                            "', not '" + context->tag + "': give each type a prefix of its own");
      }
      default:
        return OnOutage(std::errc::protocol_error, detail::LeaseName(detail::Printable(base_)) +
                                                       " holds something that is no lease");
    }
  }

  // Follows the lease with this id.
  void Await(std::string id) {
    if (!awaited_.empty()) context->inbox.Remove(awaited_, *this);
    awaited_ = std::move(id);
    times_asked_ = 0;
    if (!awaited_.empty()) context->inbox.Add(awaited_, *this);
  }

  void OnMessage(const Message& message) noexcept override {
    if (message.kind == MessageKind::kForgotten) return OnForgottenElsewhere();
    if (message.kind == MessageKind::kPayload) return OnPayload(std::string(message.payload));
    AskAgain();
  }
  // What was in flight before may have missed a message.
  void OnSubscribed() noexcept override {
    DoubtLeader();
    AskAgain();
  }
  void OnClose() noexcept override {}
  bool Holds() const noexcept override { return false; }

  void AskAgain() {
    if (is_in_flight_) {
      asks_again_ = true;
    } else {
      Take();
    }
  }

  void OnPayload(std::string bytes) {
    const std::optional<Payload> payload =
        detail::Unpack(bytes, context->tag_hash, detail::TokenOf(awaited_));
    if (payload && payload->kind == PayloadKind::kRunIt) {
      ++context->count.told_to_run;
      if (EndsWithOldValue(/*can_work=*/true)) return;
      End();
      GiveBackWhatMayBeOurs();
      return OnMustRun(nullptr);
    }
    if (payload && payload->kind != PayloadKind::kAbandoned) {
      const bool failed = payload->kind != PayloadKind::kValue;
      if (failed && EndsWithOldValue(/*can_work=*/false)) return;
      std::string token(detail::TokenOf(awaited_));
      return EndWith(std::move(bytes), std::move(token));
    }
    if (!payload) ++context->count.undecodable;
    Await({});
    AskAgain();
  }

  void EndWith(std::string payload, std::string token) {
    End();
    GiveBackWhatMayBeOurs();
    OnOutcome(std::move(payload), std::move(token));
  }

  void OnOutage(std::errc code, const std::string& why) {
    const auto now = context->Now();
    if (!is_asking_) return;
    context->NoteOutage(why);
    if (EndsWithOldValue(/*can_work=*/false)) return;
    End();
    if (context->options.on_outage == OnOutage::kFail) {
      GiveBackWhatMayBeOurs();
      return OnFailure(std::make_exception_ptr(Outage(code, why)));
    }
    // A late command may make the lease when `fn` has begun, and its value been invalidated.
    if (context->cache != nullptr) GiveBackWhatMayBeOurs();
    OnMustRun(std::exchange(may_be_ours_, false) ? MakeTenure({}, now) : nullptr);
  }

  // The fence is empty if the server may not have heard of it.
  std::shared_ptr<Tenure> MakeTenure(std::string fence, Clock::time_point asked) {
    return std::make_shared<Tenure>(context, base_, own_token_, std::move(fence), asked,
                                    std::string(OwnTag()));
  }

  // This call needs no lease any more, but the server may have given it one.
  void GiveBackWhatMayBeOurs() {
    if (is_in_flight_ || !std::exchange(may_be_ours_, false)) return;
    const auto tenure = MakeTenure({}, context->Now());
    tenure->Begin(nullptr);
    tenure->GiveBack();
  }

  void End() {
    is_asking_ = false;
    timer_.Cancel();
    OnEnd();
    Await({});
  }

  std::string base_;
  std::string own_token_;
  Timer timer_;                         // for the next time to ask
  std::string awaited_;                 // the id of the lease that it follows, or empty
  Clock::time_point began_ = {};        // when it last heard of the server, or began
  Clock::time_point lease_until_ = {};  // of the lease that it follows
  Clock::duration pause_;               // until it asks again
  unsigned times_asked_ = 0;            // after such a pause, about this lease
  bool doubts_leader_ = false;          // the next Take has the leader look for its lease
  bool is_asking_ = false;              // no outcome so far
  bool is_in_flight_ = false;           // a command of its
  bool asks_again_ = false;             // as soon as that is answered
  bool has_followed_ = false;
  bool is_known_to_follow_ = false;  // OnFollows was called
  bool may_be_ours_ = false;         // an answer was lost: the lease may have been taken for us
};

// For a group: nothing is on the server but leases, and outcomes for a moment.
class GroupAsking : public Asking {
 protected:
  // Thread: any.
  GroupAsking(const std::shared_ptr<GroupContext>& its_context, std::string_view key)
      : Asking(its_context, detail::BaseOf(its_context->prefix, key), its_context->NewToken()) {}
  ~GroupAsking() = default;

  void Begin() {
    StartAsking();
    // The token of a later call may have been made before ours: it must not be taken for an older.
    if (IsForgotten()) own_token_.replace(0, kOrderSize, kOrderSize, '0');
    if (context->fleet.WaitsForForget(base_, [self = Self(*this)] { self->Take(); })) return;
    Take();
  }
};

}  // namespace singleflight::redis::detail

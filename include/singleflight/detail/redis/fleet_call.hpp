// SPDX-License-Identifier: MIT
#pragma once

// BasicFleetCall: one call of a process's own group, whose work is to ask the fleet. If this
// process leads, one of the call's callers does the work (see RunnerSlot), and its outcome is
// published before the call lands. FleetCall: that of a redis::Group.

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "../../group.hpp"
#include "../../lead.hpp"
#include "../../redis_listener.hpp"
#include "../../stop_token.hpp"
#include "../errors.hpp"
#include "../outcome.hpp"
#include "asking.hpp"
#include "fleet.hpp"
#include "publish_outcome.hpp"
#include "remote_error.hpp"
#include "runner_slot.hpp"
#include "tenure.hpp"

namespace singleflight::redis {

// Reaches callers when `fn` threw in another process, and the exception has no other form there.
// what() is the message that it had. Callers in the process that ran `fn` get the exception itself.
class RemoteError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

namespace detail {

// A caller, or its function, that can do a call's work.
template <class Lead>
class LeadRunner : public Runner {
 public:
  virtual void Take(Lead lead) noexcept = 0;

  // The caller that it does the work for, if that is a waiter. It is compared only: it may be gone.
  const Waiter<typename Lead::LedgerType::Value>* waiter = nullptr;
};

// A function that was given to one of the ways of waiting.
template <class Lead, class Launch>
class LaunchRunner final : public LeadRunner<Lead> {
 public:
  template <class L>
  explicit LaunchRunner(std::in_place_t, L&& launch) : launch_(std::forward<L>(launch)) {}

  bool IsThread() const noexcept override { return false; }
  void Take(Lead lead) noexcept override {
    std::exception_ptr error;
    try {
      std::invoke(std::move(launch_), Lead(lead));
    } catch (...) {
      error = std::current_exception();
    }
    if (error != nullptr) lead.Fail(std::move(error));  // outside the catch block
  }
  void OnFollows() noexcept override {
    if constexpr (requires { launch_.OnFollows(); }) launch_.OnFollows();
  }

 private:
  Launch launch_;
};

// `AskingBase` asks the server. `HookArg` is what happens before the call lands. `Call` is the
// class that is derived from this. It has MakeHook(guard), which runs where the work begins.
template <class Call, class Value, class ValueCodec, class AskingBase, class HookArg>
class BasicFleetCall : public AskingBase, private LeasedCall, private Grant {
 protected:
  using Ledger = typename HookArg::Ledger;
  using Async = typename Ledger::AsyncCall;
  using State = typename Ledger::State;
  using Hook = HookArg;
  using Outcome = singleflight::detail::Outcome<Value>;
  using Stored = singleflight::detail::Stored<Value>;

  using Listener = typename HookArg::Traits::Listener;
  using Remote = RemoteListening<Listener>;

 public:
  using Traits = typename HookArg::Traits;
  using Local = typename HookArg::Local;
  using Lead = singleflight::Lead<Ledger, Hook>;
  using Runner = LeadRunner<Lead>;

  using AskingBase::context;

  // Returns what a lease has for listeners as the Codec of their tag has made it.
  static std::string_view TagIn(std::string_view bytes) { return Remote::Unpack(bytes); }

  // Begins to ask for a call that has just been made. `more` are further arguments of the
  // constructor.
  //
  // Thread: any. Errors: std::bad_alloc, and std::system_error if there are no random numbers.
  // If it fails, the call must be landed.
  template <class Context, class... More>
  static void Start(std::shared_ptr<Context> context, const std::shared_ptr<Async>& async,
                    More&&... more) {
    const auto call =
        std::make_shared<Call>(std::move(context), async, std::forward<More>(more)...);
    call->own_tag_ = OwnTagType(Remote::Pack(async->call));
    // Nobody has begun any work: it can be left at any time.
    StopToken stop = call->async_->TakeStop();
    call->self_ = call;
    call->on_stop_.emplace(std::move(stop), OnStop{call.get()});
    call->context->Loop().Post(call->begin_);
  }

  // Whether a runner that is not a thread would be kept.
  static bool NeedsRunner(State& state) noexcept { return Ledger::ExtraOf(state).NeedsOwned(); }
  // Offers to do the work of the call with this state. A grant that waited for that is used here.
  static void Offer(State& state, Runner& runner, const Waiter<Value>& waiter) noexcept {
    runner.waiter = &waiter;
    if (Grant* const grant = Ledger::ExtraOf(state).Offer(runner)) {
      static_cast<BasicFleetCall&>(*grant).GiveTo(runner);
    }
  }
  static void Offer(State& state, std::unique_ptr<Runner> its_runner,
                    const Waiter<Value>* waiter) noexcept {
    its_runner->waiter = waiter;
    std::unique_ptr<redis::detail::Runner> runner = std::move(its_runner);
    if (Grant* const grant = Ledger::ExtraOf(state).Offer(runner)) {
      static_cast<BasicFleetCall&>(*grant).GiveTo(static_cast<Runner&>(*runner));
    }
  }
  static void Close(State& state) noexcept { Ledger::ExtraOf(state).Close(); }
  static bool Withdraw(State& state, Runner& runner) noexcept {
    return Ledger::ExtraOf(state).Withdraw(runner);
  }

 protected:
  BasicFleetCall(std::shared_ptr<GroupContext> its_context, std::shared_ptr<Async> async)
      : AskingBase(std::move(its_context), async->key), async_(std::move(async)), given_(async_) {}
  ~BasicFleetCall() = default;

  // Takes no room if no tag travels.
  struct NoTag {
    NoTag() = default;
    explicit NoTag(const std::string&) noexcept {}
    operator std::string_view() const noexcept {
      return {};
    }  // NOLINT(google-explicit-constructor)
  };
  using OwnTagType = std::conditional_t<Remote::kSends, std::string, NoTag>;

  struct OnStop {
    BasicFleetCall* self;
    void operator()() const noexcept {
      self->kept_to_cancel_ = self->self_;
      self->context->Loop().Post(self->cancel_);
    }
  };
  template <void (BasicFleetCall::*kDo)()>
  class Task final : public LoopTask {
   public:
    explicit Task(BasicFleetCall& call) noexcept : call_(call) {}
    void Run() noexcept override { (call_.*kDo)(); }

   private:
    BasicFleetCall& call_;
  };

  static RunnerSlot& SlotOf(const Async& async) noexcept {
    return Ledger::ExtraOf(*async.call.state);
  }

  void BeginAsking() {
    has_begun_ = true;
    if (is_canceled_) return LandUnwanted();
    this->Begin();
  }

  void Cancel() {
    const std::shared_ptr<Call> kept = std::move(kept_to_cancel_);
    if (has_begun_ && (this->Abandon() || StopsWaiting())) {
      LandUnwanted();
    } else {
      is_canceled_ = true;
    }
  }
  bool StopsWaiting() {
    std::shared_ptr<Async> async = given_.lock();
    if (async == nullptr) return false;
    const bool stops = SlotOf(*async).StopWaiting();
    ReleaseElsewhere(std::move(async));
    return stops;
  }

  // What a call holds is the user's, and must not be destroyed on the loop's thread.
  void ReleaseElsewhere(std::shared_ptr<Async> async) {
    Deliver([released = std::move(async)] {});
  }

  // ---- This process leads

  void OnLead(std::shared_ptr<Tenure> tenure) noexcept override { Use(std::move(tenure)); }
  void OnMustRun(std::shared_ptr<Tenure> tenure) noexcept override { Use(std::move(tenure)); }

  void Use(std::shared_ptr<Tenure> tenure) {
    if (tenure != nullptr) {
      tenure->Begin(std::shared_ptr<LeasedCall>(self_, this));
      guard_ = std::make_shared<typename Hook::Guard>(std::move(tenure), async_);
    }
    if (!has_told_) return GiveToFirst();
    Deliver([this] {  // after what the listener is told
      const std::shared_ptr<Call> kept = self_;
      const std::shared_ptr<GroupContext> its_context = context;
      GiveToFirst();
      its_context->Loop().Post([kept] { kept->OnGranted(); });
    });
  }
  // A Cancel may have come before the grant waited for a runner.
  void OnGranted() {
    if (is_canceled_ && StopsWaiting()) LandUnwanted();
  }

  void GiveToFirst() {
    RunnerSlot::Taken first = SlotOf(*async_).TakeFirst(*this);
    if (first.runner == nullptr) return;  // this waits for one, or to be canceled
    auto& runner = static_cast<Runner&>(*first.runner);
    if (runner.IsThread()) return GiveTo(runner);
    Deliver([this, runner = std::shared_ptr<redis::detail::Runner>(std::move(first.owned))] {
      GiveTo(static_cast<Runner&>(*runner));
    });
  }

  // Thread: any. From here on nobody else uses this object, but for a lease that is lost.
  void GiveTo(Runner& runner) noexcept {
    on_stop_.reset();
    const bool begins = async_->TakeNoStop();
    if (!begins && !runner.IsThread()) return LandUnwanted();
    if (begins || !async_->IsCanceled()) {  // else this thread waits for a lead, but runs nothing
      ++context->count.executions;
      SlotOf(*async_).NoteLeads();
    }
    const std::shared_ptr<Call> kept = std::move(self_);
    async_->SetLeader(runner.waiter);
    Hook hook = kept->MakeHook(std::move(guard_));
    if (std::unique_ptr<redis::detail::Runner> other = SlotOf(*async_).Close()) {
      Deliver([owned = std::shared_ptr<redis::detail::Runner>(std::move(other))] {});
    }
    runner.Take(Lead(singleflight::Lead<Ledger>(std::move(async_)), std::move(hook)));
  }

  void OnLost() noexcept override {
    Deliver([given = given_] {
      if (const std::shared_ptr<Async> async = given.lock()) async->Disown();
    });
  }
  void OnForgotten() noexcept override {
    if (std::shared_ptr<Async> async = given_.lock()) {
      async->Forget();
      ReleaseElsewhere(std::move(async));
    }
  }

  // ---- Another process leads

  void OnFollows() noexcept override { SlotOf(*async_).NotifyFollows(); }
  std::string_view OwnTag() const noexcept override { return own_tag_; }
  void OnRemoteLead(std::string_view tag) noexcept override {
    if constexpr (Remote::kHears) {
      has_told_ = true;
      Deliver([this, tag = std::string(tag)] {
        Remote::Tell(*async_->ledger.GetListener().target, async_->call, tag);
      });
    }
  }
  void OnForgottenElsewhere() noexcept override { async_->Forget(); }
  bool IsForgotten() const noexcept override { return !async_->IsWanted(); }

  void OnOutcome(std::string payload, std::string token) noexcept override {
    Deliver([this, payload = std::move(payload), token = std::move(token)] {
      LandRemote(payload, token);
    });
  }
  void OnFailure(std::exception_ptr error) noexcept override {
    Deliver([this, error = std::move(error)] { Land(Outcome(error)); });
  }

  // ---- On the thread that delivers

  void LandRemote(const std::string& bytes, const std::string& token) {
    const Payload payload = *detail::Unpack(bytes, context->tag_hash, token);
    std::optional<Outcome> outcome = Decode(payload);
    if (!outcome) {
      context->Loop().Post([this] {
        if (is_canceled_) return LandUnwanted();
        this->Undecodable();
      });
      return;
    }
    if (!IsLedHere()) ++context->count.remote;
    if (LandsOtherwise(*outcome)) return;
    async_->call.state->SetLedElsewhere();
    Land(std::move(*outcome));
  }
  // Whether another call of this process has made the outcome.
  virtual bool IsLedHere() const noexcept { return false; }
  // True: the callers get something better than this outcome.
  virtual bool LandsOtherwise(const Outcome&) { return false; }

  // Returns nothing if it does not decode.
  static std::optional<Outcome> Decode(const Payload& payload) {
    try {
      switch (payload.kind) {
        case PayloadKind::kValue:
          if constexpr (std::is_void_v<Value>) {
            return Outcome(std::in_place);
          } else if (std::optional<Value> value = ValueCodec::Decode(payload.body)) {
            return Outcome(std::in_place, std::move(*value));
          }
          return std::nullopt;
        case PayloadKind::kOwnError:
          if constexpr (requires { ValueCodec::DecodeError(payload.body); }) {
            if (std::exception_ptr error = ValueCodec::DecodeError(payload.body)) {
              return Outcome(std::move(error));
            }
          }
          return std::nullopt;
        case PayloadKind::kSystemError: {
          std::optional<std::string> message;
          if (std::exception_ptr error = detail::UnpackSystemError(payload.body, message)) {
            return Outcome(std::move(error));
          }
          if (!message) return std::nullopt;
          return Outcome(std::make_exception_ptr(RemoteError(*message)));
        }
        case PayloadKind::kException:
          return Outcome(std::make_exception_ptr(RemoteError(std::string(payload.body))));
        default:
          return std::nullopt;
      }
    } catch (...) {
      return std::nullopt;
    }
  }

  // All callers of this process have left, or the call was cancelled.
  void LandUnwanted() {
    if (!async_->IsCanceled()) ++context->count.abandoned;
    guard_ = nullptr;
    Deliver([this] { Land(Outcome(singleflight::detail::MakeCanceled())); });
  }

  void Land(Outcome&& outcome) {
    on_stop_.reset();
    const std::shared_ptr<Call> kept = std::move(self_);
    SlotOf(*async_).Close();
    singleflight::Lead<Ledger>(std::move(async_)).Land(std::move(outcome));
  }

  void Deliver(std::function<void()> task) { context->fleet.Deliveries().Post(std::move(task)); }

  std::shared_ptr<Async> async_;      // until it lands the call, or somebody else will
  const std::weak_ptr<Async> given_;  // the same, for the time after that
  std::optional<StopCallback<OnStop>> on_stop_;
  std::shared_ptr<Call> self_;                   // as long as async_
  std::shared_ptr<Call> kept_to_cancel_;         // while cancel_ is posted
  std::shared_ptr<typename Hook::Guard> guard_;  // null: there is no lease
  bool has_begun_ = false;                       // used by the loop's thread alone
  bool is_canceled_ = false;                     // likewise
  bool has_told_ = false;                        // the listener, of another process. Likewise
  [[no_unique_address]] OwnTagType own_tag_;     // set before Begin
  Task<&BasicFleetCall::BeginAsking> begin_{*this};
  Task<&BasicFleetCall::Cancel> cancel_{*this};
};

template <class Value, class ValueCodec, class Traits>
class FleetCall final
    : public BasicFleetCall<FleetCall<Value, ValueCodec, Traits>, Value, ValueCodec, GroupAsking,
                            PublishOutcome<Value, ValueCodec, Traits>> {
  using Base = BasicFleetCall<FleetCall, Value, ValueCodec, GroupAsking,
                              PublishOutcome<Value, ValueCodec, Traits>>;

 public:
  // Used by Start.
  FleetCall(std::shared_ptr<GroupContext> its_context, std::shared_ptr<typename Base::Async> async)
      : Base(std::move(its_context), std::move(async)) {}

  typename Base::Hook MakeHook(std::shared_ptr<typename Base::Hook::Guard> guard) const {
    return {std::move(guard)};
  }
};

}  // namespace detail

}  // namespace singleflight::redis

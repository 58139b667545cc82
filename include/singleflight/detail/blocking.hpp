// SPDX-License-Identifier: MIT
#pragma once

// What a thread does in Do: it leads a call, or waits for one.

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <system_error>
#include <utility>

#include "../listener.hpp"
#include "../options.hpp"
#include "../result.hpp"
#include "../stop_token.hpp"
#include "call.hpp"
#include "errors.hpp"
#include "event.hpp"
#include "gate.hpp"
#include "invoke.hpp"
#include "outcome.hpp"
#include "second_try.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A thread that follows calls in Do. Its timeout counts from the first of them.
template <class Ledger>
class BlockingFollower {
  using Value = typename Ledger::Value;
  using Call = typename Ledger::Call;
  using Shard = typename Ledger::Shard;
  using State = typename Ledger::State;
  using Telling = typename Ledger::Telling;
  using ToldKey = typename Ledger::ToldKey;

 public:
  BlockingFollower(Ledger& ledger, ToldKey key, const CallOptions* options)
      : ledger_(ledger), key_(key), options_(options) {
    if (options != nullptr) deadline_ = options->timeout.Deadline();
  }

  // Waits until `current` has landed, and receives its result.
  [[gnu::noinline]] static Result<Value> FollowOnce(Ledger& ledger, ToldKey key,
                                                    const CallOptions* options, Shard shard,
                                                    Call& current) {
    BlockingFollower follower(ledger, key, options);
    return State::Receive(follower.Follow(std::move(shard), current, /*retries=*/false),
                          Role::kFollower);
  }

  // The same for a caller that asks again if `current` fails. Returns the state to receive from, or
  // null if this caller leads the second try: then that has begun, with `own` as its call.
  [[gnu::noinline]] static std::shared_ptr<State> FollowOrLead(Ledger& ledger, Call& own,
                                                               const CallOptions& options,
                                                               Shard shard, Call& current,
                                                               bool takes_stop) {
    BlockingFollower follower(ledger, ToldKey(own.key), &options);
    std::shared_ptr<State> state = follower.Follow(std::move(shard), current, /*retries=*/true);
    return state->Failed() ? follower.AskAgain(own, takes_stop, std::move(state)) : state;
  }

  // Lands a call of this thread's own, of which LandAlone said `landed`, and receives its result.
  [[gnu::noinline]] static Result<Value> ShareOutcome(Ledger& ledger, Call& call,
                                                      Outcome<Value>&& outcome,
                                                      typename Ledger::Landing landed) {
    std::shared_ptr<State> state = ledger.Share(call, std::move(outcome), landed);
    if (state == nullptr) std::rethrow_exception(detail::MakeCallCanceled());
    return State::Receive(std::move(state), Role::kLeader);
  }

  // Begins a call that this thread leads. Throws if it is refused.
  [[gnu::always_inline]] static void Begin(Ledger& ledger, Shard& shard, Call& call, Call* too_old,
                                           bool takes_stop) {
    if (takes_stop) {
      call.stop.emplace(detail::NewStopSource());
      call.takes_stop = true;
    }
    ledger.Begin(shard, call, too_old);
  }

 private:
  // Waits until `call` has landed, and returns its shared state. `failed` is the state of the call
  // whose failure made this caller ask again, or null.
  [[gnu::noinline]] std::shared_ptr<State> Follow(Shard shard, Call& call, bool retries,
                                                  State* failed = nullptr) {
    if (deadline_ && std::chrono::steady_clock::now() >= *deadline_) {
      LeaveAtOnce(std::move(shard), call);
    }
    std::shared_ptr<State> state = ledger_.StateOf(call);
    Gate* const gate = FindPlace(*state);
    // Record the edge as the last step that can fail: no other thread may see an edge of a thread
    // that then does not wait. While the shard is locked, the call cannot land. (If the call is
    // full, a deadlock is still reported as one, because trying again would never help.)
    WaitEdge edge;
    if (ledger_.Full(call) ? edge.WouldClose(*state) : !edge.Record(*state)) {
      shard.Unlock();
      RefuseDeadlock();
    }
    ledger_.AdmitFollower(shard, call, key_);
    Ledger::AddFollower(shard, call, state, retries);
    if (failed != nullptr) SecondTry<Ledger>::BringOthers(ledger_, shard, call, *failed);
    Wait(std::move(shard), *state, {.gate = gate, .retries = retries, .is_in_do = true}, edge);
    return state;
  }

  // The same for a caller that is counted already.
  void WaitForSecondTry(Shard shard, State& state) {
    struct LeaveUnlessWaits {
      ~LeaveUnlessWaits() {
        if (!waits) SecondTry<Ledger>::GiveBack(ledger, state);
      }
      Ledger& ledger;
      State& state;
      bool waits = false;
    } leaving{ledger_, state};
    Shard locked(std::move(shard));  // unlocked before it leaves, if this throws
    Gate* const gate = FindPlace(state);
    WaitEdge edge;
    if (!edge.Record(state)) {
      locked.Unlock();
      RefuseDeadlock();
    }
    leaving.waits = true;
    Wait(std::move(locked), state, {.gate = gate, .is_in_do = true}, edge);
  }

  // The call that this caller followed has failed. The first of its followers to come here leads or
  // joins the second try, and brings the others along.
  std::shared_ptr<State> AskAgain(Call& own, bool takes_stop, std::shared_ptr<State> failed) {
    if (options_->stop.stop_requested()) {
      SecondTry<Ledger>::GiveUp(ledger_, *failed);
      std::rethrow_exception(detail::MakeCanceled());
    }
    ledger_.StampStart(own);
    Shard shard = ledger_.Lock(own.hash);
    if (std::shared_ptr<State> state = SecondTry<Ledger>::Find(ledger_, shard, *failed, key_)) {
      if (state->call != nullptr) {
        WaitForSecondTry(std::move(shard), *state);
      } else {
        shard.Unlock();
        Telling::OnFollow(ledger_, key_, *state);
      }
      return state;
    }
    Call* const current = ledger_.Find(shard, own.hash, own.key);
    if (current != nullptr && !ledger_.TooOld(*current)) {
      return Follow(std::move(shard), *current, /*retries=*/false, failed.get());
    }
    Ledger::Attach(shard, own, ledger_.StateOf(own));  // for the others
    Begin(ledger_, shard, own, current, takes_stop);
    SecondTry<Ledger>::BringOthers(ledger_, shard, own, *failed);
    return nullptr;
  }

  // The caller does not wait.
  [[noreturn]] void LeaveAtOnce(Shard shard, [[maybe_unused]] Call& call) {
    if constexpr (Ledger::Listening::kHeedsFollowers) {
      const std::shared_ptr<State> state = ledger_.StateOf(call);
      Shard locked(std::move(shard));  // unlocked before the state may be destroyed
      if (Telling::AsksInOnLead(call, *state)) {
        locked.Unlock();
        RefuseDeadlock();
      }
      Ledger::Attach(locked, call, state);
      ++locked->followers;
      ++locked->left;
      locked.Unlock();
      Telling::OnFollow(ledger_, key_, *state);
      Telling::OnLeave(ledger_, key_, *state, LeaveReason::kTimeout);
    } else {
      ++shard->followers;
      ++shard->left;
      shard.Unlock();
    }
    std::rethrow_exception(detail::MakeTimedOut());
  }

  [[noreturn]] void RefuseDeadlock() {
    Telling::OnRefuse(ledger_, key_, std::errc::resource_deadlock_would_occur);
    std::rethrow_exception(detail::MakeDeadlock());
  }

  // Prepares what this thread will wait at. Null: it never leaves.
  Gate* FindPlace(State& state) const {
    if (options_ != nullptr && (deadline_ || options_->stop.stop_possible())) {
      return &state.GateWithPlace();
    }
    state.PrepareToBlock();
    return nullptr;
  }

  // Waits as a caller that is counted. Throws if it leaves.
  void Wait(Shard shard, State& state, const Leaver<Value>& self, WaitEdge& edge) {
    if (self.gate != nullptr) self.gate->Take();
    shard.Unlock();
    struct LeaveIfUnwound {  // if the thread is cancelled in its wait
      ~LeaveIfUnwound() {
        if (!waits || follower.Leave(state, self, LeaveReason::kLeft)) return;
        if (self.retries && state.Failed()) state.GiveUp();
      }
      BlockingFollower& follower;
      State& state;
      const Leaver<Value>& self;
      bool waits = true;
    } waiting{*this, state, self};
    Telling::OnFollow(ledger_, key_, state);
    if (self.gate == nullptr) {
      state.Block();
      waiting.waits = false;
      return;
    }
    bool interrupted = false;
    bool landed;
    {
      const StopCallback on_stop(options_->stop, [&] { self.gate->Interrupt(interrupted); });
      landed = self.gate->Wait(deadline_, interrupted);
    }
    waiting.waits = false;
    if (landed) return;
    edge.Remove();  // before it leaves: this thread no longer waits
    const bool stopped = options_->stop.stop_requested();
    if (Leave(state, self, stopped ? LeaveReason::kStop : LeaveReason::kTimeout)) {
      std::rethrow_exception(stopped ? detail::MakeCanceled() : detail::MakeTimedOut());
    }
    self.gate->WaitUntilOpen();  // the call has landed
  }

  bool Leave(State& state, const Leaver<Value>& self, LeaveReason why) noexcept {
    StopSource unwanted(kNoStopState);
    if (!state.Leave(self, unwanted)) return false;
    Telling::OnLeave(ledger_, key_, state, why);
    unwanted.request_stop();
    return true;
  }

  Ledger& ledger_;
  [[no_unique_address]] const ToldKey key_;
  const CallOptions* const options_;
  Deadline deadline_;
};

// One Do. `Options` is const CallOptions*, which may be null, or std::nullptr_t: then no code that
// checks options is compiled. `before_landing` is a hook like Lead's BeforeLanding. What does not
// depend on `fn` is in BlockingFollower and the Ledger, where all calls of a group share it.
template <class Ledger, class Fn, class Options, class Hook>
class BlockingCaller {
  using Value = typename Ledger::Value;
  using Call = typename Ledger::Call;
  using KeyRef = typename Ledger::KeyRef;
  using Shard = typename Ledger::Shard;
  using State = typename Ledger::State;
  using Telling = typename Ledger::Telling;
  using ToldKey = typename Ledger::ToldKey;
  using Follower = BlockingFollower<Ledger>;

 public:
  // Leads or follows the call for `key`.
  static Result<Value> Ask(Ledger& ledger, KeyRef key, Fn& fn, Options options,
                           const Hook& before_landing) {
    Call call(key);
    call.hash = ledger.HashOf(key);
    if constexpr (kHasOptions) {
      if (options != nullptr && options->stop.stop_requested()) {
        std::rethrow_exception(detail::MakeCanceled());
      }
    }
    ledger.StampStart(call);
    Shard shard = ledger.Lock(call.hash);
    Call* const current = ledger.Find(shard, call.hash, key);
    if (current == nullptr || ledger.TooOld(*current)) [[likely]] {
      Follower::Begin(ledger, shard, call, current, kTakesStopToken<Fn>);
      shard.Unlock();
      return RunAndLand(ledger, call, fn, options, before_landing);
    }
    if constexpr (kHasOptions) {
      if (options != nullptr && options->on_failure == OnFailure::kRetry) {
        std::shared_ptr<State> state = Follower::FollowOrLead(
            ledger, call, *options, std::move(shard), *current, kTakesStopToken<Fn>);
        if (state == nullptr) return RunAndLand(ledger, call, fn, options, before_landing);
        return State::Receive(std::move(state), Role::kFollower);
      }
    }
    return Follower::FollowOnce(ledger, ToldKey(key), options, std::move(shard), *current);
  }

 private:
  static constexpr bool kHasOptions = !std::is_null_pointer_v<Options>;

  // The call is on this thread's stack: nothing refers to it after landing.
  static Result<Value> RunAndLand(Ledger& ledger, Call& call, Fn& fn, Options options,
                                  const Hook& before_landing) {
    struct LandIfUnwound {  // if the thread is cancelled inside `fn`
      ~LandIfUnwound() {
        if (call != nullptr) [[unlikely]] {
          ledger.LandVanished(*call);
        }
      }
      Ledger& ledger;
      Call* call;
    } landing{ledger, &call};
    Outcome<Value> outcome;
    Telling::OnLead(ledger, call);
    if constexpr (kHasOptions) {
      if (options != nullptr && options->stop.stop_possible()) {
        // The callback's destructor waits for a LeaderLeaves in progress, so `call` outlives it.
        const StopCallback on_stop(options->stop, [&] { ledger.LeaderLeaves(call); });
        Run(ledger, call, fn, before_landing, outcome);
      } else {
        Run(ledger, call, fn, before_landing, outcome);
      }
    } else {
      Run(ledger, call, fn, before_landing, outcome);
    }
    landing.call = nullptr;
    const bool failed = detail::Failed<Value>(outcome);
    const auto landed = ledger.LandAlone(call, failed);
    if (landed == Ledger::Landing::kAlone) [[likely]] {
      Telling::OnLand(ledger, call, failed);
      return ResultFactory::Take<Value>(outcome, Role::kLeader);
    }
    return Follower::ShareOutcome(ledger, call, std::move(outcome), landed);
  }

  // GCC would not inline this, since it is long, though it is called only once.
  [[gnu::always_inline]] static void Run(Ledger& ledger, Call& call, Fn& fn,
                                         const Hook& before_landing, Outcome<Value>& outcome) {
    if constexpr (Ledger::Listening::Has::kLead) {
      if (ledger.IsCanceled(call)) return;  // in OnLead
    }
    detail::Execute<Value>(outcome, static_cast<Fn&&>(fn),
                           [&call] { return call.stop->get_token(); });
    detail::RunHook(before_landing, ledger, call, call.key.get(), outcome);
  }
};

}  // namespace singleflight::detail

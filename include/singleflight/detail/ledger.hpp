// SPDX-License-Identifier: MIT
#pragma once

// Ledger: records which calls of a group are in flight, how many callers each has, what the limits
// allow, and the statistics. Joining, leaving and landing are one critical section each.

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <system_error>
#include <utility>

#include "../options.hpp"
#include "../stop_token.hpp"
#include "async_call.hpp"
#include "call.hpp"
#include "call_extra.hpp"
#include "call_table.hpp"
#include "cancel.hpp"
#include "errors.hpp"
#include "event.hpp"
#include "ledger_state.hpp"
#include "limits.hpp"
#include "listening.hpp"
#include "second_try.hpp"
#include "telling.hpp"
#include "thread_mark.hpp"
#include "thread_reaper.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

template <class KeyArg, class ValueArg, class KeyRefArg, class Traits>
class Ledger {
  using Table = CallTable<typename Traits::Mutex, Traits::kShards>;
  using Hash = typename KeyRefArg::HashType;
  using KeyEqual = typename KeyRefArg::KeyEqualType;

 public:
  using Key = KeyArg;
  using Value = ValueArg;
  using KeyRef = KeyRefArg;
  using Listener = typename Traits::Listener;
  using Listening = detail::Listening<Listener, Key, KeyRef>;
  using Call = detail::Call<KeyRef, Value, typename Listening::CallNote>;
  using AsyncCall = detail::AsyncCall<Ledger>;
  using State = SharedState<Value>;
  using CallExtra = typename CallExtraOf<Traits>::Type;
  using Shard = typename Table::Locked;  // stays locked until Unlock or the end of its scope
  static constexpr std::size_t kCallsInOneVisit = Table::kCallsInOneVisit;
  using LedgerState = detail::LedgerState<Ledger>;
  using Telling = detail::Telling<Ledger>;
  using ToldKey = typename Listening::ToldKey;

  explicit Ledger(const GroupOptions& options) : limits_(options) {}
  Ledger(const GroupOptions& options, Listener&& listener)
      : listener_(std::move(listener)), limits_(options) {}
  ~Ledger() { Drain(); }
  std::uint64_t Drain() {  // see CallTable
    const std::uint64_t begun = table_.Drain();
    return reaper_.JoinAll() ? Drain() : begun;  // a thread that has landed one may begin another
  }
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  std::uint64_t HashOf(KeyRef key) const { return table_.HashOf(hash_, key.get()); }
  Shard Lock(std::uint64_t hash) { return table_.Lock(hash); }

  // Returns the call that a caller for `key` would find, or null.
  Call* Find(const Shard& shard, std::uint64_t hash, KeyRef key) const {
    return static_cast<Call*>(shard->Find(
        hash, [&](const CallBase& call) { return IsFor(static_cast<const Call&>(call), key); }));
  }
  bool IsFor(const Call& call, KeyRef key) const { return equal_(call.key.get(), key.get()); }

  Stats GetStats() {
    Stats sum;
    table_.VisitAll([&sum](const Shard& shard) {
      sum.executions += shard->executions;
      sum.followers += shard->followers;
      sum.failures += shard->failures;
      sum.left += shard->left;
      sum.refused += shard->refused;
      sum.in_flight += shard->InFlight();
    });
    return sum;
  }
  void VisitCalls(const auto& prepare, const auto& visitor) { table_.VisitCalls(prepare, visitor); }

  static CallExtra& ExtraOf(State& state) noexcept { return LedgerState::Of(state).extra; }

  Listener& GetListener() noexcept { return listener_; }

  // The threads that do the work of calls. They have exited when the ledger is destroyed.
  ThreadReaper& Reaper() noexcept { return reaper_; }

  // ---- Leading

  // Called before the shard is locked, because it reads the clock.
  void StampStart(Call& call) const {
    if (Listening::kIsTimed || limits_.StampsCalls()) call.started = Limits::Now();
  }
  bool StampsCalls() const noexcept { return limits_.StampsCalls(); }
  bool TooOld(const Call& call) const { return limits_.TooOld(call.started); }

  // Puts a new call into the table. It replaces `too_old`, a call that is too old to be joined,
  // unless that is null. Throws if the leader is refused.
  [[gnu::always_inline]] void Begin(Shard& shard, Call& call, Call* too_old) {
    if (limits_.Any()) [[unlikely]] {
      AdmitLeader(shard, ToldKey(call.key));
    }
    if (too_old != nullptr) [[unlikely]] {
      shard->Forget(*too_old);
    }
    shard->Insert(call);
    ++shard->executions;
  }

  // ---- Following. All that can fail is done before AddFollower.

  bool Full(const Call& call) const { return call.callers >= limits_.CallersPerCall(); }

  std::shared_ptr<State> StateOf(Call& call) {
    return call.state != nullptr ? call.state
                                 : std::make_shared<LedgerState>(*this, call, call.leader);
  }

  // Throws if the caller is refused. After that, AddFollower must follow.
  void AdmitFollower(Shard& shard, const Call& call, ToldKey key) {
    if (Full(call)) Refuse(std::move(shard), key, "singleflight: max_callers_per_call reached");
    if (limits_.IsClosed()) Refuse(std::move(shard), key, "singleflight: the group is closed");
    if (!limits_.AddCaller()) {
      Refuse(std::move(shard), key, "singleflight: max_callers reached");
    }
  }
  // Gives a call the state that its followers need, unless it has one.
  static void Attach(const Shard&, Call& call, const std::shared_ptr<State>& state) noexcept {
    if (call.state != nullptr) return;
    call.state = state;
    Telling::ExpectTag(call, *state);
  }
  static void AddFollower(const Shard& shard, Call& call, const std::shared_ptr<State>& state,
                          bool retries) noexcept {
    Attach(shard, call, state);
    ++call.callers;
    ++shard->followers;
    state->retriers += retries;
  }

  // ---- Leaving, and being refused

  // A blocking leader was stopped. It no longer counts as a caller, but stays until `fn` returns.
  void LeaderLeaves(Call& call) {
    StopSource unwanted(kNoStopState);
    if (!DropLeader(call, unwanted)) return;
    Telling::OnLeave(*this, call);
    unwanted.request_stop();
  }
  // False: the call was cancelled.
  bool DropLeader(Call& call, StopSource& unwanted) noexcept {
    const Shard shard = Lock(call.hash);
    if (call.canceled) return false;
    call.leader_left = true;
    unwanted = DropCaller(shard, call);
    return true;
  }

  // The work of a call takes the stop token: it can be asked to stop from now on. If all callers
  // have left before, that is now, of what this returns. A call that has no token to take gets that
  // of `fresh`.
  StopSource TakeStop(CallBase& call, StopSource&& fresh) noexcept {
    const Shard shard = Lock(call.hash);
    GiveStop(shard, call, std::move(fresh));
    call.takes_stop = true;
    return call.callers == 0 ? Abandon(shard, call) : StopSource(kNoStopState);
  }
  void WatchStop(CallBase& call, StopSource&& fresh) noexcept {
    GiveStop(Lock(call.hash), call, std::move(fresh));
  }
  bool IsCanceled(const CallBase& call) noexcept {
    const Shard shard = Lock(call.hash);
    return call.canceled;
  }
  // Whether nobody here is to get its outcome: it was cancelled, or asked to stop and obeys.
  bool IsUnwanted(const CallBase& call) noexcept {
    const Shard shard = Lock(call.hash);
    return call.canceled || (call.takes_stop && call.stop->stop_requested());
  }
  // The opposite: the call's work is about to begin, and may not take the token. False if the call
  // was asked to stop before.
  bool TakeNoStop(CallBase& call) noexcept {
    const Shard shard = Lock(call.hash);
    if (call.callers == 0 || call.AskedToStop()) return false;
    call.takes_stop = false;
    return true;
  }
  // For a call that nobody should wait for any more, whoever is on it: returns its stop source, if
  // its work takes the token.
  StopSource Disown(CallBase& call) noexcept {
    const Shard shard = Lock(call.hash);
    return call.takes_stop ? Abandon(shard, call) : StopSource(kNoStopState);
  }

  void SetLeader(Call& call, const Waiter<Value>* waiter) noexcept {
    const Shard shard = Lock(call.hash);
    if (!call.canceled) call.state->SetLeader(waiter);  // else they are being notified
  }

  void Forget(CallBase& call) noexcept {
    const Shard shard = Lock(call.hash);
    if (!call.Forgotten()) shard->Forget(call);
  }

  // Whether a new caller could still get this call's result.
  bool IsWanted(const CallBase& call) {
    const Shard shard = Lock(call.hash);
    return !call.Forgotten() && !call.AskedToStop();
  }

  // ---- Landing: a call is closed under the lock, its outcome is published, its callers are woken

  // How far a call on its leader's stack has landed.
  enum class Landing : unsigned char {
    kAlone,     // nobody else gets its outcome
    kShared,    // it is closed, and Share must publish its outcome
    kOpen,      // it is not closed, because Share must set its outcome first
    kCanceled,  // it had been cancelled
  };

  // Lands a call on its leader's stack. If that is not all, Share must follow. Not inlined: each
  // further `fn` of Do would cost half a kilobyte of code, and time too.
  [[nodiscard, gnu::noinline]] Landing LandAlone(Call& call, bool failed) noexcept {
    const Shard shard = Lock(call.hash);
    if (call.state == nullptr) [[likely]] {
      return Close(shard, call, failed);
    }
    return CloseUnlessOpen(shard, call, failed);
  }

  // Returns null if the call was cancelled while its leader was alone.
  [[gnu::noinline]] std::shared_ptr<State> Share(Call& call, Outcome<Value>&& outcome,
                                                 Landing landing) noexcept {
    if (landing == Landing::kCanceled) {
      Telling::OnLand(*this, call, true);
      return std::move(call.state);
    }
    const bool failed = detail::Failed<Value>(outcome);
    State& state = *call.state;
    state.SetOutcome(std::move(outcome));
    if (landing == Landing::kOpen) {
      landing = Close(Lock(call.hash), call, state.OutcomeFailed());
    } else if (state.OutcomeFailed() != failed) {
      ++Lock(call.hash)->failures;  // the value's move threw
    }
    Telling::OnLand(*this, call, state.OutcomeFailed());
    if (landing == Landing::kCanceled) {
      state.Discard();
    } else {
      state.Publish();
    }
    return std::move(call.state);
  }

  // Lands a call whose leader's thread is being cancelled inside `fn`.
  [[gnu::noinline]] void LandVanished(Call& call) noexcept {
    const Landing landing = LandAlone(call, true);
    if (landing != Landing::kAlone) {
      Share(call, {}, landing);
    } else {
      Telling::OnLand(*this, call, true);
    }
  }

  // Lands a call that is led asynchronously. The group may be destroyed once this has unlinked the
  // entry, which waits for waiters that may join a call of the group again. False: the call had
  // been cancelled, and the outcome was dropped.
  bool Land(AsyncCall& async, Outcome<Value>&& outcome) noexcept {
    State& state = *async.call.state;
    state.SetOutcome(std::move(outcome));
    const bool failed = state.OutcomeFailed();
    bool is_wanted;
    bool is_canceled = false;
    bool is_retried = false;
    {
      const Shard shard = Lock(async.call.hash);
      is_wanted = !async.call.canceled && (async.call.callers > 0 || async.call.leader_left);
      if (is_wanted) {
        Close(shard, async.call, failed);
        is_retried = state.HasRetryingWaiters();
        if (!is_retried && !kTellsLanding) UnlinkEntry(shard, async);
      } else if (!async.call.Forgotten()) {
        shard->Forget(async.call);  // so that nobody joins while its value is destroyed
      }
    }
    if (!is_wanted) {
      state.Discard();  // before the group may be destroyed, because the value may use it
      const Shard shard = Lock(async.call.hash);
      is_canceled = Close(shard, async.call, failed) == Landing::kCanceled;
      if (!kTellsLanding) UnlinkEntry(shard, async);
    }
    if constexpr (kTellsLanding) {  // while the group waits for the entry
      Telling::OnLand(*this, async.call, failed);
      if (!is_retried) UnlinkEntry(Lock(async.call.hash), async);
    }
    if (is_canceled) return false;
    state.PublishToAllButRetriers();
    state.PublishToRetriers();
    if (is_retried) UnlinkEntry(Lock(async.call.hash), async);
    return true;
  }

  // ---- Closing the group

  // Refuses newcomers, and waits until no call is in flight.
  void CloseGroup() {
    if (this_thread_mark.leading > 0) std::rethrow_exception(detail::MakeDeadlock());
    const std::lock_guard lock(closing_);
    limits_.Close();
    table_.VisitAll([](Shard shard) {
      if (shard->InFlight() == 0) return;
      Event idle;
      shard->idle = &idle;
      shard.WhileUnlocked([&idle] { idle.Wait(); });
      shard->idle = nullptr;
    });
  }

 private:
  friend class Canceler<Ledger>;
  friend class detail::LedgerState<Ledger>;
  friend class SecondTry<Ledger>;
  static constexpr bool kTellsLanding = Listening::Has::kLand;

  [[noreturn]] [[gnu::noinline]] void Refuse(Shard shard, ToldKey key, const char* why) {
    ++shard->refused;
    shard.Unlock();
    Telling::OnRefuse(*this, key, std::errc::resource_unavailable_try_again);
    detail::Throw(std::errc::resource_unavailable_try_again, why);
  }

  [[gnu::noinline]] void AdmitLeader(Shard& shard, ToldKey key) {
    if (limits_.IsClosed()) Refuse(std::move(shard), key, "singleflight: the group is closed");
    if (!limits_.AddCall()) {
      Refuse(std::move(shard), key, "singleflight: max_calls_in_flight reached");
    }
    if (!limits_.AddCaller()) {
      limits_.RemoveCall();
      Refuse(std::move(shard), key, "singleflight: max_callers reached");
    }
  }

  // Counts one caller fewer. Once the shard is unlocked, the stop is requested of what it returns.
  StopSource DropCaller(const Shard& shard, CallBase& call) noexcept {
    ++shard->left;
    limits_.RemoveCallers(1);
    if (--call.callers > 0 || !call.takes_stop) return StopSource(kNoStopState);
    return Abandon(shard, call);
  }

  static void GiveStop(const Shard&, CallBase& call, StopSource&& fresh) noexcept {
    if (call.stop) return;
    if (call.drained || call.canceled) fresh.request_stop();  // runs nothing: nobody has its token
    call.stop = std::move(fresh);
  }

  // No caller is left on a call that can be asked to stop. Forgets it in the same critical section,
  // so that no newcomer joins a call that was asked to stop.
  static StopSource Abandon(const Shard& shard, CallBase& call) noexcept {
    if (!call.Forgotten()) shard->Forget(call);
    return *call.stop;
  }

  static void UnlinkEntry(const Shard& shard, AsyncCall& async) noexcept {
    async.entry.Unlink();
    if (shard->drained != nullptr && shard->async_calls.Empty()) shard->drained->Set();
  }

  [[gnu::noinline]] Landing CloseUnlessOpen(const Shard& shard, Call& call, bool failed) noexcept {
    if (call.state->OutcomeComesFirst()) return Landing::kOpen;
    return Close(shard, call, failed);
  }

  // From here on no caller finds, joins or leaves the call.
  [[gnu::always_inline]] Landing Close(const Shard& shard, Call& call, bool failed) noexcept {
    if (call.Forgotten() && call.canceled) [[unlikely]] {
      return Canceler<Ledger>::Close(*this, shard, call);
    }
    shard->Remove(call);
    if (failed) [[unlikely]]
      ++shard->failures;
    if (limits_.Any()) [[unlikely]] {
      limits_.RemoveCall();
      // Followers that will ask again keep their places.
      const std::uint32_t kept = failed && call.state != nullptr ? call.state->retriers : 0;
      limits_.RemoveCallers(call.callers - kept);
      SetIdle(shard);
    }
    if (call.state == nullptr) [[likely]] {
      return Landing::kAlone;
    }
    call.state->Close(call.Shared());
    return call.Shared() ? Landing::kShared : Landing::kAlone;
  }
  // Ends a wait of CloseGroup, if no call is in flight.
  static void SetIdle(const Shard& shard) noexcept {
    if (shard->idle != nullptr && shard->InFlight() == 0) shard->idle->Set();
  }

  [[no_unique_address]] Listener listener_{};  // destroyed last
  Table table_;
  [[no_unique_address]] Hash hash_{};
  [[no_unique_address]] KeyEqual equal_{};
  Limits limits_;
  std::mutex closing_;  // held by a thread inside CloseGroup
  ThreadReaper reaper_;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <mutex>

#include "../stop_token.hpp"
#include "adaptive_mutex.hpp"
#include "call.hpp"
#include "call_table.hpp"
#include "invoke.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

// A call that is led asynchronously, with its own copy of the key. Owned by its Leads.
template <class Ledger>
class AsyncCall {
 public:
  using KeyRef = typename Ledger::KeyRef;

  AsyncCall(Ledger& its_ledger, std::uint64_t hash, KeyRef ref)
      : key(ref.get()), call(KeyRef(key)), ledger(its_ledger) {
    call.hash = hash;
  }
  ~AsyncCall() {
    if (begun_ && phase_ != Phase::kLanded) ledger.Land(*this, {});
  }

  // Called once, before Enter. If this throws, the call is destroyed, and its key, by whoever owns
  // it.
  void Prepare() {
    call.state = ledger.MakeState(call, ThreadId());
    call.stop = NewStopSource();
  }

  // Called once the call is in the table. It counts among those that ~Group waits for.
  void Enter(const typename Ledger::Shard& shard) noexcept {
    begun_ = true;
    entry.InsertBefore(shard->async_calls);
    if (shard->stopping) {
      entry.asked_to_stop = true;
      call.stop.request_stop();  // runs no callback: nobody has its token so far
    }
  }

  // True for the first who is about to run the call's work, unless it has landed.
  bool StartsRunning() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLaunched) return false;
    phase_ = Phase::kRunning;
    return true;
  }
  // True for the first who is about to land the call.
  bool StartsLanding() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::kLanded) return false;
    phase_ = Phase::kLanded;
    return true;
  }

  // The work takes the stop token, so the call can be asked to stop from now on.
  StopToken TakeStop() {
    StopSource unwanted(kNoStopState);
    {
      const std::lock_guard lock(mutex_);  // so that the call does not land, and its group stays
      if (phase_ != Phase::kLanded) {
        unwanted = ledger.TakeStop(call);
        if (disowned_) unwanted = ledger.Disown(call);
      }
    }
    unwanted.request_stop();
    return call.stop.get_token();
  }

  // The work is about to begin, and takes no token unless it does so from now on. False if the call
  // was asked to stop, or has landed.
  bool TakeNoStop() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ == Phase::kLanded || !ledger.TakeNoStop(call)) return false;
    is_about_to_begin_ = true;
    return true;
  }
  // Asks the call to stop, and forgets it, as soon as its work takes the token.
  void Disown() noexcept {
    StopSource unwanted(kNoStopState);
    {
      const std::lock_guard lock(mutex_);
      disowned_ = true;
      if (phase_ != Phase::kLanded && is_about_to_begin_) unwanted = ledger.Disown(call);
    }
    unwanted.request_stop();
  }
  // Whether the call has not landed so far, and nobody here is to get its outcome.
  bool IsUnwanted() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsUnwanted(call);
  }
  bool IsCanceled() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsCanceled(call);
  }
  // This waiter does the call's work, so it is the leader. It may be gone. Null: none does.
  void SetLeader(const Waiter<typename Ledger::Value>* waiter) noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLanded) ledger.SetLeader(call, waiter);
  }
  // Whether a new caller could still get this call's result.
  bool IsWanted() noexcept {
    const std::lock_guard lock(mutex_);
    return phase_ != Phase::kLanded && ledger.IsWanted(call);
  }
  // Forgets the call, if it has not landed.
  void Forget() noexcept {
    const std::lock_guard lock(mutex_);
    if (phase_ != Phase::kLanded) ledger.Forget(call);
  }
  // A blocking caller that does the work is stopped: it no longer counts, but gets the outcome.
  void LeaderLeaves() noexcept {
    StopSource unwanted(kNoStopState);
    {
      const std::lock_guard lock(mutex_);
      if (phase_ == Phase::kLanded || !ledger.DropLeader(call, unwanted)) return;
    }
    Ledger::Telling::OnLeave(ledger, call);
    unwanted.request_stop();
  }

  const typename Ledger::Key key;
  typename Ledger::Call call;
  AsyncEntry entry{call};
  Ledger& ledger;

 private:
  // Only moves forward. kLaunched: Lead::Run has not begun. kRunning: it has. kLanded: some thread
  // is landing the call, or has landed it.
  enum class Phase : unsigned char { kLaunched, kRunning, kLanded };

  bool begun_ = false;  // whether the call was put into the table
  AdaptiveMutex mutex_;
  // Guarded by mutex_.
  Phase phase_ = Phase::kLaunched;
  bool is_about_to_begin_ = false;  // TakeNoStop was called
  bool disowned_ = false;           // Disown was called
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// Ledger: records which calls of a group are in flight, how many callers each has, what the limits
// allow, and the statistics. Joining, leaving and landing are one critical section each.

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <system_error>
#include <utility>

#include "../options.hpp"
#include "async_call.hpp"
#include "call.hpp"
#include "call_table.hpp"
#include "event.hpp"

namespace singleflight::detail {

template <class KeyArg, class ValueArg, class KeyRefArg, class Traits>
class Ledger {
  using Table = CallTable<typename Traits::Mutex, Traits::kShards>;

 public:
  using Key = KeyArg;
  using Value = ValueArg;
  using KeyRef = KeyRefArg;
  using Call = detail::Call<KeyRef, Value>;
  using AsyncCall = detail::AsyncCall<Ledger>;
  using State = SharedState<Value>;
  using Shard = typename Table::Locked;  // stays locked until Unlock or the end of its scope

  explicit Ledger(const GroupOptions& options) : options_(options) {
    if (options.max_callers_per_call == 0) {
      throw std::invalid_argument("singleflight: max_callers_per_call is 0: nobody can be served");
    }
    if (options.max_calls_in_flight == 0) {
      throw std::invalid_argument("singleflight: max_calls_in_flight is 0: nobody can be served");
    }
    if (options.max_age && options.max_age->count() <= 0) {
      throw std::invalid_argument("singleflight: max_age is not positive: nothing can be shared");
    }
  }
  ~Ledger() { table_.Drain(); }
  Ledger(const Ledger&) = delete;
  Ledger& operator=(const Ledger&) = delete;

  std::uint64_t Mix(std::size_t hash) const noexcept { return table_.Mix(hash); }
  Shard Lock(std::uint64_t hash) { return table_.Lock(hash); }

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

  // ---- Leading

  // Called before the shard is locked, because it reads the clock.
  void StampStart(Call& call) const {
    if (options_.max_age) call.started = Now();
  }
  bool TooOld(const Call& call) const {
    return options_.max_age && std::chrono::nanoseconds(Now() - call.started) > *options_.max_age;
  }

  // Puts a new call into the table. It replaces `too_old`, a call that is too old to be joined,
  // unless that is null. False: too many calls are in flight, and nothing was done.
  [[nodiscard]] bool Begin(const Shard& shard, Call& call, Call* too_old) {
    if (LimitsCalls()) [[unlikely]] {
      std::size_t in_flight = in_flight_.load(kRelaxed);
      do {
        if (in_flight >= options_.max_calls_in_flight) return false;
      } while (!in_flight_.compare_exchange_weak(in_flight, in_flight + 1, kRelaxed));
    }
    if (too_old != nullptr) [[unlikely]] {
      shard->Forget(*too_old);
    }
    shard->Insert(call);
    ++shard->executions;
    return true;
  }

  // ---- Following. All that can fail is done before AddFollower.

  bool Full(const Call& call) const { return call.callers >= options_.max_callers_per_call; }

  std::shared_ptr<State> StateOf(Call& call) {
    return call.state != nullptr ? call.state : MakeState(call, call.leader);
  }
  std::shared_ptr<State> MakeState(CallBase& call, const ThreadMark* leader) {
    return std::make_shared<LedgerState>(*this, call, leader);
  }

  static void AddFollower(const Shard& shard, Call& call,
                          const std::shared_ptr<State>& state) noexcept {
    if (call.state == nullptr) call.state = state;
    ++call.callers;
    ++shard->followers;
  }

  // ---- Leaving, and being refused

  [[noreturn]] [[gnu::noinline]] static void Refuse(Shard shard, const char* why) {
    ++shard->refused;
    shard.Unlock();
    detail::Throw(std::errc::resource_unavailable_try_again, why);
  }

  // A blocking leader was stopped. It no longer counts as a caller, but stays until `fn` returns.
  void LeaderLeaves(Call& call) {
    std::stop_source unwanted(std::nostopstate);
    {
      const Shard shard = Lock(call.hash);
      call.leader_left = true;
      unwanted = DropCaller(shard, call);
    }
    unwanted.request_stop();
  }

  // Whether a new caller could still get this call's result.
  bool IsWanted(const CallBase& call) {
    const Shard shard = Lock(call.hash);
    return !call.Forgotten() && !call.stop.stop_requested();
  }

  // ---- Landing: the entry is removed under the lock, then the outcome is published, then the
  // callers are woken

  // Lands a call on its leader's stack. False: it has followers, so it must be landed with Share.
  [[nodiscard]] bool LandAlone(Call& call, bool failed) noexcept {
    return !Close(Lock(call.hash), call, failed);
  }

  [[gnu::noinline]] std::shared_ptr<State> Share(Call& call, Outcome<Value>&& outcome) noexcept {
    const bool failed = detail::Failed<Value>(outcome);
    call.state->SetOutcome(std::move(outcome));
    if (call.state->Failed() != failed) ++Lock(call.hash)->failures;  // the value's move threw
    call.state->Publish();
    return std::move(call.state);
  }

  // Lands a call whose leader's thread is being cancelled inside `fn`.
  [[gnu::noinline]] void LandVanished(Call& call) noexcept {
    if (!LandAlone(call, true)) Share(call, {});
  }

  // Lands a call that is led asynchronously. The group may be destroyed once the shard is unlocked.
  void Land(AsyncCall& async, Outcome<Value>&& outcome) noexcept {
    State& state = *async.call.state;
    state.SetOutcome(std::move(outcome));
    const bool failed = state.Failed();
    if (!CloseAsync(async, failed, /*without_callers=*/false)) {
      state.Discard();
      CloseAsync(async, failed, /*without_callers=*/true);
    }
    state.Publish();
  }

 private:
  // The shared state of a group's call. It can reach the ledger, so that a caller can leave.
  class LedgerState final : public State {
   public:
    LedgerState(Ledger& ledger, CallBase& of, const ThreadMark* leader) noexcept
        : State(of, leader), ledger_(ledger) {}

    bool Leave(Waiter<Value>* waiter, std::stop_source& unwanted) noexcept override {
      if (this->HasLanded()) return false;  // the group may have been destroyed
      const Shard shard = ledger_.Lock(this->hash);
      if (this->call == nullptr) return false;
      if (waiter != nullptr) this->Unlink(*waiter);
      unwanted = DropCaller(shard, *this->call);
      return true;
    }

   private:
    Ledger& ledger_;
  };

  static constexpr auto kRelaxed = std::memory_order_relaxed;  // in_flight_ is only a counter

  bool LimitsCalls() const noexcept {
    return options_.max_calls_in_flight != GroupOptions::kNoLimit;
  }

  static std::chrono::nanoseconds::rep Now() {
    return std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count();
  }

  // Counts one caller fewer. If it was the last, forgets the call and returns its stop source, to
  // be requested once the shard is unlocked.
  static std::stop_source DropCaller(const Shard& shard, CallBase& call) noexcept {
    ++shard->left;
    if (--call.callers > 0) return std::stop_source(std::nostopstate);
    if (!call.Forgotten()) shard->Forget(call);
    return call.stop;
  }

  // False: no caller is left and none can join, because the call was forgotten when the last one
  // left. Its value must be destroyed before the call closes: the group may be destroyed right
  // after.
  bool CloseAsync(AsyncCall& async, bool failed, bool without_callers) noexcept {
    const Shard shard = Lock(async.call.hash);
    if (async.call.callers == 0 && !without_callers) return false;
    Close(shard, async.call, failed);
    async.entry.Unlink();
    if (shard->drained != nullptr && shard->async_calls.Empty()) shard->drained->Set();
    return true;
  }

  // From here on no caller finds, joins or leaves the call. True: several callers get its outcome.
  bool Close(const Shard& shard, Call& call, bool failed) noexcept {
    shard->Remove(call);
    if (failed) [[unlikely]] {
      ++shard->failures;
    }
    if (LimitsCalls()) [[unlikely]] {
      in_flight_.fetch_sub(1, kRelaxed);
    }
    if (call.state == nullptr) [[likely]] {
      return false;
    }
    call.state->Close(call.Shared());
    return call.Shared();
  }

  const GroupOptions options_;
  std::atomic<std::size_t> in_flight_ = 0;  // counted only if LimitsCalls()
  Table table_;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// Canceler: takes a call away from its callers, who get `operation_canceled`, while its work goes
// on.
//
// Cancel and the landing of a call each decide in one critical section, so the first of them gives
// the callers their outcome. After Cancel the call is only one of those in flight: it is forgotten,
// has no callers, and what its work returns is dropped.

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <utility>
#include <vector>

#include "../stop_token.hpp"
#include "call_table.hpp"
#include "errors.hpp"

namespace singleflight::detail {

template <class Ledger>
class Canceler {
  using Call = typename Ledger::Call;
  using KeyRef = typename Ledger::KeyRef;
  using Landing = typename Ledger::Landing;
  using Shard = typename Ledger::Shard;
  using State = typename Ledger::State;

 public:
  // Cancels the call that a caller for `key` would find. False: there is none. No group is needed
  // from the moment when it notifies the callers, who may destroy it.
  static bool Cancel(Ledger& ledger, std::uint64_t hash, KeyRef key) {
    std::exception_ptr error = detail::MakeCallCanceled();  // before the shard is locked
    Canceled canceled;
    {
      const Shard shard = ledger.Lock(hash);
      Call* const call = ledger.Find(shard, hash, key);
      if (call == nullptr) return false;
      canceled = Mark(ledger, shard, *call, std::move(error));
    }
    Notify(canceled);
    return true;
  }

  // Cancels all calls for `key`, also those that were forgotten. False: there is none.
  //
  // Errors: throws std::bad_alloc.
  static bool CancelAll(Ledger& ledger, std::uint64_t hash, KeyRef key) {
    const std::exception_ptr error = detail::MakeCallCanceled();
    std::vector<Canceled> canceled;
    for (std::size_t count = 0; !MarkAll(ledger, hash, key, error, canceled, count);) {
      canceled.reserve(count);  // with no lock held
    }
    for (Canceled& each : canceled) Notify(each);
    return !canceled.empty();
  }

  // Whoever works for the call has its Lead: from here on, Cancel notifies the callers at once. If
  // one came before, they are notified here, and may destroy the group and what launched the call.
  static void EndHandOver(State& state) noexcept {
    if (state.EndHandOver()) Publish(state);
  }

  // The work of a call that was cancelled has finished.
  [[gnu::noinline]] static Landing Close(Ledger& ledger, const Shard& shard, Call& call) noexcept {
    shard->Remove(call);
    if (ledger.limits_.Any()) {
      ledger.limits_.RemoveCall();
      Ledger::SetIdle(shard);
    }
    return Landing::kCanceled;
  }

 private:
  struct Canceled {
    StopSource stop = StopSource(kNoStopState);
    std::shared_ptr<State> state = {};  // null: its leader is alone, and notices when `fn` returns
  };

  static Canceled Mark(Ledger& ledger, const Shard& shard, Call& call,
                       std::exception_ptr error) noexcept {
    if (!call.Forgotten()) shard->Forget(call);
    call.canceled = true;
    ++shard->failures;
    ledger.limits_.RemoveCallers(std::exchange(call.callers, 0));
    if (call.state != nullptr) call.state->Cancel(std::move(error));
    return {call.StopOrNone(), call.state};
  }

  // False: `canceled` has no room for them all. There must be room for `count`.
  static bool MarkAll(Ledger& ledger, std::uint64_t hash, KeyRef key,
                      const std::exception_ptr& error, std::vector<Canceled>& canceled,
                      std::size_t& count) {
    const Shard shard = ledger.Lock(hash);
    const auto visit_forgotten = [&](const auto& visit) {
      shard->VisitForgotten(hash, [&](CallBase& base) {
        Call& call = static_cast<Call&>(base);
        // One that nobody waits for, and that was asked to stop, lands soon.
        const bool is_over = call.canceled || (call.callers == 0 && call.takes_stop);
        if (!is_over && ledger.IsFor(call, key)) visit(call);
      });
    };
    Call* const present = ledger.Find(shard, hash, key);
    count = present != nullptr ? 1 : 0;
    visit_forgotten([&](Call&) { ++count; });
    if (count > canceled.capacity()) return false;
    visit_forgotten([&](Call& call) { canceled.push_back(Mark(ledger, shard, call, error)); });
    if (present != nullptr) canceled.push_back(Mark(ledger, shard, *present, error));
    return true;
  }

  // The callers get the error, and then the work is asked to stop.
  static void Notify(Canceled& canceled) {
    if (canceled.state != nullptr && canceled.state->MayPublishCancel()) Publish(*canceled.state);
    canceled.stop.request_stop();
  }
  static void Publish(State& state) noexcept {
    // What the call carries may still refer to its callers.
    if constexpr (requires { Ledger::ExtraOf(state).OnCancel(); }) {
      Ledger::ExtraOf(state).OnCancel();
    }
    state.Publish();
  }
};

}  // namespace singleflight::detail

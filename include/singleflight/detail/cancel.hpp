// SPDX-License-Identifier: MIT
#pragma once

// Canceler: takes a call away from its callers, who get `operation_canceled`, while its work goes
// on.
//
// Cancel and the landing of a call each decide in one critical section, so the first of them gives
// the callers their outcome. After Cancel the call is only one of those in flight: it is forgotten,
// has no callers, and what its work returns is dropped.

#include <cstdint>
#include <exception>
#include <memory>
#include <utility>

#include "../stop_token.hpp"
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
    StopSource stop(kNoStopState);
    std::shared_ptr<State> state;  // null: its leader is alone, and notices when `fn` returns
    {
      const Shard shard = ledger.Lock(hash);
      Call* const call = ledger.Find(shard, hash, key);
      if (call == nullptr) return false;
      shard->Forget(*call);
      call->canceled = true;
      ++shard->failures;
      ledger.limits_.RemoveCallers(std::exchange(call->callers, 0));
      stop = call->stop;
      state = call->state;
      if (state != nullptr) state->Cancel(std::move(error));
    }
    if (state != nullptr) {
      // What the call carries may still refer to its callers.
      if constexpr (requires { Ledger::ExtraOf(*state).OnCancel(); }) {
        Ledger::ExtraOf(*state).OnCancel();
      }
      state->Publish();
    }
    stop.request_stop();
    return true;
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
};

}  // namespace singleflight::detail

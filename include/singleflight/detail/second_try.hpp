// SPDX-License-Identifier: MIT
#pragma once

// SecondTry: how the followers of a failed call that ask again (OnFailure::kRetry) come to share
// one call. The first of them leads or joins it, and makes the others callers of it.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "../stop_token.hpp"

namespace singleflight::detail {

template <class Ledger>
class SecondTry {
  using Call = typename Ledger::Call;
  using Shard = typename Ledger::Shard;
  using State = typename Ledger::State;

 public:
  // Returns the second try that another follower of the failed call has begun for this one, too, or
  // null if this one is the first to ask again. Throws if there was no place for it.
  static std::shared_ptr<State> Find(Ledger& ledger, Shard& shard, State& failed,
                                     typename Ledger::ToldKey key) {
    if (failed.expected == 0 && failed.turned_away > 0) {
      --failed.turned_away;
      ledger.Refuse(std::move(shard), key, "singleflight: max_callers_per_call reached");
    }
    return TakePlace(ledger, shard, failed);
  }

  // Makes the other followers that will ask again callers of `call`, which this one leads or joins,
  // as far as there are places. The rest will be refused, so that none begins a third try.
  static void BringOthers(Ledger& ledger, const Shard& shard, Call& call, State& failed) noexcept {
    const std::uint32_t others = std::exchange(failed.retriers, 0);
    const auto brought = static_cast<std::uint32_t>(
        std::min<std::size_t>(others, ledger.limits_.CallersPerCall() - call.callers));
    failed.turned_away = others - brought;
    ledger.limits_.RemoveCallers(failed.turned_away);
    if (brought == 0) return;
    call.callers += brought;
    shard->followers += brought;
    failed.expected = brought;
    failed.second_try = call.state;
    call.state->has_latecomers = true;
  }

  // For a follower that has found the second try, and cannot follow it: as if it had not been
  // brought there.
  static void GiveBack(Ledger& ledger, State& second_try) noexcept {
    StopSource unwanted(kNoStopState);
    {
      const Shard shard = ledger.Lock(second_try.hash);
      --shard->followers;
      if (second_try.call != nullptr) {
        unwanted = ledger.DropCaller(shard, *second_try.call);
        --shard->left;
      }
    }
    unwanted.request_stop();
  }

  // For a follower that will not ask again after all.
  static void GiveUp(Ledger& ledger, State& failed) noexcept {
    StopSource unwanted(kNoStopState);
    std::shared_ptr<State> second_try;  // released once the shard is unlocked
    {
      const Shard shard = ledger.Lock(failed.hash);
      if (failed.turned_away > 0) {
        --failed.turned_away;
        return;
      }
      second_try = TakePlace(ledger, shard, failed);
      if (second_try != nullptr && second_try->call != nullptr) {
        unwanted = ledger.DropCaller(shard, *second_try->call);
      }
    }
    unwanted.request_stop();
  }

 private:
  // Takes the place of a follower that asks again: in the second try, or the one that it kept under
  // max_callers when its call failed. Then this returns null.
  static std::shared_ptr<State> TakePlace(Ledger& ledger, const Shard&, State& failed) noexcept {
    if (failed.expected == 0) {
      --failed.retriers;
      ledger.limits_.RemoveCallers(1);
      return nullptr;
    }
    return --failed.expected > 0 ? failed.second_try : std::move(failed.second_try);
  }
};

}  // namespace singleflight::detail

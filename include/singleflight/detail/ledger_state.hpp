// SPDX-License-Identifier: MIT
#pragma once

// LedgerState: the shared state of a group's call. It can reach the ledger, so that a caller can
// leave, and has what a call carries for others.

#include "../stop_token.hpp"
#include "call.hpp"
#include "call_table.hpp"
#include "second_try.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

template <class Ledger>
class LedgerState final : public Ledger::State {
  using State = typename Ledger::State;

 public:
  LedgerState(Ledger& ledger, CallBase& of, ThreadId leader) noexcept
      : State(of, leader), ledger_(ledger) {}

  // That which a state of a group's call is.
  static LedgerState& Of(State& state) noexcept { return static_cast<LedgerState&>(state); }

  bool Leave(const Leaver<typename Ledger::Value>& who, StopSource& unwanted) noexcept override {
    if (this->HasLanded()) return false;  // the group may have been destroyed
    {
      const typename Ledger::Shard shard = ledger_.Lock(this->hash);
      if (this->call == nullptr) return false;
      this->Unlink(who);
      unwanted = ledger_.DropCaller(shard, *this->call);
    }
    if (!who.is_in_do) Ledger::Telling::OnLeave(ledger_, *this, who.why);
    return true;
  }

  void GiveUp() noexcept override { SecondTry<Ledger>::GiveUp(ledger_, *this); }

  [[no_unique_address]] typename Ledger::CallExtra extra;
  // For the listener. The key is guarded by the shard's mutex until there is one.
  [[no_unique_address]] typename Ledger::Listening::StateTag tag;
  [[no_unique_address]] typename Ledger::Listening::StateKey key;

 private:
  Ledger& ledger_;
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <cstdint>

#include "call.hpp"
#include "call_table.hpp"
#include "invoke.hpp"

namespace singleflight::detail {

// A call that is led asynchronously, with its own copy of the key. Owned by its Leads.
template <class Ledger>
struct AsyncCall {
  using KeyRef = typename Ledger::KeyRef;

  // Only moves forward. kLaunched: Lead::Run has not begun. kRunning: it has. kLanded: some thread
  // is landing the call, or has landed it.
  enum class Phase : unsigned char { kLaunched, kRunning, kLanded };

  AsyncCall(Ledger& its_ledger, std::uint64_t hash, KeyRef ref)
      : key(ref.get()), call(KeyRef(key)) {
    call.hash = hash;
    call.state = its_ledger.MakeState(call, nullptr);
    call.stop = NewStopSource();
  }
  ~AsyncCall() {
    if (ledger != nullptr && phase != Phase::kLanded) ledger->Land(*this, {});
  }

  const typename Ledger::Key key;
  typename Ledger::Call call;
  AsyncEntry entry{call};
  std::atomic<Phase> phase = Phase::kLaunched;
  Ledger* ledger = nullptr;  // set when the call is put into the table; null if it never was
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// Telling: calls the hooks of a group's listener. Each function here does nothing if the listener
// lacks the hook. No lock may be held.

#include <chrono>
#include <system_error>

#include "../listener.hpp"
#include "call.hpp"
#include "errors.hpp"
#include "limits.hpp"
#include "listening.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

template <class Ledger>
class Telling {
  using Listening = typename Ledger::Listening;
  using Has = typename Listening::Has;
  using Key = typename Ledger::Key;
  using KeyRef = typename Ledger::KeyRef;
  using Call = typename Ledger::Call;
  using AsyncCall = typename Ledger::AsyncCall;
  using State = typename Ledger::State;
  using Shard = typename Ledger::Shard;

 public:
  // ---- A call begins

  // Its leader is in Do, on this thread. From here on, a follower has its tag.
  static void OnLead(Ledger& ledger, Call& call) {
    if constexpr (Has::kLead) {
      struct ShowTag {  // also if the thread is cancelled in the hook
        ~ShowTag() { Show(ledger, call); }
        Ledger& ledger;
        Call& call;
      } showing{ledger, call};
      AskForTag(ledger, call);
    }
  }
  // The same for a call that is led asynchronously.
  static void OnLead(AsyncCall& async) {
    if constexpr (Has::kLead) {
      struct ShowTag {
        ~ShowTag() {
          if constexpr (Listening::kShowsTag) {
            async.call.note.phase = TagPhase::kTold;
            TagIn(*async.call.state).Set(async.call.note.tag);
          }
        }
        AsyncCall& async;
      } showing{async};
      const RunningScope running(*async.call.state);
      AskForTag(async.ledger, async.call);
    }
  }

  // ---- A caller follows

  // Under the shard's mutex: the call has got a state, which is to have its tag, too.
  static void ExpectTag([[maybe_unused]] Call& call, [[maybe_unused]] State& state) noexcept {
    if constexpr (Listening::kShowsTag) {
      auto phase = TagPhase::kTelling;
      if (call.note.phase.compare_exchange_strong(phase, TagPhase::kWanted)) return;
      TagIn(state).Set(call.note.tag);
    }
  }
  // Whether to wait for the call's tag would never end: this thread is the leader's, in OnLead.
  static bool AsksInOnLead([[maybe_unused]] const Call& call, [[maybe_unused]] const State& state) {
    if constexpr (Listening::kShowsTag) {
      return call.note.phase != TagPhase::kTold && WaitEdge().WouldClose(state);
    } else {
      return false;
    }
  }
  // Under the shard's mutex: the caller will leave without a key of its own.
  static void KeepKey([[maybe_unused]] State& state, [[maybe_unused]] KeyRef key) {
    if constexpr (Has::kLeave) {
      auto& kept = Ledger::LedgerState::Of(state).key.key;
      if (!kept) kept.emplace(key.get());
    }
  }
  static void OnFollow([[maybe_unused]] Ledger& ledger,
                       [[maybe_unused]] const typename Listening::ToldKey& key,
                       [[maybe_unused]] State& state) {
    if constexpr (Listening::kShowsTag) TagIn(state).Await();
    if constexpr (Has::kFollow) {
      Guarded([&] {
        auto& listener = ledger.GetListener();
        if constexpr (Listening::kHasTag) {
          listener.OnFollow(key.ref.get(), TagIn(state).Await());
        } else {
          listener.OnFollow(key.ref.get());
        }
      });
    }
  }

  // ---- A caller leaves. Before a stop is requested because it was the last.

  static void OnLeave([[maybe_unused]] Ledger& ledger,
                      [[maybe_unused]] const typename Listening::ToldKey& key,
                      [[maybe_unused]] State& state, [[maybe_unused]] LeaveReason why) {
    if constexpr (Has::kLeave) {
      if constexpr (Listening::kHasTag) {
        Leave(ledger, key.ref, why, TagIn(state).Await());
      } else {
        Leave(ledger, key.ref, why);
      }
    }
  }
  // The same for a caller that has no key of its own.
  static void OnLeave([[maybe_unused]] Ledger& ledger, [[maybe_unused]] State& state,
                      [[maybe_unused]] LeaveReason why) {
    if constexpr (Has::kLeave) {
      const Key& key = *Ledger::LedgerState::Of(state).key.key;
      OnLeave(ledger, typename Listening::ToldKey(KeyRef(key)), state, why);
    }
  }
  // The same for a leader that still does the work.
  static void OnLeave([[maybe_unused]] Ledger& ledger, [[maybe_unused]] const Call& leaders_own) {
    if constexpr (Has::kLeave) {
      if constexpr (Listening::kHasTag) {
        Leave(ledger, leaders_own.key, LeaveReason::kStop, leaders_own.note.tag);
      } else {
        Leave(ledger, leaders_own.key, LeaveReason::kStop);
      }
    }
  }

  // ---- A call has landed

  // After it was closed, and before its callers are notified. Those from whom Cancel took it have
  // been notified long before.
  static void OnLand([[maybe_unused]] Ledger& ledger, [[maybe_unused]] const Call& call,
                     [[maybe_unused]] bool failed) {
    if constexpr (Has::kLand) {
      const Landing landing{
          .callers = call.callers, .failed = failed || call.canceled, .canceled = call.canceled};
      if constexpr (Listening::kIsTimed) {
        const std::chrono::nanoseconds took(Limits::Now() - call.started);
        Land(ledger, call, TimedLanding{landing, took});
      } else {
        Land(ledger, call, landing);
      }
    }
  }

  // ---- A caller is refused

  static void OnRefuse([[maybe_unused]] Ledger& ledger,
                       [[maybe_unused]] const typename Listening::ToldKey& key,
                       [[maybe_unused]] std::errc why) {
    if constexpr (Has::kRefuse) {
      Guarded([&] { ledger.GetListener().OnRefuse(key.ref.get(), detail::CodeOf(why)); });
    }
  }

 private:
  // What a hook throws is dropped. A forced unwind (the thread is being cancelled) passes.
  template <class Run>
  static void Guarded(Run&& run) {
    try {
      run();
    } catch (...) {
      static_cast<void>(Caught());
    }
  }

  static auto& TagIn(State& state) noexcept { return Ledger::LedgerState::Of(state).tag; }

  static void AskForTag(Ledger& ledger, Call& call) {
    const LeadingScope leading;
    Guarded([&] {
      if constexpr (Listening::kHasTag) {
        call.note.tag = ledger.GetListener().OnLead(call.key.get());
      } else {
        ledger.GetListener().OnLead(call.key.get());
      }
    });
  }

  static void Show([[maybe_unused]] Ledger& ledger, [[maybe_unused]] Call& call) noexcept {
    if constexpr (Listening::kShowsTag) {
      if (call.note.phase.exchange(TagPhase::kTold) != TagPhase::kWanted) return;
      const Shard shard = ledger.Lock(call.hash);  // the state was set under it
      TagIn(*call.state).Set(call.note.tag);
    }
  }

  template <class... Tag>
  static void Leave(Ledger& ledger, KeyRef key, LeaveReason why, const Tag&... tag) {
    Guarded([&] { ledger.GetListener().OnLeave(key.get(), tag..., why); });
  }
  template <class How>
  static void Land(Ledger& ledger, const Call& call, const How& how) {
    Guarded([&] {
      if constexpr (Listening::kHasTag) {
        ledger.GetListener().OnLand(call.key.get(), call.note.tag, how);
      } else {
        ledger.GetListener().OnLand(call.key.get(), how);
      }
    });
  }
};

}  // namespace singleflight::detail

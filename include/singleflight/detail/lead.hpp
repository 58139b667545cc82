// SPDX-License-Identifier: MIT
#pragma once

#include <atomic>
#include <concepts>
#include <cstdint>
#include <exception>
#include <memory>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <variant>

#include "call.hpp"
#include "call_table.hpp"
#include "invoke.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A call that is led asynchronously, with its own copy of the key. Owned by its Leads.
template <class Ledger>
struct AsyncCall {
  using KeyRef = typename Ledger::KeyRef;
  using State = typename Ledger::State;

  // kLaunched: Lead::Run has not begun. kRunning: it has. kLanded: somebody is landing the call, or
  // has. It only goes forward.
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
  Ledger* ledger = nullptr;  // set when the call is put into the table; null: it never was
};

struct NoHook {};

// The right and duty to land a call made by Join. Copyable, so that it fits a std::function; the
// first to land the call wins, and if the last copy goes before, the call lands with `owner_dead`.
// May land the call on any thread; once the call has landed, a Lead may outlive the group.
//
// `BeforeLanding` is a hook that runs on the landing thread just before the call lands, as
// `before(ledger, call, key, outcome)`. The call lands even if the hook throws.
template <class Ledger, class BeforeLanding = NoHook>
class Lead {
  using Value = typename Ledger::Value;
  using Async = AsyncCall<Ledger>;
  using Phase = typename Async::Phase;
  using Outcome = detail::Outcome<Value>;

 public:
  using LedgerType = Ledger;

  // Made by Join.
  explicit Lead(std::shared_ptr<Async> async) noexcept : async_(std::move(async)) {}
  // The same right, with another `before`.
  Lead(const Lead<Ledger>& lead, BeforeLanding before) noexcept
      : async_(lead.async_), before_(std::move(before)) {}

  // Requested when no caller is left, and when the group is being destroyed.
  std::stop_token GetStopToken() const noexcept { return async_->call.stop.get_token(); }

  // Lands the call with a value: the waiters' OnLanded run on this thread. False: it has landed
  // already or is being landed, and nothing was done.
  bool Succeed(Stored<Value> value) requires(!std::is_void_v<Value>) {
    return Land(Outcome(std::in_place_index<1>, std::move(value)));
  }
  bool Succeed() requires std::is_void_v<Value> { return Land(Outcome(std::in_place_index<1>)); }

  // The same with an exception; a null one stands for `owner_dead`.
  bool Fail(std::exception_ptr error) {
    return Land(Outcome(std::in_place_index<0>, std::move(error)));
  }

  // The same with either. Throws nothing, unless a thread is cancelled in `before`.
  bool Land(Outcome&& outcome) noexcept(std::same_as<BeforeLanding, NoHook>) {
    const std::shared_ptr<Async> async = async_;  // whom this wakes may destroy this Lead
    return LandOnce(*async, std::move(outcome), before_);
  }

  // For work that ends elsewhere: calls `fn`, which may take the call's stop token, and returns
  // what it returns. A deadlock through `fn` is found as in Run.
  template <class Fn>
  decltype(auto) Start(Fn&& fn) const {
    const LeadingScope leading;
    const RunningScope running(Target());
    return detail::CallWithStop(std::forward<Fn>(fn), GetStopToken());
  }

  // For a thread that does the work of several calls.
  WaitTarget& Target() const noexcept { return *async_->call.state; }

  // Runs `fn()` or `fn(std::stop_token)` on this thread as the call's work, and lands the call with
  // what comes of it. False if somebody else lands it; `fn` is not run if the call has landed
  // before or another Run has begun. While it runs, a deadlock through `fn` is found as it is for a
  // leader in Do.
  template <class Fn>
  bool Run(Fn&& fn) {
    detail::CheckFn<Value, Fn>();
    struct LandIfUnwound {
      ~LandIfUnwound() {
        if (!ended) LandOnce(async, {}, NoHook());
      }
      Async& async;
      bool ended = false;
    };
    const std::shared_ptr<Async> async = async_;  // as in Land
    const BeforeLanding before = before_;
    auto expected = Phase::kLaunched;
    if (!async->phase.compare_exchange_strong(expected, Phase::kRunning)) return false;
    Outcome outcome;
    {
      LandIfUnwound landing{*async};
      const RunningScope running(*async->call.state);
      detail::Execute<Value>(outcome, std::forward<Fn>(fn), async->call.stop);
      landing.ended = true;
    }
    return LandOnce(*async, std::move(outcome), before);
  }

 private:
  template <class, class>
  friend class Lead;

  template <class Todo>
  static bool LandOnce(Async& async, Outcome&& outcome, const Todo& before) {
    struct Landing {
      ~Landing() { async.ledger->Land(async, std::move(outcome)); }
      Async& async;
      Outcome& outcome;
    };
    if (async.phase.exchange(Phase::kLanded) == Phase::kLanded) return false;
    const Landing landing{async, outcome};
    if constexpr (!std::same_as<Todo, NoHook>) {
      before(*async.ledger, async.call, async.key, outcome);
    }
    return true;
  }

  std::shared_ptr<Async> async_;
  [[no_unique_address]] BeforeLanding before_;
};

}  // namespace singleflight::detail

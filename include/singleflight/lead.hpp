// SPDX-License-Identifier: MIT
#pragma once

// Lead: the producing end of a call made by Group::Join, as std::promise is that of a std::future.
//
//   users.Join("user:42", waiter, [&](Users::Lead lead) {
//     pool.Post([lead]() mutable { lead.Run([] { return Load(42); }); });  // runs fn, then lands
//   });
//
//   db.Query(sql, [lead](Row row) mutable { lead.Succeed(Parse(row)); });  // or lands from outside
//
// Copyable, so that it fits a std::function. The first copy to land the call wins. If the last copy
// is destroyed before that, the call lands with `owner_dead`, so no caller waits for ever.

#include <concepts>
#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "detail/async_call.hpp"
#include "detail/function_ref.hpp"
#include "detail/invoke.hpp"
#include "detail/outcome.hpp"
#include "detail/thread_reaper.hpp"
#include "detail/wait_graph.hpp"
#include "stop_token.hpp"

namespace singleflight {

// Thread: every member may be called on any thread, but only one thread at a time may use one Lead
//   object.
// Lifetime: once the call has landed, a Lead may outlive the group.
//
// `BeforeLanding` is internal: a hook that runs on the landing thread just before the call lands,
// as `before(ledger, call, key, outcome)`. The call lands even if the hook throws.
template <class Ledger, class BeforeLanding = detail::NoHook>
class Lead {
  using Value = typename Ledger::Value;
  using Stored = detail::Stored<Value>;
  using Outcome = detail::Outcome<Value>;
  using Async = detail::AsyncCall<Ledger>;

 public:
  using LedgerType = Ledger;

  // Used by Join.
  explicit Lead(std::shared_ptr<Async> async) noexcept : async_(std::move(async)) {}
  // The same Lead, with another hook.
  Lead(const Lead<Ledger>& lead, BeforeLanding before) noexcept
      : async_(lead.async_), before_(std::move(before)) {}

  // Takes the call's stop token. A stop is requested when no caller is left, when the call is
  // cancelled, and when the group is being destroyed. If no caller is left now, it is requested at
  // once.
  //
  // A call whose token nobody takes cannot be told to stop. When its last caller leaves, it stays
  // in flight, and newcomers join it. So take the token early if the work obeys it, and do not take
  // it if the work does not. Once the call has landed, nothing requests a stop any more.
  //
  // Errors: throws std::bad_alloc.
  StopToken GetStopToken() const {
    const std::shared_ptr<Async> async = async_;  // what a stop request runs may destroy this Lead
    return async->TakeStop();
  }

  // Lands the call with a value. False if the call was cancelled, has landed, or is being landed:
  // then nobody gets the value.
  //
  // Thread: the waiters' OnLanded run on this thread.
  // Errors: throws what moving `value` throws. The call is then still in flight.
  bool Succeed(Stored value) requires(!std::is_void_v<Value>) {
    return Land(Outcome(std::in_place, std::move(value)));
  }
  bool Succeed() requires std::is_void_v<Value> { return Land(Outcome(std::in_place)); }

  // Lands the call with an exception, like Succeed. A null one stands for `owner_dead`.
  bool Fail(std::exception_ptr error) { return Land(Outcome(std::move(error))); }

  // Lands the call with either. Throws nothing, unless the thread is cancelled in the hook.
  bool Land(Outcome&& outcome) noexcept(std::same_as<BeforeLanding, detail::NoHook>) {
    const std::shared_ptr<Async> async = async_;  // a woken caller may destroy this Lead
    return LandOnce(*async, std::move(outcome), before_);
  }

  // Runs `fn()` or `fn(StopToken)` on this thread as the call's work, and lands the call with
  // what it returns or throws. False if this Run did not land the call. `fn` does not run if the
  // call has landed or was cancelled, or if another Run has begun.
  //
  // Thread: the waiters' OnLanded run on this thread, after `fn`. While `fn` runs, deadlocks
  //   through it are detected as for a leader in Do.
  // Errors: what `fn` throws is the call's failure, and is not thrown here.
  template <class Fn>
  bool Run(Fn&& fn) {
    return RunWork([&fn](Async& async, BeforeLanding& before) -> Stored {
      auto&& work = detail::Heeded(before, std::forward<Fn>(fn));
      detail::CheckFn<Value, decltype(work)>();
      return detail::InvokeWithStop<Value>(std::forward<decltype(work)>(work),
                                           [&async] { return async.TakeStop(); });
    });
  }

  // Calls `fn()` or `fn(StopToken)` on this thread and returns what it returns. It does not
  // land the call: use it for work that starts here and lands later. Deadlocks through `fn` are
  // detected as in Run.
  //
  // Errors: throws what `fn` throws.
  template <class Fn>
  decltype(auto) Start(Fn&& fn) const {
    const std::shared_ptr<Async> async = async_;  // as in Land
    async->HandedOver();
    StopToken stop;
    if constexpr (detail::kTakesStopToken<Fn>) stop = async->TakeStop();
    const detail::LeadingScope leading;
    const detail::RunningScope running(*async->call.state);
    return detail::CallWithStop(std::forward<Fn>(fn), std::move(stop));
  }

  // Internal: for work that is not given to Run, before it begins. False: nobody would get what it
  // makes. If the call was cancelled, this has landed it.
  //
  // Lifetime: this Lead must exist until it returns, whatever a woken caller does.
  bool Begins() const noexcept { return Begins(*async_); }
  // Internal: the same as Land, and may also throw what the hook throws.
  //
  // Lifetime: as for Begins.
  bool LandKept(Outcome&& outcome) { return LandOnce(*async_, std::move(outcome), before_); }
  // Internal: what launches the call uses nothing any more that belongs to its callers. If the call
  // was cancelled meanwhile, they are notified here.
  void HandedOver() const noexcept {
    const std::shared_ptr<Async> async = async_;  // as in Land
    async->HandedOver();
  }
  // Internal: whether its callers have got their outcome.
  bool HasLanded() const noexcept { return Target().HasLanded(); }

  // Internal: the caller whose thread does the work is stopped.
  void LeaderLeaves() const noexcept { async_->LeaderLeaves(); }

  // Internal: the hook.
  const BeforeLanding& GetHook() const noexcept { return before_; }

  // Internal: the group's threads.
  detail::ThreadReaper& Reaper() const noexcept { return async_->ledger.Reaper(); }

  // Internal: of a ReadThrough's Lead. No caller may be waiting for the call, and then it must not
  // be worked for on the thread that asks. And its work may return Cached.
  static constexpr bool kMayBeBackground = requires { requires BeforeLanding::kMayBeBackground; };
  static constexpr bool kTakesCached = requires { requires BeforeLanding::kTakesCached; };
  const BeforeLanding& Hook() const noexcept { return before_; }

  // Internal: for what belongs to the call as long as that has not landed.
  const std::shared_ptr<Async>& SharedCall() const noexcept { return async_; }

  // Internal: the stop token, for what notices the group's destruction. It does not count as taken.
  StopToken WatchStop() const { return async_->WatchStop(); }

  // Internal: for a thread that does the work of several calls.
  detail::WaitTarget& Target() const noexcept { return *async_->call.state; }
  std::shared_ptr<const detail::WaitTarget> SharedTarget() const { return async_->call.state; }

 private:
  template <class, class>
  friend class Lead;

  // Does for Run what does not depend on `fn`. It is not inlined, so it is compiled once.
  [[gnu::noinline]] bool RunWork(detail::FunctionRef<Stored(Async&, BeforeLanding&)> work) {
    struct LandIfUnwound {  // if the thread is cancelled inside `work`
      ~LandIfUnwound() {
        if (finished || !LandOnce(async, {}, detail::NoHook())) return;
        if constexpr (requires { before.OnVanished(); }) before.OnVanished();
      }
      Async& async;
      const BeforeLanding& before;
      bool finished = false;
    };
    const std::shared_ptr<Async> async = async_;  // as in Land
    BeforeLanding before = before_;
    if (!async->StartsRunning() || !Begins(*async)) return false;
    Outcome outcome;
    {
      LandIfUnwound landing{*async, before};
      const detail::RunningScope running(*async->call.state);
      detail::Execute<Value>(outcome, [&] { return work(*async, before); });
      landing.finished = true;
    }
    return LandOnce(*async, std::move(outcome), before);
  }

  static bool Begins(Async& async) noexcept {
    async.HandedOver();
    if (!async.call.state->HasLanded()) return true;
    LandOnce(async, {}, detail::NoHook());
    return false;
  }

  template <class Hook>
  static bool LandOnce(Async& async, Outcome&& outcome, const Hook& before) {
    struct LandAtEnd {
      ~LandAtEnd() { landed = async.ledger.Land(async, std::move(outcome)); }
      Async& async;
      Outcome& outcome;
      bool& landed;
    };
    if (!async.StartsLanding()) return false;
    bool landed;
    {
      const LandAtEnd landing{async, outcome, landed};
      if constexpr (!std::same_as<Hook, detail::NoHook>) {
        const detail::RunningScope running(*async.call.state);
        detail::RunHook(before, async.ledger, async.call, async.key, outcome);
      }
    }
    return landed;
  }

  std::shared_ptr<Async> async_;
  [[no_unique_address]] BeforeLanding before_;
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// BlockingCaller: a thread in redis::Group::Do. It waits until its call has landed, or until it is
// asked to do the call's work. Lease: what `fn` may know about the lease under which it runs.

#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <type_traits>
#include <utility>

#include "../../lead.hpp"
#include "../../options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../../waiter.hpp"
#include "../call.hpp"
#include "../errors.hpp"
#include "../event.hpp"
#include "../invoke.hpp"
#include "../task.hpp"
#include "../thread_mark.hpp"
#include "../wait_graph.hpp"
#include "fleet_call.hpp"
#include "tenure.hpp"

namespace singleflight::redis {

namespace detail {
template <class Call, class Value, class Fn>
class BlockingCaller;
}

// Tells `fn` about the lease under which it runs.
//
// Thread: every member may be called from any thread.
// Lifetime: a Lease is valid until `fn` returns.
class Lease {
 public:
  // Returns 32 hexadecimal digits, which no other lease has. The server has them in the field
  // `token` of `prefix:{key}:lease`. Empty if `fn` runs without the server, see OnOutage. Valid as
  // long as the Lease.
  std::string_view token() const noexcept {
    return held_ != nullptr ? std::string_view(held_->Token()) : std::string_view();
  }
  // Returns a number that is greater than that of any earlier lease of this key, or 0 if `fn` runs
  // without the server. It is the server's time in microseconds.
  //
  // Warning: it does not grow if the server's clock is set back, or if a server whose clock is
  // behind takes its place. Keep the servers' clocks synchronized, and never set them back.
  std::uint64_t fence() const noexcept { return held_ != nullptr ? held_->Fence() : 0; }
  // True while no other process can have this call's lease, as far as this process can tell. After
  // a Forget it stays true, although another process may lead a new call. False if `fn` runs
  // without the server.
  bool Held() const noexcept { return held_ != nullptr && held_->IsHeld(); }
  // Returns the token that an fn(StopToken) is given: it is requested when no caller of this
  // process is left, and when another process has the lease. Valid as long as the Lease.
  const StopToken& stop() const noexcept { return stop_; }

  Lease(const Lease&) = delete;
  Lease& operator=(const Lease&) = delete;

 private:
  template <class, class, class>
  friend class detail::BlockingCaller;

  Lease(const detail::Tenure* held, StopToken stop) noexcept
      : held_(held), stop_(std::move(stop)) {}

  const detail::Tenure* held_;  // null: `fn` runs without the server
  StopToken stop_;
};

namespace detail {

template <class Fn>
inline constexpr bool kTakesLease =
    std::is_invocable_v<Fn, const Lease&> && !singleflight::detail::kTakesStopToken<Fn>;

template <class Value, class Fn>
constexpr void CheckFleetFn() {
  constexpr bool kCallable = std::is_invocable_v<Fn> || singleflight::detail::kTakesStopToken<Fn> ||
                             std::is_invocable_v<Fn, const Lease&>;
  static_assert(kCallable,
                "fn must be callable as fn(), fn(singleflight::StopToken) or "
                "fn(const redis::Lease&)");
  static_assert(!kCallable || std::is_invocable_r_v<Value, Fn> ||
                    std::is_invocable_r_v<Value, Fn, StopToken> ||
                    std::is_invocable_r_v<Value, Fn, const Lease&>,
                "fn must return the group's Value or something that converts to it");
}

// A call that a caller has joined.
template <class Value>
struct JoinedCall {
  std::shared_ptr<singleflight::detail::SharedState<Value>> state;  // null: it had landed before
  Role role = Role::kFollower;
};

template <class Call, class Value, class Fn>
class BlockingCaller final : public Waiter<Value>, private Call::Runner {
  using State = singleflight::detail::SharedState<Value>;
  using Lead = typename Call::Lead;

 public:
  // Thread: the constructor and Ask run on the caller's thread.
  BlockingCaller(Fn& fn, const CallOptions& options) : fn_(fn), options_(options) {
    deadline_ = options.timeout.Deadline();
  }
  // Leaves if it still waits: its thread is being cancelled.
  ~BlockingCaller() override {
    if (call_ == nullptr) return;
    if (!Call::Withdraw(*call_, *this)) AwaitLead();
    lead_.reset();
    if (!this->Detach()) AwaitLanded();
  }

  // Offers to do the work of a call. To be called in the `join` below.
  void Offer(State& state) noexcept { Call::Offer(state, *this, *this); }

  // Asks by `join(again)`, which returns a JoinedCall, and waits.
  template <class Join>
  Result<Value> Ask(Join&& join) {
    Await(join(/*again=*/false));
    if (this->AsksAgain()) {
      if (options_.stop.stop_requested()) {
        State::Of(*this)->GiveUp();
        std::rethrow_exception(singleflight::detail::MakeCanceled());
      }
      landed_ = false;
      Await(join(/*again=*/true));
    }
    return this->TakeResult();
  }

 private:
  void OnLanded() noexcept override {
    const std::lock_guard lock(mutex_);
    landed_ = true;
    changed_.notify_all();  // under the lock: once it is released, this may be destroyed
  }
  void Take(Lead lead) noexcept override {
    const std::lock_guard lock(mutex_);
    (IsBackground(lead) ? refresh_ : lead_).emplace(std::move(lead));
    changed_.notify_all();
  }
  // The caller's stop was requested.
  void Stop() noexcept {
    std::unique_lock lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
    if (!leads_) return;
    const Lead lead(*lead_);
    lock.unlock();
    lead.LeaderLeaves();
  }
  struct OnStop {
    BlockingCaller* self;
    void operator()() const noexcept { self->Stop(); }
  };

  void Await(JoinedCall<Value> joined) {
    if (joined.state == nullptr) return AwaitLanded();
    call_ = std::move(joined.state);
    const StopCallback<OnStop> on_stop(options_.stop, OnStop{this});
    while (!AwaitLeadOrLanding()) RefreshElsewhere();
    if (lead_) RunAndLand();
    AwaitLanded();
    call_ = nullptr;
    DropLead();
    RefreshElsewhere();
  }

  // False: it has been told to refresh a value, and still waits.
  bool AwaitLeadOrLanding() {
    singleflight::detail::WaitEdge edge;
    const bool deadlock = !edge.Record(*call_);
    const bool waited = !deadlock && WaitForSomething();
    edge.Remove();  // this thread no longer waits
    if (waited && IsOnlyToRefresh()) return false;
    // If it has landed, nobody else takes this out. If it was cancelled, this may be about to get
    // its lead, and must not go before that.
    if (waited && !Call::Withdraw(*call_, *this)) AwaitLead();
    if (!waited && Leaves(deadlock)) {
      std::rethrow_exception(deadlock ? singleflight::detail::MakeDeadlock()
                             : options_.stop.stop_requested()
                                 ? singleflight::detail::MakeCanceled()
                                 : singleflight::detail::MakeTimedOut());
    }
    return true;
  }
  bool IsOnlyToRefresh() {
    const std::lock_guard lock(mutex_);
    return refresh_ && !lead_ && !landed_;
  }

  // True: the call has landed, or this caller leads or is to refresh a value.
  bool WaitForSomething() {
    singleflight::detail::BeforeBlocking();
    std::unique_lock lock(mutex_);
    const auto woken = [this] { return landed_ || lead_ || refresh_ || stopped_; };
    if (deadline_) {
      changed_.wait_until(lock, *deadline_, woken);
    } else {
      changed_.wait(lock, woken);
    }
    return landed_ || lead_ || refresh_;
  }

  // False: it is too late to leave. The call has landed, or this caller leads.
  bool Leaves(bool deadlock) {
    if (!Call::Withdraw(*call_, *this)) {
      AwaitLead();
      return false;
    }
    if (!this->Leave(deadlock                         ? LeaveReason::kLeft
                     : options_.stop.stop_requested() ? LeaveReason::kStop
                                                      : LeaveReason::kTimeout)) {
      AwaitLanded();
      return false;
    }
    call_ = nullptr;
    return true;
  }

  void AwaitLead() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return lead_.has_value(); });
  }
  void AwaitLanded() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return landed_; });
  }

  // A Stop on another thread may be using it.
  void DropLead() noexcept {
    std::optional<Lead> dropped;  // without the lock
    const std::lock_guard lock(mutex_);
    leads_ = false;
    dropped.swap(lead_);
  }

  struct LeadersGroup {
    using ValueType = Value;
    using Lead = typename Call::Lead;
  };

  static bool IsBackground([[maybe_unused]] const Lead& lead) noexcept {
    if constexpr (Lead::kMayBeBackground) return lead.Hook().IsBackground();
    return false;
  }
  // If it is to refresh a value, has a copy of `fn` do that elsewhere: this caller gets the value
  // that there is, or waits for the new one as others do.
  void RefreshElsewhere() {
    if constexpr (Lead::kMayBeBackground) {
      using Kept = std::decay_t<Fn>;
      std::optional<Lead> lead;
      {
        const std::lock_guard lock(mutex_);
        lead.swap(refresh_);
      }
      if (!lead) return;
      try {
        const auto hook = lead->Hook();
        hook.RunInBackground(singleflight::detail::Task<LeadersGroup, Kept>(std::move(*lead), fn_));
      } catch (...) {  // the old value stays
        static_cast<void>(singleflight::detail::Caught());
      }
    }
  }

  void RunAndLand() {
    State::MakeLeader(*this);
    bool stopped;
    {
      const std::lock_guard lock(mutex_);
      leads_ = true;  // from here on, Stop does what follows
      stopped = stopped_;
    }
    if (stopped) lead_->LeaderLeaves();
    if constexpr (kTakesLease<Fn>) {
      lead_->Run([this](StopToken stop) {
        const auto& guard = lead_->GetHook().guard;
        const Lease lease(guard != nullptr ? &**guard : nullptr, std::move(stop));
        return singleflight::detail::Invoke<Value>(static_cast<Fn&&>(fn_), lease);
      });
    } else {
      lead_->Run(static_cast<Fn&&>(fn_));
    }
  }

  Fn& fn_;
  const CallOptions& options_;
  singleflight::detail::Deadline deadline_;
  std::shared_ptr<State> call_;  // the one that it is on, until it has left or landed

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_, while other threads may write them.
  std::optional<Lead> lead_;     // of its call, once it does the work
  std::optional<Lead> refresh_;  // of a call that refreshes the value
  bool landed_ = false;
  bool stopped_ = false;
  bool leads_ = false;
};

}  // namespace detail

}  // namespace singleflight::redis

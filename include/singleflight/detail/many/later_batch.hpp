// SPDX-License-Identifier: MIT
#pragma once

// A DoMany in a group that launches later: see later_launch.hpp. All keys are asked for at once.
// The thread waits until it is known of each whether this batch leads it for now, runs `fn` for
// those that it leads, and follows the others. If another process gives up one of these, it runs
// `fn` for that one, too.

#include <concepts>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "../../key_result.hpp"
#include "../../listener.hpp"
#include "../../options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../batch_fn.hpp"
#include "../call.hpp"
#include "../errors.hpp"
#include "../event.hpp"
#include "../group_like.hpp"
#include "../led_calls.hpp"
#include "../outcome.hpp"
#include "../thread_mark.hpp"
#include "../wait_graph.hpp"
#include "batch_members.hpp"
#include "batch_work.hpp"

namespace singleflight::detail {

template <class G>
class LaterBatch {
  using Key = typename G::KeyType;
  using Value = typename G::ValueType;
  using State = SharedState<Value>;
  using Lead = typename G::Lead;
  using Outcome = detail::Outcome<Value>;

 public:
  template <class Keys>
  LaterBatch(G& group, Keys& keys, const CallOptions& options)
      : group_(group), options_(options), members_(keys) {
    asking_.reserve(members_.Size());
    for (Member& member : members_) {
      member.batch = this;
      asking_.push_back(&member);
    }
    deadline_ = options.timeout.Deadline();
  }
  // Leaves what it still waits for: its thread is being cancelled, or it throws.
  ~LaterBatch() {
    for (Member* member : asking_) {
      member->running.reset();
      if (member->call == nullptr || member->left || Leave(*member)) continue;
      std::optional<Lead> lead;  // dropped without the lock: its call lands
      {
        const std::lock_guard lock(mutex_);
        lead.swap(member->lead);
      }
      lead.reset();
      AwaitLanded(*member);
    }
  }
  LaterBatch(const LaterBatch&) = delete;
  LaterBatch& operator=(const LaterBatch&) = delete;

  template <class Fn>
  std::vector<KeyResult<Value>> Run(Fn& fn) {
    while (!asking_.empty()) {
      for (Member* member : asking_) Join(*member);
      Follow(fn);
      std::erase_if(asking_, [](const Member* member) { return !member->AsksAgain(); });
    }
    RefreshElsewhere(fn);
    return members_.TakeResults();
  }

 private:
  struct Member final : BatchMember<typename G::Waiter, Key>, G::ThreadRunner {
    using Waiter = typename G::Waiter;

    void OnLanded() noexcept override {
      batch->Change([this] {
        landed = true;
        Decide();
      });
    }
    void Take(Lead its_lead) noexcept override {
      batch->Change([&] {
        if (LedCalls<G>::IsBackground(its_lead)) {  // this caller does not wait for that
          refresh.emplace(std::move(its_lead));
          ++batch->refreshes_;
          Decide();
          return;
        }
        lead.emplace(std::move(its_lead));
        ++batch->granted_;
        Decide();
      });
    }
    void OnFollows() noexcept override {
      batch->Change([this] { Decide(); });
    }
    void Decide() noexcept {  // under the mutex
      if (!std::exchange(is_decided, true)) --batch->undecided_;
    }

    LaterBatch* batch = nullptr;
    std::shared_ptr<State> call;  // the one that it is on, until it has left or landed
    std::optional<Lead> running;  // while `fn` runs for it
    // Guarded by the batch's mutex.
    std::optional<Lead> lead;     // until `fn` runs for it
    std::optional<Lead> refresh;  // of a call that refreshes the value, likewise
    bool landed = false;
    bool is_decided = false;  // whether this batch leads it for now
  };

  // Changes what the mutex guards.
  template <class Apply>
  void Change(Apply&& apply) noexcept {
    const std::lock_guard lock(mutex_);
    apply();
    changed_.notify_all();  // under the lock: once it is released, the batch may be destroyed
  }

  void Join(Member& member) {
    const bool again = member.AsksAgain();  // the call that it followed has failed
    if (options_.stop.stop_requested()) {
      if (again) group_.GiveUp(member);
      member.error = MakeCanceled();
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      member.landed = member.is_decided = member.led = false;
      ++undecided_;
    }
    try {
      auto joined = group_.JoinOnThread(*member.key, member, member, again, options_.on_failure);
      member.call = std::move(joined.state);
      member.role = joined.role;
      if (member.call != nullptr) return;  // it learns who leads, also if it asked later
    } catch (...) {
      member.error = Caught();
    }
    Change([&] { member.Decide(); });  // it is on no call
  }

  // Waits until all keys have landed or were left, and meanwhile runs `fn` for those that this
  // batch leads.
  template <class Fn>
  void Follow(Fn& fn) {
    const StopCallback on_stop(options_.stop, [this] { Change([this] { stopped_ = true; }); });
    for (Member* member : asking_) {
      while (member->call != nullptr && !Await(*member)) {
        RefreshElsewhere(fn);  // first: it does not wait for the work
        LeadGranted(fn);
      }
    }
  }

  // False: there are calls to lead first.
  bool Await(Member& member) {
    WaitEdge edge;
    bool deadlock = false;
    if (member.left) {  // while `fn` ran
      member.call = nullptr;
      return true;
    }
    std::unique_lock lock(mutex_);
    const auto leads = [this] { return granted_ + refreshes_ > 0 && undecided_ == 0; };
    if (!member.landed && !leads()) {
      lock.unlock();
      deadlock = !edge.Record(*member.call);
      detail::BeforeBlocking();
      lock.lock();
      const auto woken = [&] { return member.landed || stopped_ || leads(); };
      if (deadlock) {
        // It is left at once.
      } else if (deadline_) {
        changed_.wait_until(lock, *deadline_, woken);
      } else {
        changed_.wait(lock, woken);
      }
    }
    if (leads()) return false;
    const bool landed = member.landed;
    const bool stopped = stopped_;
    lock.unlock();
    edge.Remove();  // before it leaves: this thread no longer waits
    // A call that was cancelled has landed, but this may be about to get its lead.
    const LeaveReason why = stopped    ? LeaveReason::kStop
                            : deadlock ? LeaveReason::kLeft
                                       : LeaveReason::kTimeout;
    if (landed ? IsGranted(member) : !Leave(member, why)) return false;
    if (member.left && !stopped) {
      member.left = false;
      member.error = deadlock ? MakeDeadlock() : MakeTimedOut();
    }
    member.call = nullptr;
    return true;
  }

  // Leaves a call, or waits until it has landed, if it is too late. False: this batch has been
  // given its lead.
  bool Leave(Member& member, LeaveReason why = LeaveReason::kLeft) {
    if (IsGranted(member)) return false;
    member.left = member.Leave(why);
    if (member.left) {
      Change([&] { member.Decide(); });  // nobody else says so any more
    } else {
      AwaitLanded(member);
    }
    return true;
  }
  // Takes back its offer to lead, or returns true once it has the lead.
  bool IsGranted(Member& member) {
    if (member.led || G::Withdraw(*member.call, member)) return false;
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return member.lead.has_value(); });
    for (Member* each : asking_) each->Decide();  // none of them is waited for
    return true;
  }
  void AwaitLanded(Member& member) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return member.landed; });
  }

  // What a stop does while `fn` runs: leaves all calls, also those of `fn`.
  struct LeaveAll {
    LaterBatch* self;
    void operator()() const noexcept {
      for (Member* member : self->asking_) {
        if (member->call == nullptr || member->left) continue;
        if (!member->led && !G::Withdraw(*member->call, *member)) continue;  // it is granted now
        if (member->Leave(LeaveReason::kStop)) member->left = true;
      }
    }
  };

  // Has a copy of `fn` refresh values elsewhere.
  template <class Fn>
  void RefreshElsewhere(Fn& fn) {
    if constexpr (LedCalls<G>::kMayBeBackground) {
      using Kept = std::decay_t<Fn>;
      static_assert(std::constructible_from<Kept, Fn&>,
                    "a ReadThrough may keep fn to refresh values in the background: pass one that "
                    "can be copied");
      BatchLeads<G, Kept> leads;
      try {
        const std::lock_guard lock(mutex_);
        refreshes_ = 0;
        for (Member& member : members_) {
          if (member.refresh) leads.Add(*member.key, *std::exchange(member.refresh, {}));
        }
      } catch (...) {  // the calls of those that are left land when they are dropped
        static_cast<void>(Caught());
      }
      leads.Begin(
          fn, [](const auto& work) { work->Calls().RunInBackground(BatchTask<G, Kept>(work)); });
    }
  }

  // Runs `fn` for the calls that were given to this batch, and lands them.
  template <class Fn>
  void LeadGranted(Fn& fn) {
    LedCalls<G> led;
    {
      const std::lock_guard lock(mutex_);
      if (granted_ == 0) return;
      for (Member* member : asking_) {
        if (!member->lead) continue;  // others may be given to this batch from now on
        member->led = true;
        member->role = Role::kLeader;
        member->running.swap(member->lead);
        State::MakeLeader(*member);
      }
      granted_ = 0;
    }
    const StopCallback<LeaveAll> on_stop(options_.stop, LeaveAll{this});
    std::exception_ptr error;
    std::optional<typename LedCalls<G>::Working> working;  // until the last call has landed
    try {
      for (Member* member : asking_) {
        if (member->running && member->running->Target().HasLanded()) member->running.reset();
        if (!member->running) continue;
        led.template Add<BatchFn<G, Fn>::kTakesStop>(*member->key, *member->running);
      }
      if (led.Empty()) return;  // they were cancelled before they were granted
      working.emplace(led);
      const auto land = [&led](std::size_t place, Outcome&& outcome) {
        led.Land(place, std::move(outcome));
      };
      std::optional<StopOfAll> stop;
      if constexpr (BatchFn<G, Fn>::kTakesStop) stop.emplace(led.Stops());
      detail::RunBatchFn<G>(fn, led.Keys(), stop ? stop->GetToken() : StopToken(), land);
    } catch (...) {
      error = Caught();
    }
    for (Member* member : asking_) {
      if (!member->running) continue;
      if (error != nullptr) member->running->Fail(error);  // unless it has landed
      member->running.reset();
    }
  }

  G& group_;
  const CallOptions& options_;
  Deadline deadline_;
  std::vector<Member*> asking_;  // without an outcome so far
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::size_t undecided_ = 0;  // keys of which it is not known whether this batch leads them
  std::size_t granted_ = 0;    // leads for which `fn` has not run
  std::size_t refreshes_ = 0;  // likewise, of calls that refresh values
  bool stopped_ = false;
  BatchMembers<G, Member> members_;  // declared last, so destroyed first
};

}  // namespace singleflight::detail

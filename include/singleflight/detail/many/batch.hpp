// SPDX-License-Identifier: MIT
#pragma once

#include <algorithm>
#include <exception>
#include <optional>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "../../key_result.hpp"
#include "../../listener.hpp"
#include "../../options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../batch_fn.hpp"
#include "../call.hpp"
#include "../event.hpp"
#include "../group_like.hpp"
#include "../led_calls.hpp"
#include "../outcome.hpp"
#include "../thread_waiter.hpp"
#include "../wait_graph.hpp"
#include "batch_members.hpp"
#include "batch_work.hpp"

namespace singleflight::detail {

// Runs one DoMany, and is a caller for each of its keys.
template <class G>
class Batch {
  using Value = typename G::ValueType;
  using State = SharedState<Value>;
  using Outcome = detail::Outcome<Value>;
  using Member = BatchMember<ThreadWaiter<Value>, typename G::KeyType>;

 public:
  template <class Keys>
  Batch(G& group, Keys& keys, const CallOptions& options)
      : group_(group), options_(options), members_(keys) {
    for (Member& member : members_) member.WaitIn(monitor_);
    asking_.reserve(members_.Size());
    for (Member& member : members_) asking_.push_back(&member);
    deadline_ = options.timeout.Deadline();
  }

  template <class Fn>
  std::vector<KeyResult<Value>> Run(Fn& fn) {
    while (!asking_.empty()) {
      led_.Clear();
      for (Member* member : asking_) JoinOrLead<BatchFn<G, Fn>::kTakesStop>(*member);
      if (!led_.Empty() && !LeadsInBackground(fn)) Lead(fn);
      Follow();
      KeepThoseThatAskAgain();
    }
    return members_.TakeResults();
  }

  // For a group that does the work of its calls itself: see GroupWithOwnFn. That may run inside
  // Join.
  std::vector<KeyResult<Value>> Run() {
    while (!asking_.empty()) {
      for (Member* member : asking_) {
        Join(*member, [&](UnusedLead) {
          member->joined = true;
          leaves_if_stopped_.emplace(options_.stop, LeaveAll{this});
        });
      }
      if (IsOnACall()) BeforeBlocking();
      Follow();
      KeepThoseThatAskAgain();
    }
    return members_.TakeResults();
  }

 private:
  template <bool kTakesStop>
  void JoinOrLead(Member& member) {
    Join(member, [&](typename G::Lead lead) {
      member.joined = true;
      if (led_.Empty()) led_.template Reserve<kTakesStop>(asking_.size());
      led_.template Add<kTakesStop>(*member.key, std::move(lead));
      member.led = true;
    });
  }

  template <class Launch>
  void Join(Member& member, const Launch& launch) {
    const bool again = member.AsksAgain();  // the call that it followed has failed
    member.joined = false;
    if (options_.stop.stop_requested()) {
      if (again) group_.GiveUp(member);
      member.error = MakeCanceled();
      return;
    }
    try {
      if (again) {
        member.ExpectAnother();
        member.role = group_.JoinAgain(*member.key, member, launch);
      } else {
        member.role = group_.Join(*member.key, member, launch, options_.on_failure);
      }
      leaves_if_stopped_.reset();
      member.joined = true;
    } catch (...) {
      member.error = Caught();
    }
  }

  bool IsOnACall() const noexcept {
    return std::any_of(asking_.begin(), asking_.end(),
                       [](const Member* member) { return member->joined; });
  }

  // This caller leaves all of the calls that it is on at once, also those that it will follow.
  struct LeaveAll {
    Batch* self;
    void operator()() const noexcept {
      for (Member* member : self->asking_) {
        if (member->joined && member->Leave(LeaveReason::kStop)) member->left = true;
      }
    }
  };

  void BeforeBlocking() {
    const StopCallback on_stop(options_.stop, LeaveAll{this});
    group_.BeforeBlocking();
  }

  // If this batch only refreshes values that its caller has, a copy of `fn` does that elsewhere.
  template <class Fn>
  bool LeadsInBackground(Fn& fn) {
    if constexpr (LedCalls<G>::kMayBeBackground) {
      using Kept = std::decay_t<Fn>;
      static_assert(std::constructible_from<Kept, Fn&>,
                    "a ReadThrough may keep fn to refresh values in the background: pass one that "
                    "can be copied");
      if (!led_.AreBackground()) return false;
      BatchLeads<G, Kept> leads;
      std::exception_ptr error;
      try {
        leads.Take(led_);
      } catch (...) {
        error = Caught();
      }
      if (error != nullptr) led_.Fail(error);  // they are still here
      leads.Begin(
          fn, [](const auto& work) { work->Calls().RunInBackground(BatchTask<G, Kept>(work)); });
      return true;
    } else {
      return false;
    }
  }

  // Runs `fn` for the calls that this batch leads, and lands them.
  template <class Fn>
  void Lead(Fn& fn) {
    const StopCallback on_stop(options_.stop, LeaveAll{this});
    std::exception_ptr error;
    std::optional<typename LedCalls<G>::Working> working;  // until the last call has landed
    try {
      led_.DropCanceled();
      if (led_.Empty()) return;
      working.emplace(led_);
      RunAndLand(fn);
    } catch (...) {
      error = Caught();
    }
    if (error != nullptr) led_.Fail(error);  // those that have not landed
  }

  template <class Fn>
  void RunAndLand(Fn& fn) {
    const auto land = [this](std::size_t place, Outcome&& outcome) {
      led_.Land(place, std::move(outcome));
    };
    std::optional<StopOfAll> stop;
    if constexpr (BatchFn<G, Fn>::kTakesStop) stop.emplace(led_.Stops());
    detail::RunBatchFn<G>(fn, led_.Keys(), stop ? stop->GetToken() : StopToken(), land);
  }

  // Waits for the calls that other callers lead, one after the other.
  void Follow() {
    const StopCallback on_stop(options_.stop, [this] { monitor_.Interrupt(); });
    for (Member* member : asking_) {
      if (member->joined && !member->led && !member->left) Await(*member);
    }
  }

  void KeepThoseThatAskAgain() {
    std::erase_if(asking_, [](const Member* member) { return !member->AsksAgain(); });
  }

  void Await(Member& member) {
    WaitEdge edge;
    const bool deadlock = !edge.Record(*State::Of(member));
    if (deadlock ? member.LandedBeforeLeaving() : member.WaitOrLeave(edge, deadline_)) return;
    const bool canceled = options_.stop.stop_requested();
    member.error = deadlock ? MakeDeadlock() : canceled ? MakeCanceled() : MakeTimedOut();
  }

  G& group_;
  const CallOptions& options_;
  Deadline deadline_;
  std::vector<Member*> asking_;  // without an outcome so far
  Monitor monitor_;              // of all members
  LedCalls<G> led_;
  BatchMembers<G, Member> members_;  // declared after `led_`, so destroyed before: a member that is
                                     // on a call leaves, before `led_` lands it as vanished
  // Set while a call's work may run inside Join. No member's `joined` changes meanwhile. Declared
  // after the members, because it uses them.
  std::optional<StopCallback<LeaveAll>> leaves_if_stopped_;
};

}  // namespace singleflight::detail

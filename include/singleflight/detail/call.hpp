// SPDX-License-Identifier: MIT
#pragma once

// One call: what its leader holds while it is in flight (Call), and what it shares with its
// followers and leaves to them (SharedState).
//
// A call whose leader blocks in Do is on the leader's stack, and refers to the caller's own key.
// Until somebody joins, there is nothing else. The first follower allocates the SharedState, so
// landing has nothing left to allocate.

#include <atomic>
#include <cstdint>
#include <exception>
#include <forward_list>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>

#include "../listener.hpp"
#include "../result.hpp"
#include "../stop_token.hpp"
#include "../waiter.hpp"
#include "adaptive_mutex.hpp"
#include "call_table.hpp"
#include "event.hpp"
#include "gate.hpp"
#include "intrusive_list.hpp"
#include "outcome.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// Says which caller leaves a call.
template <class Value>
struct Leaver {
  Waiter<Value>* waiter = nullptr;  // null: it blocks, or is a Future
  Gate* gate = nullptr;             // null: it waits at none
  bool retries = false;             // it would have asked again if the call had failed
  bool is_in_do = false;            // it tells the listener itself: it has its key
  LeaveReason why = LeaveReason::kLeft;
};

// Holds what the callers of a shared call have in common.
template <class Value>
class SharedState : public WaitTarget {
 public:
  SharedState(CallBase& of, ThreadId leader) noexcept
      : WaitTarget(leader), hash(of.hash), call(&of) {}
  // Holds a value that no call of a group produced: see LandedState.
  SharedState() noexcept : WaitTarget(ThreadId()), hash(0), call(nullptr) {}

  const std::uint64_t hash;  // finds the shard, even after the call has landed

  // ---- Guarded by the shard's mutex

  CallBase* call;  // null once it has landed

  // Followers that will ask again if the call fails (OnFailure::kRetry). After a failure, the first
  // of them to do so leads or joins the second try, and makes the others callers of it. So however
  // late they wake, there is one second try.
  std::uint32_t retriers = 0;
  std::uint32_t expected = 0;     // retriers that are counted in the second try, and have not come
  std::uint32_t turned_away = 0;  // retriers for whom it has no place, and who have not come so far
  // Whether this is such a call: then retriers may come after it has landed.
  bool has_latecomers = false;
  std::shared_ptr<SharedState> second_try;

  // Whether the outcome must be set before the call is closed, because it is read as soon as the
  // shard is unlocked: by latecomers, and by retriers that are detached.
  bool OutcomeComesFirst() const noexcept { return has_latecomers || retriers > 0; }

  // Makes a caller leave. False if the call has landed: then nothing is done. Touches the group
  // only while the call is in flight. If no caller is left, `unwanted` may become the call's stop
  // source, and the stop must then be requested of it.
  virtual bool Leave(const Leaver<Value>& who, StopSource& unwanted) noexcept = 0;
  // After landing, for a follower that will not ask again after all. The group must be alive.
  virtual void GiveUp() noexcept = 0;
  bool Leave(const Leaver<Value>& who) noexcept {
    StopSource unwanted(kNoStopState);
    const bool left = Leave(who, unwanted);
    unwanted.request_stop();
    return left;
  }

  // ---- Joining and leaving, under the shard's mutex

  void PrepareToBlock() {  // may throw, before the caller is counted
    if (!broadcast_) broadcast_.emplace();
  }
  Gate& GateWithPlace() {  // likewise
    if (Gate* const gate = Gate::WithPlace(free_places_)) return *gate;
    gates_.emplace_front().Offer(free_places_);
    return gates_.front();
  }
  static void Link(std::shared_ptr<SharedState> self, Waiter<Value>& waiter, Role role,
                   bool retries = false) noexcept {
    waiter.role_ = role;
    waiter.notified_ = false;
    waiter.retries_ = retries;
    waiter.is_listed_with_retriers_ = retries;
    self->ListOf(waiter).Append(waiter);
    waiter.state_ = std::move(self);
  }
  // Gives the outcome to a waiter that comes after landing. Its OnLanded must then be called.
  static void Deliver(std::shared_ptr<SharedState> self, Waiter<Value>& waiter) noexcept {
    waiter.role_ = Role::kFollower;
    waiter.notified_ = true;
    waiter.retries_ = false;
    waiter.state_ = std::move(self);
  }
  static void MakeLeader(Waiter<Value>& waiter) noexcept { waiter.role_ = Role::kLeader; }
  static Role RoleOf(const Waiter<Value>& waiter) noexcept { return waiter.role_; }
  // False: it had stopped before.
  static bool StopsAsking(Waiter<Value>& waiter) noexcept {
    return waiter.retries_.exchange(false);
  }
  // Takes the state of a failed call from a waiter that asks again.
  static std::shared_ptr<SharedState> TakeFailed(Waiter<Value>& waiter) noexcept {
    waiter.retries_ = false;
    return std::move(waiter.state_);
  }
  void Unlink(const Leaver<Value>& who) noexcept {
    if (who.gate != nullptr) who.gate->GiveBack(free_places_);
    if (who.waiter != nullptr ? StopsAsking(*who.waiter) : who.retries) --retriers;
    if (who.waiter != nullptr) Unlink(*who.waiter);
  }
  // This waiter does the call's work: it alone is the leader, and will not ask again. It may be
  // gone, so it is only compared with those that are on the call. Null: none of them.
  void SetLeader(const Waiter<Value>* leads) noexcept {
    for (const WaiterList* list : {&waiters_, &retrying_waiters_}) {
      if (list->first != nullptr) list->first->role_ = Role::kFollower;  // the others are followers
    }
    for (const WaiterList* list : {&waiters_, &retrying_waiters_}) {
      for (Waiter<Value>* each = list->first; each != nullptr; each = each->next_) {
        if (each != leads) continue;
        each->role_ = Role::kLeader;
        if (StopsAsking(*each)) --retriers;
        return;
      }
    }
  }
  // Null once the waiter has left or taken its result.
  static const std::shared_ptr<SharedState>& Of(const Waiter<Value>& waiter) noexcept {
    return waiter.state_;
  }

  // ---- Landing: Close, SetOutcome (which may come before Close), Publish

  // Under the shard's mutex: from here on no caller joins or leaves.
  void Close(bool is_shared) noexcept {
    call = nullptr;
    shared_ = is_shared || led_elsewhere_;
    MarkLanded();
  }
  // In place of Close and SetOutcome, of which the second may run at the same time: the callers get
  // `error`, whatever the work returns. Publish must follow.
  void Cancel(std::exception_ptr error) noexcept {
    call = nullptr;
    cancel_error_ = std::move(error);
    MarkLanded();
  }
  // ---- Handing over: what launches the call may use what belongs to its callers, so Cancel must
  // not notify them meanwhile. Nothing else lands a call before its Lead is used.

  // Called before any other thread knows the state.
  void BeginHandOver() noexcept { hand_over_.store(HandOver::kRunning, std::memory_order_relaxed); }
  // Called after Cancel. False: whoever ends the hand-over must call Publish.
  bool MayPublishCancel() noexcept {
    auto running = HandOver::kRunning;
    return !hand_over_.compare_exchange_strong(running, HandOver::kCanceled);
  }
  // True: Cancel came meanwhile, and Publish must follow.
  bool EndHandOver() noexcept {
    return hand_over_ != HandOver::kDone &&
           hand_over_.exchange(HandOver::kDone) == HandOver::kCanceled;
  }

  // Before Close: the outcome comes from another process, whose callers share it. Here are only
  // followers.
  void SetLedElsewhere() noexcept { led_elsewhere_ = true; }
  // Stores what the callers will read. If the move of a value throws, all of them get that
  // exception.
  void SetOutcome(Outcome<Value>&& outcome) noexcept {
    if (auto* const value = outcome.value()) {
      try {
        outcome_.SetValue(std::move(*value));
      } catch (...) {
        outcome_.SetError(std::current_exception());
      }
    } else {
      outcome_.SetError(outcome.TakeError());
    }
    failed_ = detail::Failed<Value>(outcome_);
  }
  // For the thread that has set it. It says nothing of Cancel.
  bool OutcomeFailed() const noexcept { return failed_; }
  // Drops the value: no caller is left to take it.
  void Discard() noexcept { outcome_.SetError(nullptr); }
  // With no lock held: wakes the callers. OnLanded may destroy waiters that are still in the list,
  // so no pointer into the list is kept while it runs.
  void Publish() noexcept {
    PublishToAllButRetriers();
    PublishToRetriers();
  }
  void PublishToAllButRetriers() noexcept {
    if (broadcast_) broadcast_->promise.set_value();
    for (Gate& gate : gates_) gate.Open();
    while (Waiter<Value>* const waiter = Pop(waiters_)) waiter->OnLanded();
  }
  void PublishToRetriers() noexcept {
    while (Waiter<Value>* const waiter = Pop(retrying_waiters_)) waiter->OnLanded();
  }
  // Whether a waiter will join a call of the group again, because this one has failed.
  bool HasRetryingWaiters() noexcept {
    const std::lock_guard lock(waiters_mutex_);
    return failed_ && retrying_waiters_.first != nullptr;
  }
  // After landing. False if the waiter has been, or is being, notified.
  bool UnlinkUnlessNotified(Waiter<Value>& waiter) noexcept {
    const std::lock_guard lock(waiters_mutex_);
    if (waiter.notified_) return false;
    Unlink(waiter);
    return true;
  }

  // ---- Waiting without a Waiter or a Gate, after PrepareToBlock

  void Block() const {
    detail::BeforeBlocking();
    broadcast_->landed.wait();
  }
  std::future_status Block(const Deadline& deadline) const {
    detail::BeforeBlocking();
    if (deadline) return broadcast_->landed.wait_until(*deadline);
    Block();
    return std::future_status::ready;
  }

  // ---- Reading, once published

  // Whether the call landed with an exception, or with a value that says that it is a failure.
  // False if it was cancelled: nobody asks again then.
  bool Failed() const noexcept { return cancel_error_ == nullptr && failed_; }
  // Null if there is a value.
  std::exception_ptr Error() const noexcept {
    return cancel_error_ != nullptr ? cancel_error_ : outcome_.Error();
  }
  static Result<Value> Receive(std::shared_ptr<SharedState> self, Role role) {
    if (!self->shared_ && self->cancel_error_ == nullptr) {
      return ResultFactory::Take<Value>(self->outcome_, role);
    }
    return ReceiveShared(std::move(self), role);
  }
  // Receives a result that its caller passes on to several others. It only reads, so it may be
  // called repeatedly.
  static Result<Value> ReceiveShared(std::shared_ptr<SharedState> self, Role role) {
    if (std::exception_ptr error = self->Error()) std::rethrow_exception(std::move(error));
    if (self->led_elsewhere_) role = Role::kFollower;
    const Stored<Value>* const value = self->outcome_.value();
    return ResultFactory::Shared<Value>({std::move(self), value}, role);
  }

 protected:
  ~SharedState() = default;

 private:
  // Allocated by the first follower that blocks and never leaves.
  struct Broadcast {
    std::promise<void> promise;
    std::shared_future<void> landed = promise.get_future().share();
  };
  // Guarded by the shard's mutex until closed, and constant afterwards.
  std::optional<Broadcast> broadcast_;
  std::forward_list<Gate> gates_;  // for followers that block and may leave
  ListLink free_places_;           // of gates that are not full

  struct WaiterList {
    void Append(Waiter<Value>& waiter) noexcept {
      waiter.next_ = nullptr;
      waiter.prev_ = last;
      (last != nullptr ? last->next_ : first) = &waiter;
      last = &waiter;
    }
    void Remove(Waiter<Value>& waiter) noexcept {
      (waiter.prev_ != nullptr ? waiter.prev_->next_ : first) = waiter.next_;
      (waiter.next_ != nullptr ? waiter.next_->prev_ : last) = waiter.prev_;
    }
    Waiter<Value>* first = nullptr;
    Waiter<Value>* last = nullptr;
  };

  WaiterList& ListOf(const Waiter<Value>& waiter) noexcept {
    return waiter.is_listed_with_retriers_ ? retrying_waiters_ : waiters_;
  }
  void Unlink(Waiter<Value>& waiter) noexcept {
    ListOf(waiter).Remove(waiter);
    waiter.state_.reset();
  }
  Waiter<Value>* Pop(WaiterList& list) noexcept {
    const std::lock_guard lock(waiters_mutex_);
    Waiter<Value>* const waiter = list.first;
    if (waiter != nullptr) {
      list.Remove(*waiter);
      waiter->notified_ = true;
    }
    return waiter;
  }

  // Guarded by the shard's mutex until closed, and by waiters_mutex_ afterwards.
  WaiterList waiters_;
  WaiterList retrying_waiters_;  // notified last: what they do may take long

  // Written under the shard's mutex, and read by callers once it is published. Null unless the call
  // was cancelled. Then they read nothing else, because the work's thread may write it any time.
  std::exception_ptr cancel_error_;

  AdaptiveMutex waiters_mutex_;  // here, where it takes no room
  // Written by the landing thread, and read by callers once it has published.
  bool shared_ = false;
  bool failed_ = false;
  bool led_elsewhere_ = false;
  enum class HandOver : unsigned char { kDone, kRunning, kCanceled };
  std::atomic<HandOver> hand_over_ = HandOver::kDone;
  Outcome<Value> outcome_;
};

// A call in flight for a key. `Note` is what it carries for a listener.
template <class KeyRef, class Value, class Note>
struct Call : CallBase {
  explicit Call(KeyRef key_ref) noexcept : key(key_ref) {}

  const KeyRef key;
  const ThreadId leader = ThisThread();
  // Guarded by the shard's mutex. Null until a follower joins, if the leader is in Do.
  std::shared_ptr<SharedState<Value>> state;
  [[no_unique_address]] Note note;
};

}  // namespace singleflight::detail

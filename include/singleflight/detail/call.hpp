// SPDX-License-Identifier: MIT
#pragma once

// One call: what its leader holds while it is in flight (Call), and what it shares with its
// followers and leaves to them (SharedState).
//
// A call whose leader blocks in Do is on the leader's stack, and refers to the caller's own key.
// Until somebody joins, there is nothing else. The first follower allocates the SharedState, so
// landing has nothing left to allocate.

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <utility>
#include <variant>

#include "../result.hpp"
#include "../waiter.hpp"
#include "call_table.hpp"
#include "outcome.hpp"
#include "spin_mutex.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// Holds what the callers of a shared call have in common.
template <class Value>
class SharedState : public WaitTarget {
 public:
  SharedState(CallBase& of, const ThreadMark* leader) noexcept
      : WaitTarget(leader), hash(of.hash), call(&of) {}
  // Holds a value that no call of a group produced: see LandedState.
  SharedState() noexcept : WaitTarget(nullptr), hash(0), call(nullptr) {}

  const std::uint64_t hash;  // finds the shard, even after the call has landed

  // Guarded by the shard's mutex.
  CallBase* call;  // null once it has landed

  // Makes a caller leave. False if the call has landed: then nothing is done. `waiter` is null for
  // a caller that has none. Touches the group only while the call is in flight. If no caller is
  // left, `unwanted` becomes the call's stop source, and the stop must then be requested of it.
  virtual bool Leave(Waiter<Value>* waiter, std::stop_source& unwanted) noexcept = 0;
  bool Leave(Waiter<Value>* waiter) noexcept {
    std::stop_source unwanted(std::nostopstate);
    const bool left = Leave(waiter, unwanted);
    unwanted.request_stop();
    return left;
  }

  // ---- Joining and leaving, under the shard's mutex

  void PrepareToBlock() {  // may throw, before the caller is counted
    if (!broadcast_) broadcast_.emplace();
  }
  static void Link(std::shared_ptr<SharedState> self, Waiter<Value>& waiter, Role role) noexcept {
    waiter.role_ = role;
    waiter.notified_ = false;
    waiter.next_ = nullptr;
    waiter.prev_ = self->last_;
    (self->last_ != nullptr ? self->last_->next_ : self->first_) = &waiter;
    self->last_ = &waiter;
    waiter.state_ = std::move(self);
  }
  void Unlink(Waiter<Value>& waiter) noexcept {
    (waiter.prev_ != nullptr ? waiter.prev_->next_ : first_) = waiter.next_;
    (waiter.next_ != nullptr ? waiter.next_->prev_ : last_) = waiter.prev_;
    waiter.state_.reset();
  }
  // Null once the waiter has left or taken its result.
  static const std::shared_ptr<SharedState>& Of(const Waiter<Value>& waiter) noexcept {
    return waiter.state_;
  }

  // ---- Landing: Close, SetOutcome (which may come before Close), Publish

  // Under the shard's mutex: from here on no caller joins or leaves.
  void Close(bool is_shared) noexcept {
    call = nullptr;
    shared_ = is_shared;
    MarkLanded();
  }
  // Stores what the callers will read. If the move of a value throws, all of them get that
  // exception.
  void SetOutcome(Outcome<Value>&& outcome) noexcept {
    if (auto* value = std::get_if<1>(&outcome)) {
      try {
        outcome_.template emplace<1>(std::move(*value));
      } catch (...) {
        outcome_.template emplace<0>(std::current_exception());
      }
    } else if (auto* error = std::get_if<0>(&outcome)) {
      outcome_.template emplace<0>(std::move(*error));
    }
  }
  // Drops the value: no caller is left to take it.
  void Discard() noexcept { outcome_.template emplace<0>(); }
  // With no lock held: wakes the callers. OnLanded may destroy waiters that are still in the list,
  // so no pointer into the list is kept while it runs.
  void Publish() noexcept {
    if (broadcast_) broadcast_->promise.set_value();
    while (Waiter<Value>* const waiter = PopWaiter()) waiter->OnLanded();
  }
  // After landing. False if the waiter has been, or is being, notified.
  bool UnlinkUnlessNotified(Waiter<Value>& waiter) noexcept {
    const std::lock_guard lock(waiters_mutex_);
    if (waiter.notified_) return false;
    Unlink(waiter);
    return true;
  }

  // ---- Waiting without a Waiter, after PrepareToBlock

  void Block() const { broadcast_->landed.wait(); }
  template <class Clock, class Duration>
  std::future_status BlockUntil(const std::chrono::time_point<Clock, Duration>& deadline) const {
    return broadcast_->landed.wait_until(deadline);
  }

  // ---- Reading, once published

  bool Failed() const noexcept { return detail::Failed<Value>(outcome_); }
  std::exception_ptr Error() const { return detail::ErrorOf<Value>(outcome_); }
  static Result<Value> Receive(std::shared_ptr<SharedState> self, Role role) {
    if (!self->shared_) return ResultFactory::Take<Value>(self->outcome_, role);
    return ReceiveShared(std::move(self), role);
  }
  // Receives a result that its caller passes on to several others. It only reads, so it may be
  // called repeatedly.
  static Result<Value> ReceiveShared(std::shared_ptr<SharedState> self, Role role) {
    if (self->Failed()) std::rethrow_exception(self->Error());
    const Stored<Value>* const value = std::get_if<1>(&self->outcome_);
    return ResultFactory::Shared<Value>({std::move(self), value}, role);
  }

 protected:
  ~SharedState() = default;

 private:
  // Allocated by the first follower that blocks.
  struct Broadcast {
    std::promise<void> promise;
    std::shared_future<void> landed = promise.get_future().share();
  };
  std::optional<Broadcast> broadcast_;  // guarded by the shard's mutex until closed

  Waiter<Value>* PopWaiter() noexcept {
    const std::lock_guard lock(waiters_mutex_);
    Waiter<Value>* const waiter = first_;
    if (waiter == nullptr) return nullptr;
    first_ = waiter->next_;
    (first_ != nullptr ? first_->prev_ : last_) = nullptr;
    waiter->notified_ = true;
    return waiter;
  }

  // Guarded by the shard's mutex until closed, and by waiters_mutex_ afterwards.
  SpinMutex waiters_mutex_;
  Waiter<Value>* first_ = nullptr;
  Waiter<Value>* last_ = nullptr;

  // Written by the landing thread, and read by callers once it has published.
  bool shared_ = false;
  Outcome<Value> outcome_;
};

// A call in flight for a key.
template <class KeyRef, class Value>
struct Call : CallBase {
  explicit Call(KeyRef key_ref) noexcept : key(key_ref) {}

  const KeyRef key;
  const ThreadMark* const leader = &this_thread_mark;
  // Guarded by the shard's mutex. Null until a follower joins, if the leader is in Do.
  std::shared_ptr<SharedState<Value>> state;
};

}  // namespace singleflight::detail

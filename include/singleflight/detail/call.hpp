// SPDX-License-Identifier: MIT
#pragma once

// One call: what its leader holds while it is in flight (Call), what it shares with its followers
// and what outlives it in their hands (SharedState), and how a caller that does not block is told
// (Waiter).
//
// A call whose leader blocks lives on the leader's stack and refers to the key where the caller
// left it; while nobody joins, that is all there is. The first follower makes the SharedState, so
// that landing has nothing left to allocate.

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
#include "call_table.hpp"
#include "outcome.hpp"
#include "spin_mutex.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

template <class Value>
class SharedState;

// A caller that is told when its call lands, instead of blocking for it. Its memory is the
// caller's: from the Join that links it until OnLanded has begun or Leave has returned true, it
// must stay where it is. After TakeResult it may be used for another Join.
template <class Value>
class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  // Told once, on the thread that lands the call, with no lock held and outside any catch block of
  // the library's. Must not reach a cancellation point of a thread that may be cancelled.
  // The group does not touch the waiter afterwards: it may be destroyed in here. Must not block:
  // those who are told next wait for it.
  virtual void OnLanded() noexcept = 0;

  // The result, or throws what the call's `fn` threw; `owner_dead` if the leader vanished. Once, in
  // OnLanded or after it.
  Result<Value> TakeResult();

  // As Group::Leave, also after the group's end, though not while another thread is ending it.
  bool Leave() noexcept;

  // For a waiter that is about to end: leaves, or if the call has landed, takes the waiter off the
  // list of those who are still to be told. True: OnLanded will not come any more. False: it is
  // coming right now on another thread, or has come and the result was not taken. May race with
  // what Leave may race with.
  bool Detach() noexcept;

 protected:
  ~Waiter() = default;

  // For a waiter that will not take the result of its landed call: that ends now, and not under the
  // lock of the next Join.
  void DropResult() noexcept { state_.reset(); }

  // As Leave, but if no caller is left it is for this waiter to ask the call to stop, by
  // `unwanted`: what then ends may own the waiter.
  bool Leave(std::stop_source& unwanted) noexcept;

 private:
  friend class SharedState<Value>;

  std::shared_ptr<SharedState<Value>> state_;  // null: on no call, or it has left it
  // Guarded by the shard's mutex until the call lands, by the state's waiters_mutex_ afterwards.
  Waiter* prev_ = nullptr;
  Waiter* next_ = nullptr;
  bool notified_ = false;  // OnLanded has come or is coming
  Role role_ = Role::kFollower;
};

// What the callers of a shared call have in common.
template <class Value>
class SharedState : public WaitTarget {
 public:
  SharedState(CallBase& of, const ThreadMark* leader) noexcept
      : WaitTarget(leader), hash(of.hash), call(&of) {}
  SharedState() noexcept : WaitTarget(nullptr), hash(0), call(nullptr) {}  // of no group's call

  const std::uint64_t hash;  // finds the shard, also when the call is gone

  // Guarded by the shard's mutex.
  CallBase* call;  // null once it has landed

  // A caller leaves; one that has no Waiter gives null. Touches the group only while the call is in
  // flight. If no caller is left, the call is to be asked to stop by `unwanted`.
  virtual bool Leave(Waiter<Value>* waiter, std::stop_source& unwanted) noexcept = 0;
  bool Leave(Waiter<Value>* waiter) noexcept {
    std::stop_source unwanted(std::nostopstate);
    const bool left = Leave(waiter, unwanted);
    unwanted.request_stop();
    return left;
  }

  // Joining and leaving, under the shard's mutex.
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

  // Landing. First under the shard's mutex: nobody joins or leaves any more.
  void Close(bool is_shared) noexcept {
    call = nullptr;
    shared_ = is_shared;
    MarkLanded();
  }
  // Then, or before by the one who is to land the call: what the callers will read. A value whose
  // move throws becomes that exception, for all of them.
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
  // Where nobody is left who would take the value.
  void Discard() noexcept { outcome_.template emplace<0>(); }
  // Last, with no lock held: wakes the callers. A waiter that is told may end others that are not
  // yet, so none is held on to meanwhile.
  void Publish() noexcept {
    if (broadcast_) broadcast_->promise.set_value();
    while (Waiter<Value>* const waiter = PopWaiter()) waiter->OnLanded();
  }
  // Once landed: false if the waiter is told or being told.
  bool UnlinkUnlessNotified(Waiter<Value>& waiter) noexcept {
    const std::lock_guard lock(waiters_mutex_);
    if (waiter.notified_) return false;
    Unlink(waiter);
    return true;
  }

  // Waiting without a Waiter, after PrepareToBlock.
  void Block() const { broadcast_->landed.wait(); }
  template <class Clock, class Duration>
  std::future_status BlockUntil(const std::chrono::time_point<Clock, Duration>& deadline) const {
    return broadcast_->landed.wait_until(deadline);
  }

  // Once published.
  bool Failed() const noexcept { return detail::Failed<Value>(outcome_); }
  std::exception_ptr Error() const { return detail::ErrorOf<Value>(outcome_); }
  static Result<Value> Receive(std::shared_ptr<SharedState> self, Role role);
  // For a caller that hands its result on to several: reads only, so it may be called often.
  static Result<Value> ReceiveShared(std::shared_ptr<SharedState> self, Role role);

 protected:
  ~SharedState() = default;

 private:
  // Made by the first follower that blocks.
  struct Broadcast {
    std::promise<void> promise;
    std::shared_future<void> landed = promise.get_future().share();
  };
  std::optional<Broadcast> broadcast_;  // guarded by the shard's mutex until it is closed

  Waiter<Value>* PopWaiter() noexcept {
    const std::lock_guard lock(waiters_mutex_);
    Waiter<Value>* const waiter = first_;
    if (waiter == nullptr) return nullptr;
    first_ = waiter->next_;
    (first_ != nullptr ? first_->prev_ : last_) = nullptr;
    waiter->notified_ = true;
    return waiter;
  }

  // Guarded by the shard's mutex until closed, by waiters_mutex_ afterwards.
  SpinMutex waiters_mutex_;
  Waiter<Value>* first_ = nullptr;
  Waiter<Value>* last_ = nullptr;

  // Written by the landing thread, read by callers once it has published.
  bool shared_ = false;
  Outcome<Value> outcome_;
};

// A call in flight for a key.
template <class KeyRef, class Value>
struct Call : CallBase {
  explicit Call(KeyRef key_ref) noexcept : key(key_ref) {}

  const KeyRef key;
  const ThreadMark* const leader = &this_thread_mark;
  // Guarded by the shard's mutex. Null: nobody has joined yet.
  std::shared_ptr<SharedState<Value>> state;
};

template <class Value>
Result<Value> SharedState<Value>::Receive(std::shared_ptr<SharedState> self, Role role) {
  if (!self->shared_) return ResultFactory::Take<Value>(self->outcome_, role);
  return ReceiveShared(std::move(self), role);
}

template <class Value>
Result<Value> SharedState<Value>::ReceiveShared(std::shared_ptr<SharedState> self, Role role) {
  if (self->Failed()) std::rethrow_exception(self->Error());
  const Stored<Value>* const value = std::get_if<1>(&self->outcome_);
  return ResultFactory::Shared<Value>({std::move(self), value}, role);
}

template <class Value>
Result<Value> Waiter<Value>::TakeResult() {
  return SharedState<Value>::Receive(std::move(state_), role_);
}

template <class Value>
bool Waiter<Value>::Leave() noexcept {
  const std::shared_ptr<SharedState<Value>> state = state_;
  return state != nullptr && state->Leave(this);
}

template <class Value>
bool Waiter<Value>::Leave(std::stop_source& unwanted) noexcept {
  const std::shared_ptr<SharedState<Value>> state = state_;
  return state != nullptr && state->Leave(this, unwanted);
}

template <class Value>
bool Waiter<Value>::Detach() noexcept {
  if (state_ == nullptr) return true;
  const std::shared_ptr<SharedState<Value>> state = state_;
  return state->Leave(this) || state->UnlinkUnlessNotified(*this);
}

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// Waiter: a caller that is notified when its call lands, instead of blocking.
//
// With it and Group::Join you can serve any kind of caller: a callback API, another future type, an
// event loop. CoDo, AsyncDo and DoMany are built on it. Derive from it and override OnLanded:
//
//   struct Reply final : Users::Waiter {  // Users is a Group<std::string, User>
//     void OnLanded() noexcept override {
//       try {
//         Send(*TakeResult());
//       } catch (...) {  // what Load threw, or `owner_dead`
//         SendError();
//       }
//     }
//   };
//
//   users.Join("user:42", reply, [&](Users::Lead lead) {  // only if no call is in flight
//     pool.Post([lead]() mutable { lead.Run([] { return Load(42); }); });
//   });
//
// `Join` links the waiter to the call in flight for the key. If there is none, it makes a call and
// gives the function its Lead, the right to land it: see lead.hpp.
//
// It is not a synchronization primitive. Leave may race with OnLanded, but with nothing else.
// Include group.hpp, which includes this header and what the functions here need.
//
// Warning: a cancel handler that calls Leave while OnLanded calls TakeResult on another thread is a
// data race. Use DoThen: its Caller may leave at any time.

#include <atomic>
#include <memory>
#include <utility>

#include "listener.hpp"
#include "result.hpp"
#include "stop_token.hpp"

namespace singleflight {

namespace detail {
template <class Value>
class SharedState;
}

// Lifetime: the waiter belongs to the caller. It must stay where it is from the Join that links it
//   until OnLanded has begun or Leave has returned true. After TakeResult it may join again.
template <class Value>
class Waiter {
 public:
  Waiter() = default;
  Waiter(const Waiter&) = delete;
  Waiter& operator=(const Waiter&) = delete;

  // Called once, when the call has landed. May destroy the waiter.
  //
  // Thread: the one that lands the call, or the one in JoinAgain if the second try landed before.
  //   No lock is held, and no catch block runs. It must not block, because the other waiters are
  //   notified after it returns. It must not reach a cancellation point of a thread that may be
  //   cancelled.
  virtual void OnLanded() noexcept = 0;

  // Returns the result. Call it once, in OnLanded or after it.
  //
  // Errors: throws what the call's `fn` threw, or `owner_dead` if the leader vanished.
  Result<Value> TakeResult() {
    return detail::SharedState<Value>::Receive(std::move(state_), role_);
  }

  // True if this waiter joined with OnFailure::kRetry, followed, and its call has failed. It may
  // then ask once more, by Group::JoinAgain. If it does not, call Group::GiveUp.
  //
  // Thread: call it in OnLanded or after it, before TakeResult.
  bool AsksAgain() const noexcept { return retries_ && state_ != nullptr && state_->Failed(); }

  // Leaves the call, like Group::Leave. The group's listener is told why.
  //
  // Thread: as for Group::Leave. It must not be called while another thread destroys the group.
  // Lifetime: it may be called after the group was destroyed.
  bool Leave(LeaveReason why = LeaveReason::kLeft) noexcept {
    const std::shared_ptr<detail::SharedState<Value>> state = state_;
    return state != nullptr && state->Leave({.waiter = this, .retries = retries_, .why = why});
  }

  // Leaves the call, or if it has landed, cancels a notification that has not begun. Call it before
  // you destroy a waiter. True: OnLanded will not be called any more. False: it is running on
  // another thread, or it has run and the result was not taken.
  //
  // Thread: may race with what Leave may race with.
  bool Detach() noexcept {
    if (state_ == nullptr) return true;
    const std::shared_ptr<detail::SharedState<Value>> state = state_;
    if (state->Leave({.waiter = this, .retries = retries_})) return true;
    if (!state->UnlinkUnlessNotified(*this)) return false;
    // Those that ask again must not count on this one. Without a failure, the group may be gone.
    if (retries_ && state->Failed()) state->GiveUp();
    return true;
  }

 protected:
  virtual ~Waiter() = default;

  // Releases a result that will not be taken. Otherwise the next Join would destroy it, under a
  // lock.
  void DropResult() noexcept { state_.reset(); }

  // Like Leave, but if this was the last caller, it hands out the call's stop source instead of
  // requesting the stop: what runs then may destroy this waiter.
  bool Leave(StopSource& unwanted, LeaveReason why) noexcept {
    const std::shared_ptr<detail::SharedState<Value>> state = state_;
    return state != nullptr &&
           state->Leave({.waiter = this, .retries = retries_, .why = why}, unwanted);
  }

 private:
  friend detail::SharedState<Value>;

  std::shared_ptr<detail::SharedState<Value>> state_;  // null: on no call
  // Guarded by the shard's mutex until the call lands, and by the state's waiters_mutex_
  // afterwards.
  Waiter* prev_ = nullptr;
  Waiter* next_ = nullptr;
  bool notified_ = false;  // OnLanded has run or is running
  bool is_listed_with_retriers_ = false;
  std::atomic<bool> retries_ = false;  // it may ask again if the call fails
  Role role_ = Role::kFollower;
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// AsyncCaller: a caller on the heap that any thread may make leave at any time, even before it has
// joined its call and while the call lands.

#include <atomic>
#include <exception>
#include <memory>
#include <thread>
#include <utility>

#include "../key_result.hpp"
#include "../waiter.hpp"
#include "backoff.hpp"
#include "call.hpp"
#include "errors.hpp"
#include "event.hpp"

namespace singleflight::detail {

// The part that does not depend on the value: who decides between leaving and landing.
//
// A Waiter alone cannot be left at any time: Waiter::Leave must race neither with Join nor with
// TakeResult, and only one thread may call it. So here one atomic phase decides. Whoever wins it
// does what follows, and nobody else touches the waiter.
//
// A reference each is held by the handle, by a thread that joins, and by the call, until it
// notifies the waiter or the waiter has left.
class CallerBase {
 public:
  CallerBase(const CallerBase&) = delete;
  CallerBase& operator=(const CallerBase&) = delete;

  // True: this caller has left, or had left before, and is not delivered to. Never waits.
  bool Leave() noexcept {
    Phase phase = phase_;
    Phase next;
    do {
      if (phase == Phase::kLeaving || phase == Phase::kLeft) return true;
      if (phase == Phase::kDelivering || phase == Phase::kDone) return false;
      next = phase == Phase::kJoining ? Phase::kLeaving : Phase::kLeft;
    } while (!phase_.compare_exchange_weak(phase, next));
    if (next == Phase::kLeft) {  // otherwise, the thread that joins does it
      references_.fetch_add(1);
      LetGo();
      Release();
    }
    return true;
  }

  // Call it after Leave. Waits until no other thread delivers, or lets go for Leave.
  void AwaitQuiet() noexcept {
    Event quiet;
    quiet_ = &quiet;
    if (BusyElsewhere() || quiet_.exchange(nullptr) == nullptr) quiet.Wait();
  }

  // Drops a reference.
  void Release() noexcept {
    if (references_.fetch_sub(1) == 1) delete this;
  }

  // Joins by `join(joined)`, which calls `joined()` as soon as the waiter is on its call, or not at
  // all. Throws what `join` throws, unless this caller has left meanwhile.
  template <class Join>
  void JoinBy(Join&& join) {
    Joining joining{*this};
    std::exception_ptr error = joining.Try(join);
    if (error != nullptr && DidNotJoin()) std::rethrow_exception(std::move(error));
  }

 protected:
  CallerBase() = default;
  virtual ~CallerBase() = default;

  // The call has landed. Delivers the outcome, unless this caller has left.
  void Land() noexcept {
    delivers_on_ = std::this_thread::get_id();
    Phase phase = phase_;
    do {
      if (phase == Phase::kLeaving || phase == Phase::kLeft) return Release();
    } while (!phase_.compare_exchange_weak(phase, Phase::kDelivering));
    FinishDelivery();
  }

  // ---- Joining again, in OnLanded

  // False: this caller has left. True: JoinAgainBy must follow.
  bool StartsJoiningAgain() noexcept {
    // The thread that joined first is a few instructions from saying so.
    for (Backoff backoff; phase_ == Phase::kJoining;) backoff.Pause();
    if (phase_ != Phase::kWaiting) return false;
    joins_on_ = std::this_thread::get_id();
    auto waiting = Phase::kWaiting;
    return phase_.compare_exchange_strong(waiting, Phase::kJoining);
  }
  // Like JoinBy. What `join` throws is given to `fail(error)`, and is delivered.
  template <class Join, class FailWith>
  void JoinAgainBy(Join&& join, FailWith&& fail) noexcept {
    references_.fetch_add(1);
    Joining joining{*this};
    std::exception_ptr error = joining.Try(join);
    if (error == nullptr) return;
    fail(std::move(error));
    delivers_on_ = std::this_thread::get_id();
    auto phase = Phase::kJoining;
    if (phase_.compare_exchange_strong(phase, Phase::kDelivering)) return FinishDelivery();
    LetGoForLeave();
  }

  // ---- What depends on the kind of caller

  // The waiter is on a call. Runs on the thread that joins, which may not be delivered to so far,
  // or may have been.
  virtual void OnJoined() noexcept {}
  // Takes the result, and gives it to what it is for.
  virtual void Deliver() noexcept = 0;
  // Destroys what it is for.
  virtual void Drop() noexcept = 0;
  // Leaves the call. True: OnLanded will not be called. False: it has been called, or will be.
  virtual bool LeaveCall() noexcept = 0;

 private:
  // kJoining: a thread is inside Join. kWaiting: on a call. kLeaving: left while a thread is inside
  // Join, which lets go once it can. kLeft: left. kDelivering: the call has landed, and Deliver
  // runs. kDone: it was delivered to, or Join threw. After these two, nothing changes any more.
  // From kWaiting it goes back to kJoining if its call has failed and it asks again.
  enum class Phase : unsigned char { kJoining, kWaiting, kLeaving, kLeft, kDelivering, kDone };

  // A thread inside Join.
  struct Joining {
    ~Joining() {
      if (!joined) caller.DidNotJoin();  // this thread is being cancelled
      caller.Release();
    }
    // Returns what `join` throws. Null if it has joined.
    template <class Join>
    std::exception_ptr Try(Join& join) {
      const auto on_joined = [this] {
        if (!std::exchange(joined, true)) caller.Joined();
      };
      try {
        join(on_joined);
        on_joined();
      } catch (...) {
        std::exception_ptr error = detail::Caught();
        return std::exchange(joined, true) ? nullptr : error;
      }
      return nullptr;
    }
    CallerBase& caller;
    bool joined = false;
  };

  void Joined() noexcept {
    OnJoined();
    auto joining = Phase::kJoining;
    if (!phase_.compare_exchange_strong(joining, Phase::kWaiting)) {
      if (joining == Phase::kLeaving) LetGoForLeave();
    }
  }

  // Join threw, or its thread is being cancelled. True: nobody has left, or was delivered to.
  bool DidNotJoin() noexcept {
    auto joining = Phase::kJoining;
    if (phase_.compare_exchange_strong(joining, Phase::kDone)) {
      Drop();
      Release();  // the call's: there is none
      return true;
    }
    if (joining == Phase::kLeaving) LetGoForLeave();
    return false;
  }

  // Only one thread comes here, with a reference of its own: what runs here may destroy the handle,
  // and the call may drop its reference meanwhile.
  void LetGo() noexcept {
    const bool left = LeaveCall();
    Drop();
    if (left) Release();  // the call's: it notifies nobody
  }
  void LetGoForLeave() noexcept {
    LetGo();
    BeQuiet(Phase::kLeft);
  }

  void FinishDelivery() noexcept {
    Deliver();
    BeQuiet(Phase::kDone);
    Release();
  }

  // In sequential consistency: either this sees the event, or its thread sees the phase.
  void BeQuiet(Phase phase) noexcept {
    phase_ = phase;
    if (Event* const quiet = quiet_.exchange(nullptr)) quiet->Set();
  }
  bool BusyElsewhere() const noexcept {
    const Phase phase = phase_;
    const auto here = std::this_thread::get_id();
    return (phase == Phase::kDelivering && delivers_on_ != here) ||
           (phase == Phase::kLeaving && joins_on_ != here);
  }

  std::atomic<Phase> phase_ = Phase::kJoining;
  std::atomic<int> references_ = 3;
  // Null, or where the thread in AwaitQuiet waits.
  std::atomic<Event*> quiet_ = nullptr;
  // Written before phase_ becomes kJoining, and read in kLeaving only.
  std::thread::id joins_on_ = std::this_thread::get_id();
  // Written before phase_ becomes kDelivering, and read in that phase only.
  std::thread::id delivers_on_;
};

// The part that does not depend on what the outcome is delivered to.
template <class Value>
class AsyncCaller : public CallerBase, public Waiter<Value> {
 protected:
  // Takes the outcome. It is not kept here.
  //
  // Not inlined, like the next, because GCC 12 warns falsely that a KeyResult whose construction it
  // sees is uninitialized where it is moved.
  [[gnu::noinline]] KeyResult<Value> TakeOutcome() noexcept {
    using State = SharedState<Value>;
    try {
      if (std::exception_ptr error = State::Of(*this)->Error()) {
        this->DropResult();
        return KeyResult<Value>::Failure(std::move(error));
      }
      return KeyResult<Value>(this->TakeResult());
    } catch (...) {  // the value's move threw
      return KeyResult<Value>::Failure(std::current_exception());
    }
  }
  [[gnu::noinline]] static KeyResult<Value> Failure(std::exception_ptr error) noexcept {
    return KeyResult<Value>::Failure(std::move(error));
  }

  // A result that was not taken is not kept either.
  void Drop() noexcept override { this->DropResult(); }

 private:
  void OnLanded() noexcept override { this->Land(); }
  bool LeaveCall() noexcept override { return this->Detach(); }
};

}  // namespace singleflight::detail

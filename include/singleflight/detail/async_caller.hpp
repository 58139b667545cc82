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
// Three parties hold a reference each: the handle, the thread that joins, and the call, until it
// notifies the waiter or the waiter has left.
class CallerBase {
 public:
  CallerBase(const CallerBase&) = delete;
  CallerBase& operator=(const CallerBase&) = delete;

  // True: this caller has left, or had left before, and is not delivered to. Never waits.
  bool Leave() noexcept {
    Phase phase = phase_;
    do {
      if (phase == Phase::kLeft) return true;
      if (phase != Phase::kJoining && phase != Phase::kWaiting) return false;
    } while (!phase_.compare_exchange_weak(phase, Phase::kLeft));
    if (phase == Phase::kWaiting) LetGo();  // otherwise, the thread that joins does it
    return true;
  }

  // Waits for a delivery that is in progress on another thread.
  void AwaitDelivery() noexcept {
    if (phase_ != Phase::kDelivering || delivers_on_ == std::this_thread::get_id()) return;
    Event delivered;
    delivered_ = &delivered;
    auto delivering = Phase::kDelivering;
    if (phase_.compare_exchange_strong(delivering, Phase::kAwaited)) delivered.Wait();
  }

  // Drops a reference.
  void Release() noexcept {
    if (references_.fetch_sub(1) == 1) delete this;
  }

  // ---- For the thread that joins

  // Joins by `join(joined)`, which calls `joined()` as soon as the waiter is on its call, or not at
  // all. Throws what `join` throws, unless this caller has left meanwhile.
  template <class Join>
  void JoinBy(Join&& join) {
    struct Joining {
      ~Joining() {
        if (!joined) caller.DidNotJoin();  // this thread is being cancelled
        caller.Release();
      }
      CallerBase& caller;
      bool joined = false;
    } joining{*this};
    const auto joined = [&joining] {
      if (!std::exchange(joining.joined, true)) joining.caller.Joined();
    };
    std::exception_ptr error;
    try {
      join(joined);
      joined();
    } catch (...) {
      error = detail::Caught();
    }
    if (error == nullptr || std::exchange(joining.joined, true)) return;
    if (DidNotJoin()) std::rethrow_exception(std::move(error));
  }

 protected:
  CallerBase() = default;
  virtual ~CallerBase() = default;

  // The call has landed. Delivers the outcome, unless this caller has left.
  void Land() noexcept {
    delivers_on_ = std::this_thread::get_id();
    Phase phase = phase_;
    do {
      if (phase == Phase::kLeft) return Release();
    } while (!phase_.compare_exchange_weak(phase, Phase::kDelivering));
    Deliver();
    if (phase_.exchange(Phase::kDone) == Phase::kAwaited) delivered_->Set();
    Release();
  }

  // Takes the result, and gives it to what it is for.
  virtual void Deliver() noexcept = 0;
  // Destroys what it is for, and a result that was not taken.
  virtual void Drop() noexcept = 0;
  // Waiter::Detach.
  virtual bool DetachWaiter() noexcept = 0;

 private:
  // kJoining: a thread is inside Join. kWaiting: on a call. kLeft: will not be delivered to. Set
  // from kJoining, it also tells the thread that joins to let go. kDelivering: the call has landed,
  // and Deliver runs. kAwaited: likewise, and another thread waits for the end of that. kDone: it
  // was delivered to, or Join threw.
  enum class Phase : unsigned char { kJoining, kWaiting, kLeft, kDelivering, kAwaited, kDone };

  void Joined() noexcept {
    auto joining = Phase::kJoining;
    if (!phase_.compare_exchange_strong(joining, Phase::kWaiting) && joining == Phase::kLeft) {
      LetGo();
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
    if (joining == Phase::kLeft) LetGo();
    return false;
  }

  // Leaves the call after phase_ was set to kLeft. Only one thread comes here.
  void LetGo() noexcept {
    references_.fetch_add(1);  // what runs here may destroy the handle
    const bool detached = DetachWaiter();
    Drop();
    if (detached) Release();  // the call's: it notifies nobody
    Release();
  }

  std::atomic<Phase> phase_ = Phase::kJoining;
  std::atomic<int> references_ = 3;
  // Written by Land before phase_ becomes kDelivering, and read after that.
  std::thread::id delivers_on_;
  // Written before phase_ becomes kAwaited, and read after that.
  Event* delivered_ = nullptr;
};

// The part that does not depend on what the outcome is delivered to.
template <class Value>
class AsyncCaller : public CallerBase, public Waiter<Value> {
 protected:
  // Takes the outcome. It is not kept here.
  //
  // Not inlined, because GCC 12 warns falsely that a KeyResult whose construction it sees is
  // uninitialized where it is moved.
  [[gnu::noinline]] KeyResult<Value> TakeOutcome() noexcept {
    using State = SharedState<Value>;
    try {
      if (State::Of(*this)->Failed()) {
        if (std::exception_ptr error = State::Of(*this)->Error()) {
          this->DropResult();
          return KeyResult<Value>(std::move(error));
        }
      }
      return KeyResult<Value>(this->TakeResult());
    } catch (...) {  // the value's move threw
      return KeyResult<Value>(std::current_exception());
    }
  }

  void Drop() noexcept override { this->DropResult(); }

 private:
  void OnLanded() noexcept final { this->Land(); }
  bool DetachWaiter() noexcept final { return this->Detach(); }
};

}  // namespace singleflight::detail

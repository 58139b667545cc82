// SPDX-License-Identifier: MIT
#pragma once

// CoDoWaiter: the part of what awaits a CoDo that depends neither on `fn` nor on the key. It is
// compiled once, and not again for each `fn`.

#include <atomic>
#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "../../listener.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../backoff.hpp"
#include "../errors.hpp"

namespace singleflight::detail {

// The error of a waiter that does not ask again.
struct NoError {};

// The functions that are not inlined would be copied into each coroutine that awaits.
template <class Group, class ResumeOn, bool kMayAskAgain>
class CoDoWaiter : public Group::Waiter {
 public:
  [[gnu::noinline]] Result<typename Group::ValueType> await_resume() {
    on_stop_.reset();  // waits for a Stop in progress
    if (left_) std::rethrow_exception(detail::MakeCanceled());
    if constexpr (kMayAskAgain) {
      if (error_ != nullptr) std::rethrow_exception(std::move(error_));
    }
    return this->TakeResult();
  }

 protected:
  // kJoining: the coroutine's thread is here, and will not suspend if the wait completes now.
  // kSuspended: the thread that completes the wait resumes the coroutine. kDone: the wait is
  // complete, and the thread that completed it no longer touches this object.
  //
  // Of a caller that may ask again, also: kFailed: as kJoining, but the call has failed, and the
  // coroutine's thread asks again. kAsking: the thread that landed the failed call asks again.
  // kAnswered: likewise, but the wait is complete, and that thread resumes the coroutine. kLeaving:
  // the frame is being destroyed, and nobody asks again.
  enum class Phase : unsigned char {
    kJoining,
    kSuspended,
    kDone,
    kFailed,
    kAsking,
    kAnswered,
    kLeaving
  };

  CoDoWaiter(StopToken&& stop, ResumeOn&& resume_on)
      : stop_(std::move(stop)), resume_on_(std::move(resume_on)) {}
  CoDoWaiter(CoDoWaiter&& not_awaited_yet) noexcept(std::is_nothrow_move_constructible_v<ResumeOn>)
      : CoDoWaiter(std::move(not_awaited_yet.stop_), std::move(not_awaited_yet.resume_on_)) {}
  ~CoDoWaiter() noexcept override = default;

  // The awaiter's destructor calls this, because OnLanded may be called until it returns. True:
  // this waiter has left its call. False: the wait is complete.
  [[gnu::noinline]] bool LeaveOrAwaitDone() noexcept {
    on_stop_.reset();
    if (this->Detach()) return true;
    // The completing thread is a few instructions away.
    for (Backoff backoff; phase_.load(std::memory_order_acquire) != Phase::kDone;) backoff.Pause();
    return false;
  }

  [[gnu::noinline]] void ListenForStop() {
    if (!stop_.stop_possible()) return;
    if constexpr (kMayAskAgain) {
      on_stop_.emplace(stop_, OnStop{this});
    } else {
      on_stop_.emplace(std::move(stop_), OnStop{this});
    }
  }

  // ---- Completing the wait

  // Called once: by OnLanded, or by a Stop that left.
  [[gnu::noinline]] void Complete() noexcept {
    // Acquire pairs with the release in await_suspend of the awaiter, which publishes handle_.
    auto phase = phase_.load(std::memory_order_acquire);
    if (phase == Phase::kJoining && phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    if constexpr (kMayAskAgain) {
      if (phase == Phase::kAsking && phase_.compare_exchange_strong(phase, Phase::kAnswered)) {
        return;
      }
      if (phase == Phase::kLeaving) {
        return phase_.store(Phase::kDone, std::memory_order_release);
      }
    }
    Resume();
  }

  void Resume() noexcept {
    const std::coroutine_handle<> handle = handle_;
    ResumeOn resume_on(std::move(resume_on_));
    // From here on the frame may be destroyed. Release pairs with the acquire in the destructor.
    phase_.store(Phase::kDone, std::memory_order_release);
    std::invoke(resume_on, handle);
  }

  // ---- Asking again, once, after the call has failed

  // The thread that asks again does not touch this object any more.
  void HandOver() noexcept {
    auto phase = Phase::kAsking;
    if (!phase_.compare_exchange_strong(phase, Phase::kSuspended)) Resume();  // kAnswered
  }

  // Makes this a caller that leaves. Waits if another thread is asking again.
  void PreventAskingAgain() noexcept {
    Backoff backoff;
    for (;;) {
      auto phase = phase_.load(std::memory_order_acquire);
      if (phase == Phase::kAsking || phase == Phase::kAnswered) {
        backoff.Pause();
      } else if (phase == Phase::kFailed) {  // it was not awaited to the end
        return phase_.store(Phase::kDone);
      } else if (phase == Phase::kDone || phase_.compare_exchange_strong(phase, Phase::kLeaving)) {
        return;
      }
    }
  }

  StopToken stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  bool left_ = false;  // written by Stop, read once complete
  // Why it could not ask again.
  [[no_unique_address]] std::conditional_t<kMayAskAgain, std::exception_ptr, NoError> error_{};

 private:
  struct OnStop {
    CoDoWaiter* self;
    void operator()() const noexcept { self->Stop(); }
  };

  void Stop() noexcept {
    StopSource unwanted(kNoStopState);
    if (!this->Leave(unwanted, LeaveReason::kStop)) return;  // it has landed
    left_ = true;
    Complete();
    unwanted.request_stop();
  }

  [[no_unique_address]] ResumeOn resume_on_;

 protected:
  std::optional<StopCallback<OnStop>> on_stop_;
};

}  // namespace singleflight::detail

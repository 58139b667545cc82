// SPDX-License-Identifier: MIT
#pragma once

// Future and SharedFuture: a caller that joins a call now and waits for it later.
//
//   singleflight::Future<User> future = singleflight::DoAsync(users, "user:42", Load);
//   if (future.WaitFor(50ms) == std::future_status::ready) Render(*future.Get());
//
// Like std::future, but destroying a Future leaves the call and blocks nobody. The last caller to
// leave asks the call to stop. Not a place for continuations: to be called back, use DoThen.
//
// Lifetime: a Future refers to its group only until the call has landed, so it may outlive the
//   group. It must not be destroyed while another thread is destroying the group.

#include <chrono>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <utility>

#include "detail/call.hpp"
#include "detail/errors.hpp"
#include "detail/event.hpp"
#include "detail/future_source.hpp"
#include "detail/saturate.hpp"
#include "detail/wait_graph.hpp"
#include "result.hpp"
#include "timeout.hpp"

namespace singleflight {

template <class Value>
class SharedFuture;

// One caller. Movable. Not for several threads at once: see SharedFuture.
template <class Value>
class [[nodiscard]] Future {
  using State = detail::SharedState<Value>;

 public:
  Future() noexcept = default;  // on no call
  // Used by Group::Join.
  Future(std::shared_ptr<State> joined, Role role) noexcept
      : state_(std::move(joined)), role_(role) {}
  // Used by DoAsync.
  explicit Future(typename detail::FutureSource<Value>::Pointer source) noexcept
      : source_(std::move(source)) {}
  ~Future() { Leave(); }
  Future(Future&& other) noexcept = default;
  Future& operator=(Future&& other) noexcept {
    Future(std::move(other)).Swap(*this);
    return *this;
  }

  // Whether this is on a call. False once it was moved from or its result was taken: waiting and
  // Get then throw std::future_error(no_state).
  [[nodiscard]] bool valid() const noexcept { return state_ != nullptr || source_ != nullptr; }

  // Blocks until the call has landed.
  //
  // Errors: throws `resource_deadlock_would_occur` if the call waits for this thread, directly or
  //   through other calls. So do WaitFor, WaitUntil and Get.
  void Wait() const { Block(std::nullopt); }

  // Waits for at most `timeout`, or until `deadline`, and returns `ready` or `timeout`. This caller
  // stays on the call. As in the standard library, but nothing overflows: what cannot be
  // represented is for ever, or long ago. A NaN has passed. A clock that is set forward meanwhile
  // does not shorten the wait.
  template <class Rep, class Period>
  std::future_status WaitFor(const std::chrono::duration<Rep, Period>& timeout) const {
    return Block(Timeout(timeout).Deadline());
  }
  template <class Clock, class Length>
  std::future_status WaitUntil(const std::chrono::time_point<Clock, Length>& deadline) const {
    for (;;) {  // a clock that was set back, or is slow, has time left
      const std::chrono::nanoseconds left = detail::TimeUntil(deadline);
      const std::future_status status = WaitFor(left);
      if (status == std::future_status::ready || left.count() <= 0) return status;
    }
  }

  // Waits and takes the result. Afterwards this is on no call.
  //
  // Errors: throws what the call's `fn` threw, or `owner_dead` if the leader vanished, for example
  //   because its task was destroyed.
  Result<Value> Get() {
    Wait();
    if (source_ != nullptr) return std::exchange(source_, nullptr)->Take();
    return State::Receive(std::move(state_), role_);
  }

  // Turns this caller into one that several threads can use.
  SharedFuture<Value> Share() && { return SharedFuture<Value>(std::move(*this)); }

 private:
  friend SharedFuture<Value>;

  std::future_status Block(const detail::Deadline& deadline) const {
    if (source_ != nullptr) return source_->Block(deadline);
    if (state_ == nullptr) throw std::future_error(std::future_errc::no_state);
    detail::WaitEdge edge;
    if (!edge.Record(*state_)) std::rethrow_exception(detail::MakeDeadlock());
    return state_->Block(deadline);
  }

  Result<Value> GetShared() const {
    Wait();
    if (source_ != nullptr) return source_->TakeShared();
    return State::ReceiveShared(state_, role_);
  }

  void Swap(Future& other) noexcept {
    state_.swap(other.state_);
    std::swap(role_, other.role_);
    source_.swap(other.source_);
  }

  void Leave() noexcept {
    if (state_ != nullptr) state_->Leave({});
  }

  // At most one of these two is set.
  std::shared_ptr<State> state_;
  typename detail::FutureSource<Value>::Pointer source_;
  Role role_ = Role::kFollower;
};

// Copies count as one caller, which leaves when the last copy is destroyed. All of them may read
// the result, any number of times. It is never copied or moved.
//
// Cost: one allocation when it is made from a Future.
template <class Value>
class [[nodiscard]] SharedFuture {
 public:
  SharedFuture() noexcept = default;
  // NOLINTNEXTLINE(google-explicit-constructor): as std::shared_future does
  SharedFuture(Future<Value>&& future)
      : future_(future.valid() ? std::make_shared<const Future<Value>>(std::move(future))
                               : nullptr) {}

  [[nodiscard]] bool valid() const noexcept { return future_ != nullptr; }

  // Like those of Future.
  void Wait() const { Checked().Wait(); }
  template <class Rep, class Period>
  std::future_status WaitFor(const std::chrono::duration<Rep, Period>& timeout) const {
    return Checked().WaitFor(timeout);
  }
  template <class Clock, class Duration>
  std::future_status WaitUntil(const std::chrono::time_point<Clock, Duration>& deadline) const {
    return Checked().WaitUntil(deadline);
  }

  // Waits and returns the result, which is shared(), because other copies may return it, too.
  //
  // Errors: as Future::Get.
  Result<Value> Get() const { return Checked().GetShared(); }

 private:
  const Future<Value>& Checked() const {
    if (future_ == nullptr) throw std::future_error(std::future_errc::no_state);
    return *future_;
  }

  std::shared_ptr<const Future<Value>> future_;
};

}  // namespace singleflight

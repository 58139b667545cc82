// SPDX-License-Identifier: MIT
#pragma once

// Caller: the handle of a caller that DoThen calls back. With it, the caller can leave at any time.
//
//   class GetUser final : public grpc::ServerUnaryReactor {
//    public:
//     void Start(const std::string& id) {
//       DoThen(caller_, users, id, load, on_pool, [this](KeyResult<User> user) { Reply(user); });
//     }
//     void OnCancel() override {  // on any thread, even while Start or Reply runs
//       if (caller_.Leave()) Finish(grpc::Status::CANCELLED);
//     }
//     void OnDone() override { delete this; }
//
//    private:
//     singleflight::Caller caller_;  // declared last, so destroyed first
//   };
//
// After DoThen, exactly one of these happens: the callback is called, Leave returns true, the
// Caller is destroyed in time, or DoThen itself throws. Not a future: the result goes to the
// callback.

#include <atomic>
#include <bit>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <utility>

#include "detail/async_caller.hpp"
#include "detail/errors.hpp"

namespace singleflight {

// Movable. Destroying it leaves the call, so keep it, or Detach it.
//
// Thread: Leave may be called on several threads at once, also while DoThen or the callback runs.
//   Nothing else may race with another member.
class [[nodiscard]] Caller {
 public:
  Caller() noexcept = default;  // new: not on a call so far

  // Leaves the call. If the callback is running on another thread, waits until it has returned, as
  // ~StopCallback does. So afterwards neither the callback nor a destructor of what it has
  // captured is running. If the callback is running on this thread, this does not wait.
  //
  // Warning: if the callback waits for the thread that destroys its Caller, both wait for ever.
  ~Caller() {
    Leave();
    if (detail::CallerBase* const caller = Get()) caller->AwaitQuiet();
    Detach();
  }
  Caller(Caller&& other) noexcept : state_(other.state_.exchange(kNew)) {}
  Caller& operator=(Caller&& other) noexcept {
    Caller taken(std::move(other));
    taken.state_ = state_.exchange(taken.state_);
    return *this;
  }

  // Leaves the call. True: the callback will not be called, because this caller has left now or
  // before. False: it has been called, is running, or will be called, or DoThen has thrown. Never
  // waits for it.
  //
  // Before DoThen this returns true, too, and DoThen then does nothing. Assign {} to make a Caller
  // new again.
  //
  // Thread: any, also inside the callback. If no caller is left on a call that can be stopped, the
  //   stop is requested on this thread. What the callback has captured is destroyed on this
  //   thread. While a thread is joining for this caller, in DoThen or because it asks again, that
  //   thread does both. They may destroy this Caller.
  // Lifetime: it must not be called while another thread destroys the group. After that, it may.
  bool Leave() noexcept {
    std::uintptr_t state = kNew;
    if (state_.compare_exchange_strong(state, kLeft)) return true;
    if (state <= kFailed) return state == kLeft;
    return std::bit_cast<detail::CallerBase*>(state)->Leave();
  }

  // Gives up the right to leave: the callback will be called, unless this caller has left. Makes
  // the Caller new again.
  void Detach() noexcept {
    if (detail::CallerBase* const caller = Get()) caller->Release();
    state_ = kNew;
  }

  // Used by DoThen. Makes this the handle of the caller that `make()` returns, a unique_ptr.
  // Returns null, and makes none, if this caller has left.
  template <class Make>
  auto Bind(Make&& make) -> decltype(make().get()) {
    std::uintptr_t state = state_;
    if (state == kLeft) return nullptr;
    if (state != kNew) {
      throw std::invalid_argument("singleflight: this Caller was used before: assign {} to it");
    }
    decltype(make()) caller;
    std::exception_ptr error;
    try {
      caller = make();
    } catch (...) {
      error = detail::Caught();
    }
    const auto address =
        reinterpret_cast<std::uintptr_t>(static_cast<detail::CallerBase*>(caller.get()));
    if (!state_.compare_exchange_strong(state, error == nullptr ? address : kFailed))
      return nullptr;
    if (error != nullptr) std::rethrow_exception(std::move(error));
    return caller.release();
  }

 private:
  static constexpr std::uintptr_t kNew = 0;
  static constexpr std::uintptr_t kLeft = 1;    // left before DoThen
  static constexpr std::uintptr_t kFailed = 2;  // DoThen threw before it could join

  // Null if there is none.
  detail::CallerBase* Get() const noexcept {
    const std::uintptr_t state = state_;
    return state > kFailed ? std::bit_cast<detail::CallerBase*>(state) : nullptr;
  }

  // States: the three above, or the address of a CallerBase, with a reference to it.
  std::atomic<std::uintptr_t> state_ = kNew;
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT

// An AsyncDo in progress that may ask again, or whose group launches later.
//
// A part of asio.hpp and of boost_asio.hpp: see context.hpp.

#include <exception>
#include <memory>
#include <type_traits>
#include <utility>

#include "../../../listener.hpp"
#include "../../../stop_token.hpp"
#include "../../later_launch.hpp"
#include "../context_users.hpp"

namespace singleflight::detail::SINGLEFLIGHT_ASIO {

// A caller that may ask again, or whose group launches later. It asks again inside OnLanded, if at
// all. Meanwhile its contexts are pinned, so no shutdown comes, and its phase makes all others
// leave it to that thread.
template <class G, class Handler, class Executor, class Fn, class FnExecutor, bool kMayAskAgain>
class AsyncDoTwice final : public AsyncDoCaller<G, Handler, Executor, FnExecutor> {
  using Caller = AsyncDoCaller<G, Handler, Executor, FnExecutor>;
  using Phase = AskingPhase;

 public:
  // `retry` is what a LaunchTwice takes besides.
  template <class H, class... Retry>
  AsyncDoTwice(H&& handler, const Executor& executor, Fn&& fn, const FnExecutor& fn_executor,
               Retry&&... retry)
      : Caller(std::forward<H>(handler), executor, fn_executor),
        launch_(std::move(fn), fn_executor, std::forward<Retry>(retry)...) {}
  ~AsyncDoTwice() noexcept override = default;  // even if that of `fn` may throw

  // Joins by `join(operation, what it keeps, launch)`.
  template <class Join>
  static void Start(std::shared_ptr<AsyncDoTwice> self, const Join& join) {
    AsyncDoTwice& op = *self;
    op.launch_.Watch(op.Users());
    Caller::StartBy(std::move(self), [&op, &join] {
      if constexpr (LaunchesLater<G>) {
        const auto launch = op.launch_.Launching();  // `op` may be gone before Join returns
        join(op, op.launch_, launch);
      } else {
        join(op, op.launch_, op.launch_);
      }
    });
  }

 private:
  void OnLanded() noexcept override {
    if constexpr (kMayAskAgain) {
      if (this->AsksAgain()) return AskAgain();
      if (IsAnswered()) return;
    }
    Complete();
  }

  void Cancel() noexcept override {
    if constexpr (kMayAskAgain) {
      if (!StartsLeaving()) return;
    }
    Caller::Cancel();
  }

  void Complete() override {
    if constexpr (kMayAskAgain) launch_.Drop();
    Caller::Complete();
  }

  // ---- Asking again, on the thread that has landed the failed call

  void AskAgain() noexcept requires kMayAskAgain {
    ContextPin pin;  // neither is held while a stop request or a failed launch runs others' code
    ContextPin pin_of_fn;
    auto phase = Phase::kWaiting;
    if (!launch_.phase.compare_exchange_strong(phase, Phase::kAsking)) {  // kLeaving
      this->SetAborted();
      return CompleteWithoutAsking();
    }
    if (!pin.TryPin(this->Users()) || !launch_.TryPin(pin_of_fn)) return CompleteWithoutAsking();
    StopSource unwanted(kNoStopState);
    bool handed_over = false;
    try {
      const typename G::KeyType key(std::move(launch_.key));
      if constexpr (LaunchesLater<G>) {
        launch_.group.JoinAgain(key, *this, launch_.Launching());
      } else {
        launch_.group.JoinAgain(key, *this, [&](typename G::Lead lead) {
          ContextPin pinned;
          ContextPin pinned_of_fn;
          auto launching = launch_.Take();
          pinned = std::move(pin);
          pinned_of_fn = std::move(pin_of_fn);
          handed_over = true;
          HandOver(unwanted);
          launching.launch(std::move(lead));
        });
      }
      if (handed_over) return;
    } catch (...) {
      this->SetError(std::current_exception());
    }
    if (this->HasError()) return CompleteWithoutAsking();
    HandOver(unwanted);
    pin = {};
    pin_of_fn = {};
    unwanted.request_stop();
  }

  void CompleteWithoutAsking() noexcept requires kMayAskAgain {
    launch_.group.GiveUp(*this);
    Complete();
  }

  // Nobody completes this operation while the thread that asks again has it. What has happened
  // meanwhile, that thread does now. Nothing may access this object afterwards.
  void HandOver(StopSource& unwanted) noexcept requires kMayAskAgain {
    auto phase = Phase::kAsking;
    if (launch_.phase.compare_exchange_strong(phase, Phase::kWaiting)) return;
    if (phase == Phase::kCanceled) {
      if (this->Leave(unwanted, singleflight::LeaveReason::kStop)) {
        this->SetAborted();
      } else if (launch_.phase.compare_exchange_strong(phase, Phase::kWaiting)) {
        return;  // OnLanded is about to come
      }
    }
    Complete();
  }

  // Called by OnLanded for the last call. True: the thread that asks again completes.
  bool IsAnswered() noexcept requires kMayAskAgain {
    auto phase = launch_.phase.load();
    while (phase == Phase::kAsking || phase == Phase::kCanceled) {
      if (launch_.phase.compare_exchange_weak(phase, Phase::kAnswered)) return true;
    }
    return false;
  }

  // Called by Cancel. False: the thread that asks again leaves, or it is too late.
  bool StartsLeaving() noexcept requires kMayAskAgain {
    auto phase = launch_.phase.load();
    for (;;) {
      if (phase != Phase::kWaiting && phase != Phase::kAsking) return false;
      const bool leaves = phase == Phase::kWaiting;
      if (launch_.phase.compare_exchange_weak(phase, leaves ? Phase::kLeaving : Phase::kCanceled)) {
        return leaves;
      }
    }
  }

  std::conditional_t<LaunchesLater<G>, LaterLaunch<G, Fn, FnExecutor>,
                     LaunchTwice<G, Fn, FnExecutor>>
      launch_;
};

}  // namespace singleflight::detail::SINGLEFLIGHT_ASIO

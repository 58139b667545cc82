// SPDX-License-Identifier: MIT
#pragma once

// What CoDo returns, and what awaits it.

#include <atomic>
#include <concepts>
#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>

#include "../../listener.hpp"
#include "../../options.hpp"
#include "../../result.hpp"
#include "../../stop_token.hpp"
#include "../awaitable.hpp"
#include "../backoff.hpp"
#include "../errors.hpp"
#include "../invoke.hpp"
#include "../later_launch.hpp"
#include "../task.hpp"

namespace singleflight::detail {

// The executor of a CoDo that has none.
struct OnThisThread {};

// The executor of such a CoDo if the group launches later, elsewhere.
template <class G>
class GroupExecutor {
 public:
  explicit GroupExecutor(G& group) noexcept : group_(&group) {}
  template <class Task>
  void operator()(Task task) const {
    group_->Execute(std::move(task));
  }

 private:
  G* group_;
};

// The type of `on_failure` of a CoDo that has none.
struct ShareFailure {};

// What an executor receives.
template <class G, class Fn>
using CoDoTask = std::conditional_t<detail::ReturnsAwaitable<typename G::ValueType, Fn>(),
                                    StartTask, Task<G, Fn>>;

// What a leader does: runs `fn` on this thread, or gives it to an executor.
template <class G, class Fn, class Executor>
class CoDoWork {
  using Kept = std::decay_t<Fn>;
  using Lead = typename G::Lead;

 public:
  CoDoWork(Fn&& fn, Executor&& executor)
      : fn_(std::forward<Fn>(fn)), executor_(std::forward<Executor>(executor)) {}

  void operator()(Lead lead) {
    constexpr bool kIsAwaited = detail::ReturnsAwaitable<typename G::ValueType, Kept>();
    // At once, not when the work starts: from here on the call can be asked to stop. (A Task takes
    // the token itself.)
    if constexpr (kTakesStopToken<Kept> && (kIsAwaited || std::same_as<Executor, OnThisThread>)) {
      static_cast<void>(lead.GetStopToken());
    }
    if constexpr (kIsAwaited) {
      Start(detail::Drive<typename G::ValueType>(
          DriverWork<Lead, Kept>(std::move(lead), std::forward<Fn>(fn_))));
    } else if constexpr (std::same_as<Executor, OnThisThread>) {
      if constexpr (requires { requires Lead::kMayBeBackground; }) {
        if (const auto hook = lead.Hook(); hook.IsBackground()) {
          return hook.RunInBackground(Task<G, Kept>(std::move(lead), std::forward<Fn>(fn_)));
        }
      }
      lead.Run(std::forward<Fn>(fn_));
    } else {
      Give(Task<G, Kept>(std::move(lead), std::forward<Fn>(fn_)));
    }
  }

 private:
  void Start(Driver driver) {
    if constexpr (std::same_as<Executor, OnThisThread>) {
      driver.Start();
    } else {
      const StartTask task(std::move(driver));
      try {
        Give(StartTask(task));
      } catch (...) {
        task.Drop();  // the call has failed, so the executor must not start it later
        throw;
      }
    }
  }

  template <class ItsTask>
  void Give(ItsTask&& task) {
    std::invoke(std::forward<Executor>(executor_), std::forward<ItsTask>(task));
  }

  Fn fn_;
  [[no_unique_address]] Executor executor_;
};

template <class Call>
class CoDoAwaiter;

// The arguments of CoDo: those that were temporaries by value, the others by reference. So it may
// be moved, also out of the co_await expression. It is not itself the awaiter, because GCC 12 would
// copy one that an await_transform passes on.
//
// If it has an OnFailure, it has `fn` and the executor by value: a thread that asks again uses them
// when the frame may have been destroyed.
template <class GroupArg, class K, class Fn, class Executor, class ResumeOnArg, class OnFailureArg>
class [[nodiscard]] CoDoCall {
 public:
  using Work = CoDoWork<GroupArg, Fn, Executor>;
  using Group = GroupArg;
  using ResumeOn = ResumeOnArg;
  static constexpr bool kMayAskAgain = std::same_as<OnFailureArg, OnFailure>;

  template <class R>
  CoDoCall(Group& its_group, K&& its_key, Fn&& fn, Executor&& executor, StopToken&& its_stop,
           R&& its_resume_on, OnFailureArg its_on_failure)
      : group(its_group),
        key(std::forward<K>(its_key)),
        work(std::forward<Fn>(fn), std::forward<Executor>(executor)),
        stop(std::move(its_stop)),
        resume_on(std::forward<R>(its_resume_on)),
        on_failure(its_on_failure) {}

  auto operator co_await() && { return CoDoAwaiter<CoDoCall>(std::move(*this)); }
  // Awaiting it without moving it asks with copies.
  auto operator co_await() const& requires std::is_copy_constructible_v<K> &&
      std::is_copy_constructible_v<Work> && std::is_copy_constructible_v<ResumeOn> {
    return CoDoAwaiter<CoDoCall>(CoDoCall(*this));
  }

  Group& group;
  K key;
  Work work;
  StopToken stop;
  [[no_unique_address]] ResumeOn resume_on;
  [[no_unique_address]] OnFailureArg on_failure;
};

// A caller in a coroutine: the awaiter in its frame is the waiter. The frame may be destroyed while
// it is suspended here.
template <class Call>
class CoDoAwaiter final : public Call::Group::Waiter {
  using Group = typename Call::Group;
  using Lead = typename Group::Lead;
  using ResumeOn = typename Call::ResumeOn;
  using Work = typename Call::Work;
  static constexpr bool kLaunchesLater = LaunchesLater<Group>;

 public:
  explicit CoDoAwaiter(Call&& call) : call_(std::move(call)) {}
  CoDoAwaiter(CoDoAwaiter&& not_awaited_yet) noexcept(std::is_nothrow_move_constructible_v<Call>)
      : call_(std::move(not_awaited_yet.call_)) {}

  ~CoDoAwaiter() noexcept override {
    if constexpr (Call::kMayAskAgain) PreventAskingAgain();
    on_stop_.reset();
    if (this->Detach()) return;
    // The completing thread is a few instructions away.
    for (Backoff backoff; phase_.load(std::memory_order_acquire) != Phase::kDone;) backoff.Pause();
    if constexpr (Call::kMayAskAgain) {
      if (this->AsksAgain()) call_.group.GiveUp(*this);
    }
  }

  bool await_ready() {
    if (call_.stop.stop_requested()) {
      left_ = true;
      return true;
    }
    if constexpr (kLaunchesLater) {
      launch_.emplace(std::move(call_.work));
      Join(*launch_);
      ListenForStop();
      return phase_ == Phase::kDone;
    }
    const auto launch = [this](Lead lead) { LaunchHere(std::move(lead)); };
    if (Join(launch) == Role::kFollower) ListenForStop();
    return phase_ == Phase::kDone;
  }

  bool await_suspend(std::coroutine_handle<> handle) noexcept {
    handle_ = handle;
    auto phase = Phase::kJoining;
    if (phase_.compare_exchange_strong(phase, Phase::kSuspended)) return true;
    if constexpr (Call::kMayAskAgain) {
      if (phase == Phase::kFailed) return AskAgainHere();
    }
    return false;
  }

  Result<typename Group::ValueType> await_resume() {
    on_stop_.reset();  // waits for a Stop in progress
    if (left_) std::rethrow_exception(detail::MakeCanceled());
    if constexpr (Call::kMayAskAgain) {
      if (error_ != nullptr) std::rethrow_exception(std::move(error_));
    }
    return this->TakeResult();
  }

 private:
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

  struct OnStop {
    CoDoAwaiter* self;
    void operator()() const noexcept { self->Stop(); }
  };

  // ---- Joining

  template <class Launch>
  Role Join(const Launch& launch) {
    if constexpr (Call::kMayAskAgain) {
      return call_.group.Join(std::as_const(call_.key), *this, launch, call_.on_failure);
    } else {
      return call_.group.Join(std::as_const(call_.key), *this, launch);
    }
  }

  // What a leader does on the coroutine's thread.
  void LaunchHere(Lead lead) {
    ListenForStop();  // before `fn`, which may run on this thread
    call_.work(std::move(lead));
  }

  void ListenForStop() {
    if (!call_.stop.stop_possible()) return;
    if constexpr (Call::kMayAskAgain) {
      on_stop_.emplace(call_.stop, OnStop{this});
    } else {
      on_stop_.emplace(std::move(call_.stop), OnStop{this});
    }
  }

  // ---- Completing the wait

  void OnLanded() noexcept override {
    if constexpr (Call::kMayAskAgain) {
      if (this->AsksAgain()) return OnFailed();
    }
    Complete();
  }

  void Stop() noexcept {
    StopSource unwanted(kNoStopState);
    if (!this->Leave(unwanted, LeaveReason::kStop)) return;  // it has landed
    left_ = true;
    Complete();
    unwanted.request_stop();
  }

  // Called once: by OnLanded, or by a Stop that left.
  void Complete() noexcept {
    // Acquire pairs with the release in await_suspend, which publishes handle_.
    auto phase = phase_.load(std::memory_order_acquire);
    if (phase == Phase::kJoining && phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    if constexpr (Call::kMayAskAgain) {
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
    ResumeOn resume_on(std::move(call_.resume_on));
    // From here on the frame may be destroyed. Release pairs with the acquire in the destructor.
    phase_.store(Phase::kDone, std::memory_order_release);
    std::invoke(resume_on, handle);
  }

  // ---- Asking again, once, after the call has failed

  void OnFailed() noexcept {
    auto phase = phase_.load(std::memory_order_acquire);
    if (phase == Phase::kJoining && phase_.compare_exchange_strong(phase, Phase::kFailed)) return;
    if (phase == Phase::kSuspended && phase_.compare_exchange_strong(phase, Phase::kAsking)) {
      return AskAgainSuspended();
    }
    phase_.store(Phase::kDone, std::memory_order_release);  // kLeaving: the destructor gives up
  }

  // On the coroutine's thread, inside await_suspend. False: the coroutine must not suspend.
  bool AskAgainHere() noexcept {
    phase_.store(Phase::kJoining);
    if constexpr (kLaunchesLater) return AskAgainLater();
    const auto launch = [this](Lead lead) { LaunchHere(std::move(lead)); };
    auto phase = Phase::kJoining;
    if (AskAgain(launch)) return phase_.compare_exchange_strong(phase, Phase::kSuspended);
    phase_.store(Phase::kDone);
    return false;
  }

  bool AskAgainLater() noexcept {
    auto phase = Phase::kJoining;
    if (AskAgain(*launch_)) return phase_.compare_exchange_strong(phase, Phase::kSuspended);
    phase_.store(Phase::kDone);
    return false;
  }

  // On the thread that has landed the failed call. Nobody else destroys the frame or resumes the
  // coroutine until HandOver. That comes before `fn`, which may take long.
  void AskAgainSuspended() noexcept {
    if constexpr (kLaunchesLater) {
      if (AskAgain(*launch_)) {
        HandOver();
      } else {
        Resume();
      }
      return;
    }
    bool handed_over = false;
    const auto launch = [this, &handed_over](Lead lead) {
      ListenForStop();
      auto work = std::move(call_.work);
      handed_over = true;
      HandOver();
      work(std::move(lead));
    };
    const bool joined = AskAgain(launch);
    if (handed_over) return;
    if (joined) {
      HandOver();
    } else {
      Resume();
    }
  }

  void HandOver() noexcept {
    auto phase = Phase::kAsking;
    if (!phase_.compare_exchange_strong(phase, Phase::kSuspended)) Resume();  // kAnswered
  }

  // False: it did not join, and the wait is complete.
  template <class Launch>
  bool AskAgain(const Launch& launch) noexcept {
    on_stop_.reset();  // a Stop must not race with JoinAgain
    if (call_.stop.stop_requested()) {
      call_.group.GiveUp(*this);
      left_ = true;
      return false;
    }
    try {
      const Role role = call_.group.JoinAgain(std::as_const(call_.key), *this, launch);
      if (kLaunchesLater || role == Role::kFollower) ListenForStop();
      return true;
    } catch (...) {
      error_ = std::current_exception();
      return false;
    }
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

  struct NoLaunch {};
  using Launch = std::conditional_t<kLaunchesLater, std::optional<SharedLaunch<Work>>, NoLaunch>;
  using Error = std::conditional_t<Call::kMayAskAgain, std::exception_ptr, ShareFailure>;

  Call call_;
  [[no_unique_address]] Launch launch_;
  std::optional<StopCallback<OnStop>> on_stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  bool left_ = false;                    // written by Stop, read once complete
  [[no_unique_address]] Error error_{};  // why it could not ask again
};

}  // namespace singleflight::detail

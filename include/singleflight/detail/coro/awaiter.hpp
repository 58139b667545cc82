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
#include "waiter.hpp"

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
  using Key = K;
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
class CoDoAwaiter final
    : public CoDoWaiter<typename Call::Group, typename Call::ResumeOn, Call::kMayAskAgain> {
  using Base = CoDoWaiter<typename Call::Group, typename Call::ResumeOn, Call::kMayAskAgain>;
  using Group = typename Call::Group;
  using Key = typename Call::Key;
  using Lead = typename Group::Lead;
  using Work = typename Call::Work;
  using typename Base::Phase;
  static constexpr bool kLaunchesLater = LaunchesLater<Group>;

 public:
  explicit CoDoAwaiter(Call&& call)
      : Base(std::move(call.stop), std::move(call.resume_on)),
        group_(call.group),
        key_(std::forward<Key>(call.key)),
        work_(std::move(call.work)),
        on_failure_(call.on_failure) {}
  CoDoAwaiter(CoDoAwaiter&& not_awaited_yet) noexcept(std::is_nothrow_move_constructible_v<Call>)
      : Base(std::move(not_awaited_yet)),
        group_(not_awaited_yet.group_),
        key_(std::forward<Key>(not_awaited_yet.key_)),
        work_(std::move(not_awaited_yet.work_)),
        on_failure_(not_awaited_yet.on_failure_) {}

  ~CoDoAwaiter() noexcept override {
    if constexpr (Call::kMayAskAgain) PreventAskingAgain();
    if (LeaveOrAwaitDone()) return;
    if constexpr (Call::kMayAskAgain) {
      if (this->AsksAgain()) group_.GiveUp(*this);
    }
  }

  bool await_ready() {
    if (stop_.stop_requested()) {
      left_ = true;
      return true;
    }
    if constexpr (kLaunchesLater) {
      launch_.emplace(std::move(work_));
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

 private:
  using Base::HandOver, Base::PreventAskingAgain;
  using Base::ListenForStop, Base::LeaveOrAwaitDone, Base::Complete, Base::Resume;
  using Base::phase_, Base::handle_, Base::left_, Base::stop_, Base::on_stop_, Base::error_;

  // ---- Joining

  template <class ItsLaunch>
  Role Join(const ItsLaunch& launch) {
    if constexpr (Call::kMayAskAgain) {
      return group_.Join(std::as_const(key_), *this, launch, on_failure_);
    } else {
      return group_.Join(std::as_const(key_), *this, launch);
    }
  }

  // What a leader does on the coroutine's thread.
  void LaunchHere(Lead lead) {
    ListenForStop();  // before `fn`, which may run on this thread
    work_(std::move(lead));
  }

  // ---- When the call has landed

  void OnLanded() noexcept override {
    if constexpr (Call::kMayAskAgain) {
      if (this->AsksAgain()) return OnFailed();
    }
    Complete();
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
      auto work = std::move(work_);
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

  // False: it did not join, and the wait is complete.
  template <class ItsLaunch>
  bool AskAgain(const ItsLaunch& launch) noexcept {
    on_stop_.reset();  // a Stop must not race with JoinAgain
    if (stop_.stop_requested()) {
      group_.GiveUp(*this);
      left_ = true;
      return false;
    }
    try {
      const Role role = group_.JoinAgain(std::as_const(key_), *this, launch);
      if (kLaunchesLater || role == Role::kFollower) ListenForStop();
      return true;
    } catch (...) {
      error_ = std::current_exception();
      return false;
    }
  }

  struct NoLaunch {};
  using Launch = std::conditional_t<kLaunchesLater, std::optional<SharedLaunch<Work>>, NoLaunch>;

  Group& group_;
  Key key_;
  Work work_;
  [[no_unique_address]] decltype(Call::on_failure) on_failure_;
  [[no_unique_address]] Launch launch_;
};

}  // namespace singleflight::detail

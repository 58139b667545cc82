// SPDX-License-Identifier: MIT
#pragma once

#include "detail/require_cxx20.hpp"  // first: <coroutine> reports an older standard misleadingly

// CoDo: waits for a call in a coroutine, without blocking a thread.
//
//   Task<Page> Handle(Request request) {
//     const auto load = [id = request.id] { return LoadUser(id); };  // a task, or a User
//     auto [user, shared] = co_await singleflight::CoDo(users, request.id, load);
//     co_return Render(user);
//   }
//
// Works in any coroutine type that can await foreign awaitables, whatever its await_transform does
// with them. It joins the same calls as Do.
//
// There is no timeout, because the timer belongs to your event loop. Let it request the stop:
//
//   std::stop_source stop;
//   auto timer = loop.After(50ms, [stop]() mutable { stop.request_stop(); });
//   auto user = co_await singleflight::CoDo(users, request.id, load, stop.get_token());
//
// The coroutine resumes on the thread that lands the call, unless you pass a function that posts it
// to your loop. With Qt, post `[handle] { handle.resume(); }` by QMetaObject::invokeMethod.
//
//   const auto post = [&loop](std::coroutine_handle<> handle) { loop.Post(handle); };
//   auto user = co_await singleflight::CoDo(users, request.id, load, token, post);
//
// A plain `fn` runs on the thread that awaits. If it blocks, let an executor run it elsewhere:
//
//   const auto pool = [&workers](auto task) { workers.Post(task); };
//   auto user = co_await singleflight::CoDo(users, request.id, load_and_block, pool, token, post);
//
// Warning: GCC 12 and 13 destroy some temporaries in a co_await expression twice, which corrupts
// the heap. Before you await, name a lambda that captures by value, and a key that is an aggregate,
// even one in braces. This applies to your own co_await expressions, too.

#include <atomic>
#include <concepts>
#include <coroutine>
#include <exception>
#include <functional>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>

#include "detail/awaitable.hpp"
#include "detail/backoff.hpp"
#include "detail/call.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/resume_inline.hpp"
#include "detail/task.hpp"
#include "group.hpp"
#include "result.hpp"

namespace singleflight {

namespace detail {

// What is not a stop token may be an executor.
template <class T>
concept NotStopToken = !std::convertible_to<T, std::stop_token>;

// The executor of a CoDo that has none.
struct OnThisThread {};

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
    // At once, not when the work starts: from here on the call can be asked to stop.
    if constexpr (kTakesStopToken<Kept>) static_cast<void>(lead.GetStopToken());
    if constexpr (detail::ReturnsAwaitable<typename G::ValueType, Kept>()) {
      Start(detail::Drive<typename G::ValueType>(
          DriverWork<Lead, Kept>(std::move(lead), std::forward<Fn>(fn_))));
    } else if constexpr (std::same_as<Executor, OnThisThread>) {
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
template <class GroupArg, class K, class Fn, class Executor, class ResumeOnArg>
class [[nodiscard]] CoDoCall {
  using Work = CoDoWork<GroupArg, Fn, Executor>;

 public:
  using Group = GroupArg;
  using ResumeOn = ResumeOnArg;

  template <class R>
  CoDoCall(Group& its_group, K&& its_key, Fn&& fn, Executor&& executor, std::stop_token&& its_stop,
           R&& its_resume_on)
      : group(its_group),
        key(std::forward<K>(its_key)),
        work(std::forward<Fn>(fn), std::forward<Executor>(executor)),
        stop(std::move(its_stop)),
        resume_on(std::forward<R>(its_resume_on)) {}

  auto operator co_await() && { return CoDoAwaiter<CoDoCall>(std::move(*this)); }
  // Awaiting it without moving it asks with copies.
  auto operator co_await() const& requires std::is_copy_constructible_v<K> &&
      std::is_copy_constructible_v<Work> && std::is_copy_constructible_v<ResumeOn> {
    return CoDoAwaiter<CoDoCall>(CoDoCall(*this));
  }

  Group& group;
  K key;
  Work work;
  std::stop_token stop;
  [[no_unique_address]] ResumeOn resume_on;
};

// A caller in a coroutine: the awaiter in its frame is the waiter. The frame may be destroyed while
// it is suspended here.
template <class Call>
class CoDoAwaiter final : public Call::Group::Waiter {
  using Group = typename Call::Group;
  using ResumeOn = typename Call::ResumeOn;

 public:
  explicit CoDoAwaiter(Call&& call) : call_(std::move(call)) {}
  CoDoAwaiter(CoDoAwaiter&& not_awaited_yet) : call_(std::move(not_awaited_yet.call_)) {}

  ~CoDoAwaiter() noexcept override {
    on_stop_.reset();
    if (this->Detach()) return;
    // The completing thread is a few instructions away.
    for (Backoff backoff; phase_.load(std::memory_order_acquire) != Phase::kDone;) backoff.Pause();
  }

  bool await_ready() {
    if (call_.stop.stop_requested()) {
      left_ = true;
      return true;
    }
    const Role role =
        call_.group.Join(std::as_const(call_.key), *this, [this](typename Group::Lead lead) {
          ListenForStop();  // before `fn`, which may run on this thread
          call_.work(std::move(lead));
        });
    if (role == Role::kFollower) ListenForStop();
    return phase_ == Phase::kDone;
  }

  bool await_suspend(std::coroutine_handle<> handle) noexcept {
    handle_ = handle;
    auto expected = Phase::kJoining;
    return phase_.compare_exchange_strong(expected, Phase::kSuspended);
  }

  Result<typename Group::ValueType> await_resume() {
    on_stop_.reset();  // waits for a Stop in progress
    if (left_) std::rethrow_exception(detail::MakeCanceled());
    return this->TakeResult();
  }

 private:
  // kJoining: the coroutine is running, and will not suspend if the call lands now. kSuspended: the
  // thread that completes the wait resumes it. kDone: the wait is complete, and the thread that
  // completed it no longer touches this object.
  enum class Phase : unsigned char { kJoining, kSuspended, kDone };

  struct OnStop {
    CoDoAwaiter* self;
    void operator()() const noexcept { self->Stop(); }
  };

  void ListenForStop() {
    if (call_.stop.stop_possible()) on_stop_.emplace(std::move(call_.stop), OnStop{this});
  }

  void OnLanded() noexcept override { Complete(); }

  void Stop() noexcept {
    std::stop_source unwanted(std::nostopstate);
    if (!this->Leave(unwanted)) return;  // it has landed
    left_ = true;
    Complete();
    unwanted.request_stop();
  }

  // Called once: by OnLanded, or by a Stop that left.
  void Complete() noexcept {
    // Acquire pairs with the release in await_suspend, which publishes handle_.
    auto phase = phase_.load(std::memory_order_acquire);
    if (phase == Phase::kJoining && phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    const std::coroutine_handle<> handle = handle_;
    ResumeOn resume_on(std::move(call_.resume_on));
    // From here on the frame may be destroyed. Release pairs with the acquire in the destructor.
    phase_.store(Phase::kDone, std::memory_order_release);
    std::invoke(resume_on, handle);
  }

  Call call_;
  std::optional<std::stop_callback<OnStop>> on_stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  bool left_ = false;  // written by Stop, read once complete
};

template <class G, class K, class Fn, class Executor, class ResumeOn>
constexpr void CheckCoDo() {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  using Resume = std::decay_t<ResumeOn>;
  constexpr bool kIsHere = std::same_as<Executor, OnThisThread>;
  constexpr bool kIsAwaited = detail::ReturnsAwaitable<Value, Kept>();
  if constexpr (!kIsAwaited) detail::CheckFn<Value, std::conditional_t<kIsHere, Fn, Kept>>();
  if constexpr (kIsAwaited || !kIsHere || !std::is_lvalue_reference_v<Fn>) {
    detail::CheckKept<Fn>();
  }
  static_assert(
      std::is_lvalue_reference_v<K> || std::constructible_from<K, K>,
      "CoDo keeps a key that is a temporary, and this one cannot be moved: name it first");
  static_assert(kIsHere || std::is_invocable_v<Executor, CoDoTask<G, Kept>>,
                "executor must be callable as executor(task), where task is copyable and callable "
                "without arguments");
  static_assert(std::is_lvalue_reference_v<Executor> || std::constructible_from<Executor, Executor>,
                "CoDo keeps an executor that is a temporary, and this one cannot be moved: name it "
                "first");
  static_assert(std::is_invocable_v<Resume&, std::coroutine_handle<>>,
                "resume_on must be callable as resume_on(std::coroutine_handle<>)");
  static_assert(std::constructible_from<Resume, ResumeOn>,
                "CoDo keeps resume_on: pass one that can be copied, or std::move it");
  static_assert(
      !std::constructible_from<Resume, ResumeOn> || std::is_nothrow_move_constructible_v<Resume>,
      "resume_on is moved where nothing may throw: make its move noexcept");
}

template <class G, class K, class Fn, class Executor, class ResumeOn>
auto MakeCoDoCall(G& group, K&& key, Fn&& fn, Executor&& executor, std::stop_token&& stop,
                  ResumeOn&& resume_on) {
  detail::CheckCoDo<G, K, Fn, Executor, ResumeOn>();
  return CoDoCall<G, K, Fn, Executor, std::decay_t<ResumeOn>>(
      group, std::forward<K>(key), std::forward<Fn>(fn), std::forward<Executor>(executor),
      std::move(stop), std::forward<ResumeOn>(resume_on));
}

}  // namespace detail

// co_await CoDo(...) returns the result of the call in flight for `key`. If there is none, it makes
// one, whose work is `fn()`, or `fn(std::stop_token)` if it accepts that. `fn` returns what
// converts to Value, or an awaitable of it. `key` is anything that Do accepts. Nothing happens
// before the co_await.
//
// Thread: a plain `fn` runs on this thread, inside co_await. An awaitable one starts here and
//   continues wherever it is resumed. A follower's `fn` never runs. If the call lands before this
//   coroutine has suspended, the coroutine continues at once. Otherwise
//   `resume_on(std::coroutine_handle<>)` is called, on the thread that lands the call or requests
//   `stop`, with no lock held and outside any catch block. `resume_on` must not throw, nor wait for
//   the coroutine. The other waiters are notified after it returns. With ResumeInline, that is when
//   the coroutine suspends again.
// Leaving: request `stop`, or destroy the coroutine's frame. The call continues for the others. If
//   no caller is left, a stop is requested of the token that `fn` takes.
// Errors: throws what `fn` threw, `operation_canceled` if this caller left,
//   `resource_unavailable_try_again` if a limit refused it, or `owner_dead` if the work was
//   destroyed. Throws what copying the key or an allocation threw. An exception that escapes the
//   resumed coroutine terminates the program. So does cancelling a thread inside an awaitable `fn`,
//   as in any coroutine.
// Lifetime: what CoDo returns holds the arguments that are temporaries, and refers to the others,
//   which must live until co_await returns. So it may be moved, and awaited later or by another
//   coroutine. No caller owns the work, so an awaitable `fn` must own what it needs. ~Group waits
//   for the calls. If the thread that destroys the group also runs the loop that resumes their
//   work, it must first run the loop until they have landed. Request no stop while another thread
//   destroys the group.
//
// Warning: a call that waits for itself through coroutines is not detected. An awaitable `fn` must
// neither await nor block for its own key.
//
// Warning: a frame may be destroyed while it is suspended here. But if another thread lands the
// call or requests the stop at that moment, `resume_on` may receive the handle of a frame that no
// longer exists, and must detect that. With ResumeInline, make sure that this cannot happen. A
// thread that destroys a frame waits for a stop in progress, so it must not hold a lock that
// `resume_on` takes.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn,
          class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, std::stop_token stop = std::stop_token(),
          ResumeOn&& resume_on = ResumeOn()) {
  return detail::MakeCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                              detail::OnThisThread(), std::move(stop),
                              std::forward<ResumeOn>(resume_on));
}

// The same, but `fn` runs on an executor, as in DoAsync. It is an executor, and not `stop`, if it
// does not convert to a std::stop_token.
//
// Thread: a leader calls `executor(task)` on this thread, inside co_await. A plain `fn` runs where
//   `task()` is called, and an awaitable one starts there. `task` is copyable and takes no
//   arguments. However often it is called, it works once. A follower's executor is not used.
// Errors: what the executor throws is the call's failure. If the task is destroyed before it has
//   run, the callers get `owner_dead`.
// Lifetime: the call keeps a copy of `fn`, which must own what it needs. ~Group waits for the task,
//   so declare a pool before the groups that it works for.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn,
          detail::NotStopToken Executor, class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, Executor&& executor, std::stop_token stop = std::stop_token(),
          ResumeOn&& resume_on = ResumeOn()) {
  return detail::MakeCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                              std::forward<Executor>(executor), std::move(stop),
                              std::forward<ResumeOn>(resume_on));
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = typename B::KeyType, class ResumeOn = ResumeInline>
auto CoDo(B& batcher, K&& key, const std::stop_token& stop = std::stop_token(),
          ResumeOn&& resume_on = ResumeOn()) {
  return singleflight::CoDo(batcher.AsGroup(), std::forward<K>(key),
                            detail::kUnusedFn<typename B::ValueType>, stop,
                            std::forward<ResumeOn>(resume_on));
}

}  // namespace singleflight

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
// Works in any coroutine type that can await foreign awaitables. It joins the same calls as Do.
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
// Warning: a plain `fn` runs on the thread that awaits. For work that blocks, return an awaitable
// that resumes elsewhere.
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
#include <thread>
#include <type_traits>
#include <utility>

#include "detail/call.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "group.hpp"
#include "result.hpp"

namespace singleflight {

// Resumes the coroutine at once, on the current thread.
struct ResumeInline {
  void operator()(std::coroutine_handle<> handle) const { handle.resume(); }
};

namespace detail {

template <class T>
decltype(auto) AwaiterOf(T&& awaitable) {
  if constexpr (requires { std::forward<T>(awaitable).operator co_await(); }) {
    return std::forward<T>(awaitable).operator co_await();
  } else if constexpr (requires { operator co_await(std::forward<T>(awaitable)); }) {
    return operator co_await(std::forward<T>(awaitable));
  } else {
    return std::forward<T>(awaitable);
  }
}

template <class T>
concept Awaitable = requires(T&& awaitable) {
  { detail::AwaiterOf(std::forward<T>(awaitable)).await_ready() } -> std::convertible_to<bool>;
  detail::AwaiterOf(std::forward<T>(awaitable)).await_resume();
};

// Whether what `fn` returns must be awaited for the Value.
template <class Value, class Fn>
constexpr bool ReturnsAwaitable() {
  if constexpr (std::is_invocable_v<Fn> || kTakesStopToken<Fn>) {
    using Returned = decltype(detail::CallWithStop(std::declval<Fn>(), std::stop_token()));
    if constexpr (Awaitable<Returned> && !std::same_as<std::remove_cvref_t<Returned>, Value>) {
      using Awaited = decltype(detail::AwaiterOf(std::declval<Returned>()).await_resume());
      return std::is_void_v<Value> || std::convertible_to<Awaited, Value>;
    }
  }
  return false;
}

// A coroutine that nobody waits for. It starts at once and destroys itself when it finishes.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// Does a call's work: awaits what `fn` returns, and lands the call with it. It owns `fn` and all
// that it needs, so no caller owns it. `fn` is destroyed before the call lands.
template <class Value, class Lead, class Fn>
Detached Drive(Lead lead, Fn&& fn) {
  Outcome<Value> outcome;
  try {
    std::decay_t<Fn> kept(std::forward<Fn>(fn));  // before the first suspension
    if constexpr (std::is_void_v<Value>) {
      static_cast<void>(co_await lead.Start(std::move(kept)));
      outcome.SetValue();
    } else {
      outcome.SetValue(co_await lead.Start(std::move(kept)));
    }
  } catch (...) {
    outcome.SetError(std::current_exception());
  }
  lead.Land(std::move(outcome));
}

template <class Call, class G, class ResumeOn>
class CoDoAwaiter;

// The arguments of CoDo. It lives as long as the co_await expression. It is not itself the awaiter,
// because GCC 12 would copy one that an await_transform passes on.
template <class G, class K, class Fn, class ResumeOn>
class [[nodiscard]] CoDoCall {
 public:
  CoDoCall(G& its_group, const K& its_key, Fn&& its_fn, const std::stop_token& its_stop,
           ResumeOn&& its_resume_on) noexcept
      : group(its_group),
        key(its_key),
        fn(std::forward<Fn>(its_fn)),
        stop(its_stop),
        resume_on(std::forward<ResumeOn>(its_resume_on)) {}
  CoDoCall(const CoDoCall&) = delete;
  CoDoCall& operator=(const CoDoCall&) = delete;

  auto operator co_await() && { return CoDoAwaiter<CoDoCall, G, std::decay_t<ResumeOn>>(*this); }

  void Launch(typename G::Lead lead) {
    if constexpr (detail::ReturnsAwaitable<typename G::ValueType, std::decay_t<Fn>>()) {
      detail::Drive<typename G::ValueType>(std::move(lead), std::forward<Fn>(fn));
    } else {
      lead.Run(std::forward<Fn>(fn));
    }
  }

  G& group;
  const K& key;
  Fn&& fn;
  const std::stop_token& stop;
  ResumeOn&& resume_on;
};

// A caller in a coroutine: the awaiter in its frame is the waiter. The frame may be destroyed while
// it is suspended here.
template <class Call, class G, class ResumeOn>
class CoDoAwaiter final : public G::Waiter {
  using Value = typename G::ValueType;

 public:
  explicit CoDoAwaiter(Call& call)
      : call_(call), resume_on_(std::forward<decltype(call.resume_on)>(call.resume_on)) {}

  ~CoDoAwaiter() noexcept override {
    on_stop_.reset();
    if (this->Detach()) return;
    while (phase_.load(std::memory_order_acquire) != Phase::kDone) {
      std::this_thread::yield();  // the completing thread is a few instructions away
    }
  }

  bool await_ready() {
    if (call_.stop.stop_requested()) {
      left_ = true;
      return true;
    }
    const Role role = call_.group.Join(call_.key, *this, [this](typename G::Lead lead) {
      ListenForStop();  // before `fn`, which may run on this thread
      call_.Launch(std::move(lead));
    });
    if (role == Role::kFollower) ListenForStop();
    return phase_ == Phase::kDone;
  }

  bool await_suspend(std::coroutine_handle<> handle) noexcept {
    handle_ = handle;
    auto expected = Phase::kJoining;
    return phase_.compare_exchange_strong(expected, Phase::kSuspended);
  }

  Result<Value> await_resume() {
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
    if (call_.stop.stop_possible()) on_stop_.emplace(call_.stop, OnStop{this});
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
    ResumeOn resume_on(std::move(resume_on_));
    // From here on the frame may be destroyed. Release pairs with the acquire in the destructor.
    phase_.store(Phase::kDone, std::memory_order_release);
    std::invoke(resume_on, handle);
  }

  Call& call_;
  ResumeOn resume_on_;
  std::optional<std::stop_callback<OnStop>> on_stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  bool left_ = false;  // written by Stop, read once complete
};

}  // namespace detail

// co_await CoDo(...) returns the result of the call in flight for `key`. If there is none, it makes
// one, whose work is `fn()`, or `fn(std::stop_token)` if it accepts that. `fn` returns what
// converts to Value, or an awaitable of it. Await it at once: until then it refers to its
// arguments.
//
// Thread: a plain `fn` runs on this thread, inside co_await. An awaitable one starts here and
//   continues wherever it is resumed. If the call lands before this coroutine has suspended, the
//   coroutine continues at once. Otherwise `resume_on(std::coroutine_handle<>)` is called, on the
//   thread that lands the call or requests `stop`, with no lock held and outside any catch block.
//   `resume_on` must not throw, nor wait for the coroutine. The other waiters are notified after it
//   returns. With ResumeInline, that is when the coroutine suspends again.
// Leaving: request `stop`, or destroy the coroutine's frame. The call continues for the others. If
//   no caller is left, a stop is requested of the token that `fn` takes.
// Errors: throws what `fn` threw, `operation_canceled` if this caller left,
//   `resource_unavailable_try_again` if a limit refused it, or `owner_dead` if the work was
//   destroyed. Throws what copying the key or an allocation threw. An exception that escapes the
//   resumed coroutine terminates the program. So does cancelling a thread inside an awaitable `fn`,
//   as in any coroutine.
// Lifetime: no caller owns the work, so an awaitable `fn` must own what it needs. ~Group waits for
//   the calls. If the thread that destroys the group also runs the loop that resumes their work, it
//   must first run the loop until they have landed. Request no stop while another thread destroys
//   the group.
//
// Warning: a call that waits for itself through coroutines is not detected. An awaitable `fn` must
// neither await nor block for its own key.
//
// Warning: a frame may be destroyed while it is suspended here. But if another thread lands the
// call or requests the stop at that moment, `resume_on` may receive the handle of a frame that no
// longer exists, and must detect that. With ResumeInline, make sure that this cannot happen.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn,
          class ResumeOn = ResumeInline>
auto CoDo(G& group, const K& key, Fn&& fn, const std::stop_token& stop = std::stop_token(),
          ResumeOn&& resume_on = ResumeOn()) {
  using Kept = std::decay_t<Fn>;
  using Resume = std::decay_t<ResumeOn>;
  if constexpr (detail::ReturnsAwaitable<typename G::ValueType, Kept>()) {
    detail::CheckKept<Fn>();
  } else {
    detail::CheckFn<typename G::ValueType, Fn>();
  }
  static_assert(std::is_invocable_v<Resume&, std::coroutine_handle<>>,
                "resume_on must be callable as resume_on(std::coroutine_handle<>)");
  static_assert(std::constructible_from<Resume, ResumeOn>,
                "CoDo keeps resume_on: pass one that can be copied, or std::move it");
  static_assert(
      !std::constructible_from<Resume, ResumeOn> || std::is_nothrow_move_constructible_v<Resume>,
      "resume_on is moved where nothing may throw: make its move noexcept");
  return detail::CoDoCall<G, K, Fn, ResumeOn>(group, key, std::forward<Fn>(fn), stop,
                                              std::forward<ResumeOn>(resume_on));
}

}  // namespace singleflight

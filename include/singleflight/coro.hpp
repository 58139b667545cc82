// SPDX-License-Identifier: MIT
#pragma once

// CoDo: waits for a call in a coroutine, and blocks no thread.
//
//   Task<Page> Handle(Request request) {
//     auto [user, shared] = co_await singleflight::CoDo(users, request.user, LoadUser);
//     co_return Render(*user);
//   }
//
// Works in any coroutine whose promise lets it await foreign awaitables, and is a caller of the
// same call as those in Do. There is no timeout: a timer belongs to your event loop, which requests
// the stop.
//
//   std::stop_source stop;
//   auto timer = loop.After(50ms, [stop]() mutable { stop.request_stop(); });
//   auto user = co_await singleflight::CoDo(users, id, LoadUser, stop.get_token());
//
// With GCC 12 and 13, name a lambda that captures by value before the co_await expression: in one,
// these compilers destroy it twice.

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
#include "detail/wait_graph.hpp"
#include "group.hpp"
#include "result.hpp"

namespace singleflight {

// Resumes a coroutine there and then.
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

// Whether what `fn` returns is to be awaited for the Value.
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

// A coroutine that nobody waits for. It starts at once and ends by itself.
struct Detached {
  struct promise_type {
    Detached get_return_object() const noexcept { return {}; }
    std::suspend_never initial_suspend() const noexcept { return {}; }
    std::suspend_never final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
  };
};

// A call's work: awaits what `fn` returns, and lands the call with it. It owns `fn` and all that it
// needs, so it belongs to none of the callers; `fn` is destroyed before the call lands.
template <class Value, class Lead, class Fn>
Detached Drive(Lead lead, Fn&& fn) {
  Outcome<Value> outcome;
  try {
    std::decay_t<Fn> kept(std::forward<Fn>(fn));  // before the first suspension
    const auto start = [&]() -> decltype(auto) {
      const LeadingScope leading;
      const RunningScope running(lead.Target());
      return detail::CallWithStop(std::move(kept), lead.GetStopToken());
    };
    if constexpr (std::is_void_v<Value>) {
      static_cast<void>(co_await start());
      outcome.template emplace<1>();
    } else {
      outcome.template emplace<1>(co_await start());
    }
  } catch (...) {
    outcome.template emplace<0>(std::current_exception());
  }
  lead.Land(std::move(outcome));
}

// A caller in a coroutine: the awaiter in its frame is the waiter. Ends with the frame, which may
// be destroyed while it is suspended here.
template <class G, class K, class Fn, class ResumeOn>
class [[nodiscard]] CoDoAwaiter final : public G::Waiter {
  using Value = typename G::ValueType;

 public:
  template <class R>
  CoDoAwaiter(G& group, const K& key, Fn&& fn, std::stop_token&& stop, R&& resume_on)
      : group_(group),
        key_(key),
        fn_(std::forward<Fn>(fn)),
        stop_(std::move(stop)),
        resume_on_(std::forward<R>(resume_on)) {}

  ~CoDoAwaiter() {
    on_stop_.reset();
    if (this->Detach()) return;
    while (phase_.load(std::memory_order_acquire) != Phase::kDone) {
      std::this_thread::yield();  // whoever completes the wait is a few instructions from there
    }
  }

  bool await_ready() {
    if (stop_.stop_requested()) {
      left_ = true;
      return true;
    }
    group_.Join(key_, *this, [this](typename G::Lead lead) { Launch(std::move(lead)); });
    if (stop_.stop_possible()) on_stop_.emplace(stop_, OnStop{this});
    return phase_ == Phase::kDone;
  }

  bool await_suspend(std::coroutine_handle<> handle) noexcept {
    handle_ = handle;
    auto expected = Phase::kJoining;
    return phase_.compare_exchange_strong(expected, Phase::kSuspended);
  }

  Result<Value> await_resume() {
    on_stop_.reset();  // waits until a Stop that had begun has ended
    if (left_) std::rethrow_exception(detail::MakeCanceled());
    return this->TakeResult();
  }

 private:
  // kJoining: the coroutine runs; if the call lands now, it does not suspend. kSuspended: who
  // completes the wait resumes it. kDone: complete, and whoever did it touches this no more.
  enum class Phase : unsigned char { kJoining, kSuspended, kDone };

  struct OnStop {
    CoDoAwaiter* self;
    void operator()() const noexcept { self->Stop(); }
  };

  void Launch(typename G::Lead lead) {
    if constexpr (detail::ReturnsAwaitable<Value, std::decay_t<Fn>>()) {
      detail::Drive<Value>(std::move(lead), std::forward<Fn>(fn_));
    } else {
      lead.Run(std::forward<Fn>(fn_));
    }
  }

  void OnLanded() noexcept override { Complete(); }

  void Stop() noexcept {
    if (!this->Leave()) return;  // it has landed
    left_ = true;
    Complete();
  }

  // Comes once: from OnLanded, or from a Stop that left.
  void Complete() noexcept {
    // Acquire, with the release in await_suspend: handle_.
    auto phase = phase_.load(std::memory_order_acquire);
    if (phase == Phase::kJoining && phase_.compare_exchange_strong(phase, Phase::kDone)) return;
    const std::coroutine_handle<> handle = handle_;
    ResumeOn resume_on(std::move(resume_on_));
    // From here on the frame may be gone. Release, with the acquire in the destructor.
    phase_.store(Phase::kDone, std::memory_order_release);
    std::invoke(resume_on, handle);
  }

  G& group_;
  const K& key_;
  Fn&& fn_;
  const std::stop_token stop_;
  ResumeOn resume_on_;
  std::optional<std::stop_callback<OnStop>> on_stop_;
  std::coroutine_handle<> handle_;
  std::atomic<Phase> phase_ = Phase::kJoining;
  bool left_ = false;  // written by Stop, read when complete
};

}  // namespace detail

// co_await CoDo(...): the result of the call in flight for `key`; if there is none, begins one. Its
// work is `fn()`, or `fn(std::stop_token)` where it takes that, which returns what converts to
// Value or an awaitable of it (then the call keeps `fn`, and its work goes on wherever it is
// resumed). Await it at once: until then it refers to its arguments.
//
// The work belongs to no caller: each may leave, by its `stop` or the end of its frame, and the
// call goes on for the others; when the last leaves, the token that `fn` takes is requested. So an
// awaitable `fn` must not refer to what ends with its caller.
//
// The caller goes on at once, on its own thread, if the call lands before it has suspended. Else it
// is given to `resume_on(std::coroutine_handle<>)`, which must not throw: on the thread that lands
// the call or requests `stop`, with no lock held and outside any catch block. What a coroutine
// throws out of its resumption terminates.
//
// Throws what `fn` threw, `operation_canceled` if it left, `resource_unavailable_try_again` if a
// limit refused it, `owner_dead` if the work was destroyed; also what making the call threw.
//
// ~Group waits for the calls: where a loop resumes their work, run it until they have landed, or
// let `fn` heed its stop token, before the group ends on the loop's own thread.
//
// A frame may be destroyed while it is suspended here, on any thread, until `resume_on` has been
// given its handle; from then on only by who has it. With ResumeInline that moment is the landing:
// see to it that no other thread can land the call or request the stop meanwhile. A call that waits
// for itself through coroutines is not found: `fn` must not await its own key.
template <detail::AnyGroup G, class K = typename G::KeyType, class Fn,
          class ResumeOn = ResumeInline>
auto CoDo(G& group, const K& key, Fn&& fn, std::stop_token stop = {},
          ResumeOn&& resume_on = ResumeOn()) {
  if constexpr (!detail::ReturnsAwaitable<typename G::ValueType, std::decay_t<Fn>>()) {
    detail::CheckFn<typename G::ValueType, Fn>();
  }
  using Resume = std::decay_t<ResumeOn>;
  static_assert(std::is_invocable_v<Resume&, std::coroutine_handle<>>,
                "resume_on must be callable as resume_on(std::coroutine_handle<>)");
  static_assert(std::is_nothrow_move_constructible_v<Resume>,
                "resume_on is moved where nothing may throw: make its move noexcept");
  return detail::CoDoAwaiter<G, K, Fn, Resume>(group, key, std::forward<Fn>(fn), std::move(stop),
                                               std::forward<ResumeOn>(resume_on));
}

}  // namespace singleflight

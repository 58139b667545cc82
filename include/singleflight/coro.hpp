// SPDX-License-Identifier: MIT
#pragma once

#include "detail/requirements.hpp"  // first: <coroutine> reports an older standard misleadingly

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
//   singleflight::StopSource stop;
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

#include <concepts>
#include <coroutine>
#include <type_traits>
#include <utility>

#include "detail/awaitable.hpp"
#include "detail/coro/awaiter.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/resume_inline.hpp"
#include "group.hpp"
#include "options.hpp"
#include "stop_token.hpp"

namespace singleflight {

namespace detail {

template <class G, class K, class Fn, class Executor, class ResumeOn>
constexpr void CheckCoDo() {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Fn>;
  using Resume = std::decay_t<ResumeOn>;
  constexpr bool kIsHere = std::same_as<Executor, OnThisThread>;
  constexpr bool kIsAwaited = detail::ReturnsAwaitable<Value, Kept>();
  if constexpr (!kIsAwaited) detail::CheckFnOf<G, std::conditional_t<kIsHere, Fn, Kept>>();
  constexpr bool kMayRefresh = requires { requires G::Lead::kMayBeBackground; };
  if constexpr (kIsAwaited || !kIsHere || kMayRefresh || !std::is_lvalue_reference_v<Fn>) {
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

template <class G, class K, class Fn, class Executor, class ResumeOn, class OnFailureArg>
auto MakeOwningCoDoCall(G& group, K&& key, Fn&& fn, Executor&& executor, StopToken&& stop,
                        ResumeOn&& resume_on, OnFailureArg on_failure);

template <class G, class K, class Fn, class Executor, class ResumeOn,
          class OnFailureArg = ShareFailure>
auto MakeCoDoCall(G& group, K&& key, Fn&& fn, Executor&& executor, StopToken&& stop,
                  ResumeOn&& resume_on, OnFailureArg on_failure = {}) {
  detail::CheckCoDo<G, K, Fn, Executor, ResumeOn>();
  if constexpr (LaunchesLater<G> && std::same_as<std::decay_t<Executor>, OnThisThread>) {
    return detail::MakeCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                                GroupExecutor<G>(group), std::move(stop),
                                std::forward<ResumeOn>(resume_on), on_failure);
  } else if constexpr (LaunchesLater<G> && (!std::same_as<Fn, std::decay_t<Fn>> ||
                                            !std::same_as<Executor, std::decay_t<Executor>>)) {
    return detail::MakeOwningCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                                      std::forward<Executor>(executor), std::move(stop),
                                      std::forward<ResumeOn>(resume_on), on_failure);
  } else {
    return CoDoCall<G, K, Fn, Executor, std::decay_t<ResumeOn>, OnFailureArg>(
        group, std::forward<K>(key), std::forward<Fn>(fn), std::forward<Executor>(executor),
        std::move(stop), std::forward<ResumeOn>(resume_on), on_failure);
  }
}

// For a caller that may ask again, or asks a fleet. It has copies, because the frame with the
// caller's own objects may be destroyed while a thread uses them.
template <class G, class K, class Fn, class Executor, class ResumeOn, class OnFailureArg>
auto MakeOwningCoDoCall(G& group, K&& key, Fn&& fn, Executor&& executor, StopToken&& stop,
                        ResumeOn&& resume_on, OnFailureArg on_failure) {
  using Kept = std::decay_t<Fn>;
  using KeptExecutor = std::decay_t<Executor>;
  detail::CheckCoDo<G, K, Fn, Executor, ResumeOn>();
  static_assert((detail::CheckKept<Fn>(), true));  // evaluated here, to be the first error
  if constexpr (!detail::ReturnsAwaitable<typename G::ValueType, Kept>()) {
    detail::CheckFnOf<G, Kept>();
  }
  static_assert(std::constructible_from<KeptExecutor, Executor>,
                "a caller that may ask again, or asks a fleet, keeps the executor: pass "
                "std::ref(executor), or one "
                "that can be copied");
  return detail::MakeCoDoCall(group, std::forward<K>(key), Kept(std::forward<Fn>(fn)),
                              KeptExecutor(std::forward<Executor>(executor)), std::move(stop),
                              std::forward<ResumeOn>(resume_on), on_failure);
}

}  // namespace detail

// co_await CoDo(...) returns the result of the call in flight for `key`. If there is none, it makes
// one, whose work is `fn()`, or `fn(StopToken)` if it accepts that. `fn` returns what
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
//   work, it must first run the loop until they have landed. While another thread destroys the
//   group, request no stop and destroy no frame that is suspended here.
//
// Warning: a call that waits for itself through coroutines is not detected. An awaitable `fn` must
// neither await nor block for its own key.
//
// Warning: a frame may be destroyed while it is suspended here. But if another thread lands the
// call or requests the stop at that moment, `resume_on` may receive the handle of a frame that no
// longer exists, and must detect that. With ResumeInline, make sure that this cannot happen. A
// thread that destroys a frame waits for a stop in progress, so it must not hold a lock that
// `resume_on` takes.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, StopToken stop = StopToken(),
          ResumeOn&& resume_on = ResumeOn()) {
  return detail::MakeCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                              detail::OnThisThread(), std::move(stop),
                              std::forward<ResumeOn>(resume_on));
}

// The same, but `fn` runs on an executor, as in DoAsync. It is an executor, and not `stop`, if it
// does not convert to a StopToken.
//
// Thread: a leader calls `executor(task)` on this thread, inside co_await. A plain `fn` runs where
//   `task()` is called, and an awaitable one starts there. `task` is copyable and takes no
//   arguments. However often it is called, it works once. A follower's executor is not used.
// Errors: what the executor throws is the call's failure. If the task is destroyed before it has
//   run, the callers get `owner_dead`.
// Lifetime: the call keeps a copy of `fn`, which must own what it needs. ~Group waits for the task,
//   so declare a pool before the groups that it works for.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          detail::NotStopToken Executor, class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, Executor&& executor, StopToken stop = StopToken(),
          ResumeOn&& resume_on = ResumeOn()) {
  return detail::MakeCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                              std::forward<Executor>(executor), std::move(stop),
                              std::forward<ResumeOn>(resume_on));
}

// The same for a caller that says what to do if it follows and its call fails. With
// OnFailure::kRetry it asks again, once: see OnFailure. Pass ResumeInline() for no `resume_on`.
//
// Thread: it asks again on the thread that landed the failed call, after that call's other waiters
//   were notified. If it then leads, a plain `fn` without an executor runs on that thread.
// Leaving: as above. A thread that destroys the frame waits while another one is asking again.
// Lifetime: it keeps copies of `fn` and `executor`, also of named ones.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, StopToken stop, ResumeOn&& resume_on, OnFailure on_failure) {
  return detail::MakeOwningCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                                    detail::OnThisThread(), std::move(stop),
                                    std::forward<ResumeOn>(resume_on), on_failure);
}
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          detail::NotStopToken Executor, class ResumeOn = ResumeInline>
auto CoDo(G& group, K&& key, Fn&& fn, Executor&& executor, StopToken stop, ResumeOn&& resume_on,
          OnFailure on_failure) {
  return detail::MakeOwningCoDoCall(group, std::forward<K>(key), std::forward<Fn>(fn),
                                    std::forward<Executor>(executor), std::move(stop),
                                    std::forward<ResumeOn>(resume_on), on_failure);
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>,
          class ResumeOn = ResumeInline>
auto CoDo(B& batcher, K&& key, const StopToken& stop = StopToken(),
          ResumeOn&& resume_on = ResumeOn()) {
  return singleflight::CoDo(batcher.AsGroup(), std::forward<K>(key),
                            detail::kUnusedFn<typename B::ValueType>, stop,
                            std::forward<ResumeOn>(resume_on));
}

}  // namespace singleflight

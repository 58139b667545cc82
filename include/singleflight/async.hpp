// SPDX-License-Identifier: MIT
#pragma once

// DoAsync and DoThen: ask now, and let an executor run the function. DoAsync returns a Future, to
// be waited for later. DoThen calls you back.
//
//   auto user = singleflight::DoAsync(users, "user:42", Load, [&](auto task) { pool.Post(task); });
//   auto orders = singleflight::DoAsync(orders_of, 42, LoadOrders);  // on a thread of its own
//   Render(*user.Get(), *orders.Get());
//
//   singleflight::Caller caller = singleflight::DoThen(
//       users, "user:42", Load, [&](auto task) { pool.Post(task); },
//       [&](singleflight::KeyResult<User> user) { user ? Send(*user) : SendError(user.error()); });
//
// Both join the same calls as a thread in Do: one execution serves them all. Destroying the Future
// or the Caller leaves the call. The last caller to leave asks the call to stop. Not a thread pool:
// the executor decides where `fn` runs.

#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include "caller.hpp"
#include "detail/async_caller.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/later_launch.hpp"
#include "detail/new_thread.hpp"
#include "detail/retrying_caller.hpp"
#include "detail/task.hpp"
#include "future.hpp"
#include "group.hpp"
#include "key_result.hpp"
#include "options.hpp"

namespace singleflight {

namespace detail {

template <class Callback, class Value>
concept CallableWithOutcome = requires(Callback callback, KeyResult<Value> (&outcome)()) {
  std::move(callback)(outcome());
};

// These are evaluated in a static_assert, so that what they say is a compiler's first error.
template <class G, class Fn, class Executor>
constexpr void CheckAsync() {
  detail::CheckFnOf<G, std::decay_t<Fn>>();
  detail::CheckKept<Fn>();
  static_assert(std::is_invocable_v<Executor, Task<G, std::decay_t<Fn>>>,
                "executor must be callable as executor(task), where task is copyable and callable "
                "without arguments");
}

template <class Executor>
constexpr void CheckKeptExecutor() {
  static_assert(
      std::constructible_from<std::decay_t<Executor>, Executor>,
      "a caller that may ask again, or asks a fleet, keeps executor: pass one that can be "
      "copied, or std::move it");
}

template <class Value, class Callback>
constexpr void CheckCallback() {
  static_assert(std::constructible_from<std::decay_t<Callback>, Callback>,
                "DoThen keeps callback: pass one that can be copied, or std::move it");
  static_assert(CallableWithOutcome<std::decay_t<Callback>, Value>,
                "callback must be callable as callback(KeyResult<Value>)");
}

// Gives a call's work to an executor that it keeps.
template <class G, class Fn, class Executor>
struct LaunchOn {
  void operator()(typename G::Lead lead) && {
    std::invoke(std::move(executor), Task<G, Fn>(std::move(lead), std::move(fn)));
  }

  Fn fn;
  Executor executor;
};

// The caller of one DoThen.
template <class Value, class Callback>
class ThenCaller final : public AsyncCaller<Value> {
 public:
  template <class C>
  ThenCaller(std::in_place_t, C&& callback) : callback_(std::in_place, std::forward<C>(callback)) {}

 private:
  void Deliver() noexcept override {
    static_cast<void>(std::move(*callback_)(this->TakeOutcome()));
    callback_.reset();
  }
  void Drop() noexcept override {
    AsyncCaller<Value>::Drop();
    callback_.reset();
  }

  std::optional<Callback> callback_;  // empty once it was called, or will not be called
};

}  // namespace detail

// Joins the call in flight for `key`. If there is none, makes one and gives its work to the
// executor, as `executor(task)`. A follower's `fn` and `executor` are not used. `key` is anything
// that Do accepts. The call keeps copies of `key` and `fn`.
//
// Thread: `executor` is called on this thread, and nothing else here blocks. `task` is copyable and
//   takes no arguments. It may be called on any thread, at once or later. It runs `fn()` or
//   `fn(StopToken)` once, however often it is called. `fn` runs on that thread.
// Leaving: destroy the Future. When no caller is left, a stop is requested of the token that `fn`
//   takes, on the thread that leaves last. That works also before `fn` has begun.
// Errors: what the executor throws is the call's failure, and the Futures report it. If the task is
//   destroyed before it has run, they report `owner_dead`. DoAsync itself throws
//   `resource_unavailable_try_again`, or what copying the key or an allocation threw.
// Lifetime: `fn` may outlive this caller, so it must own what it needs. ~Group waits for the tasks,
//   so declare a pool before the groups that it works for. ~Group returns as soon as the calls have
//   landed, so a pool's thread may still be returning from a task.
//
// Warning: if every thread of a pool waits for a task that is queued behind it in the same pool,
// none of them makes progress. That is not a cycle of calls, so it is not detected.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor = NewThread>
Future<typename G::ValueType> DoAsync(G& group, const K& key, Fn&& fn,
                                      Executor&& executor = Executor()) {
  using Task = detail::Task<G, std::decay_t<Fn>>;
  static_assert((detail::CheckAsync<G, Fn, Executor>(), true));
  if constexpr (detail::LaunchesLater<G>) {
    static_assert((detail::CheckKeptExecutor<Executor>(), true));
    return group.Join(key, detail::LaunchOn<G, std::decay_t<Fn>, std::decay_t<Executor>>{
                               std::forward<Fn>(fn), std::forward<Executor>(executor)});
  } else {
    return group.Join(key, [&](typename G::Lead lead) {
      std::invoke(std::forward<Executor>(executor), Task(std::move(lead), std::forward<Fn>(fn)));
    });
  }
}

// The same for a caller that asks again, once, if the call that it follows fails: see OnFailure.
//
// Thread: it asks again on the thread that lands the failed call, after the other callers were
//   notified. If it then leads, the executor is called on that thread.
// Cost: it keeps copies of `key`, `fn` and `executor`.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor>
Future<typename G::ValueType> DoAsync(G& group, const K& key, Fn&& fn, Executor&& executor,
                                      OnFailure on_failure) {
  using Value = typename G::ValueType;
  using Launch = detail::LaunchOn<G, std::decay_t<Fn>, std::decay_t<Executor>>;
  if (on_failure == OnFailure::kShare) {
    return singleflight::DoAsync(group, key, std::forward<Fn>(fn),
                                 std::forward<Executor>(executor));
  }
  static_assert((detail::CheckAsync<G, Fn, std::decay_t<Executor>>(), true));
  static_assert((detail::CheckKeptExecutor<Executor>(), true));
  auto* const caller = new detail::RetryingFuture<G, Launch>(
      group, detail::CopyKey<G>(key),
      Launch{std::forward<Fn>(fn), std::forward<Executor>(executor)});
  Future<Value> future{typename detail::FutureSource<Value>::Pointer(caller)};
  caller->Join();
  return future;
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>>
Future<typename B::ValueType> DoAsync(B& batcher, const K& key) {
  return batcher.Join(key);
}

// The same for a caller that is called back: `callback(KeyResult<Value>)`, which holds the result
// or the error. It is called once, unless this caller leaves first: see caller.hpp.
//
// With `caller`, a new Caller, other threads can make this caller leave while DoThen still runs. If
// it has left before, DoThen does nothing.
//
// Thread: the callback is called on the thread that lands the call, with no lock held and outside
//   any catch block. That may be this thread, before DoThen returns: if the executor runs the task
//   at once, or a ReadThrough has the value. The callback must not block, because the other callers
//   are notified after it returns. It may ask again, and it may destroy or assign to its Caller.
// Leaving: caller.Leave(), or destroy the Caller.
// Errors: as DoAsync. If DoThen throws, the callback is not called. An exception that escapes the
//   callback terminates the program. So does cancelling the thread inside it.
// Lifetime: the callback is destroyed where it was called, as soon as it has returned. It may run
//   after ~Group has returned. Destroy the Caller to prevent that.
// Cost: one allocation, besides those of the call.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor, class Callback>
void DoThen(Caller& caller, G& group, const K& key, Fn&& fn, Executor&& executor,
            Callback&& callback) {
  using Value = typename G::ValueType;
  using Kept = std::decay_t<Callback>;
  using Task = detail::Task<G, std::decay_t<Fn>>;
  static_assert((detail::CheckAsync<G, Fn, Executor>(), true));
  static_assert((detail::CheckCallback<Value, Callback>(), true));
  auto* const then = caller.Bind([&] {
    return std::make_unique<detail::ThenCaller<Value, Kept>>(std::in_place,
                                                             std::forward<Callback>(callback));
  });
  if (then == nullptr) return;
  // `caller` may be gone from here on.
  then->JoinBy([&](const auto& joined) {
    if constexpr (detail::LaunchesLater<G>) {
      static_assert((detail::CheckKeptExecutor<Executor>(), true));
      group.Join(key, *then,
                 detail::LaunchOn<G, std::decay_t<Fn>, std::decay_t<Executor>>{
                     std::forward<Fn>(fn), std::forward<Executor>(executor)});
    } else {
      group.Join(key, *then, [&](typename G::Lead lead) {
        Task task(std::move(lead), std::forward<Fn>(fn));
        joined();
        std::invoke(std::forward<Executor>(executor), std::move(task));
      });
    }
  });
}
// The same for a caller that asks again, once, if the call that it follows fails: see OnFailure.
//
// Thread: it asks again on the thread that lands the failed call, after the other callers were
//   notified. If it then leads, the executor is called on that thread.
// Cost: it keeps copies of `key`, `fn` and `executor`.
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor, class Callback>
void DoThen(Caller& caller, G& group, const K& key, Fn&& fn, Executor&& executor,
            Callback&& callback, OnFailure on_failure) {
  if (on_failure == OnFailure::kShare) {
    return singleflight::DoThen(caller, group, key, std::forward<Fn>(fn),
                                std::forward<Executor>(executor), std::forward<Callback>(callback));
  }
  using Value = typename G::ValueType;
  using Launch = detail::LaunchOn<G, std::decay_t<Fn>, std::decay_t<Executor>>;
  using Kept = std::decay_t<Callback>;
  static_assert((detail::CheckAsync<G, Fn, std::decay_t<Executor>>(), true));
  static_assert((detail::CheckKeptExecutor<Executor>(), true));
  static_assert((detail::CheckCallback<Value, Callback>(), true));
  using Retrying = detail::RetryingThen<G, Launch, Kept>;
  Retrying* const then = caller.Bind([&] {
    return std::make_unique<Retrying>(
        group, detail::CopyKey<G>(key),
        Launch{std::forward<Fn>(fn), std::forward<Executor>(executor)},
        std::forward<Callback>(callback));
  });
  if (then != nullptr) then->Join();  // `caller` may be gone from here on
}

template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Callback>
void DoThen(Caller& caller, G& group, const K& key, Fn&& fn, Callback&& callback) {
  singleflight::DoThen(caller, group, key, std::forward<Fn>(fn), NewThread(),
                       std::forward<Callback>(callback));
}

template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor, class Callback>
Caller DoThen(G& group, const K& key, Fn&& fn, Executor&& executor, Callback&& callback) {
  Caller caller;
  singleflight::DoThen(caller, group, key, std::forward<Fn>(fn), std::forward<Executor>(executor),
                       std::forward<Callback>(callback));
  return caller;
}
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Executor, class Callback>
Caller DoThen(G& group, const K& key, Fn&& fn, Executor&& executor, Callback&& callback,
              OnFailure on_failure) {
  Caller caller;
  singleflight::DoThen(caller, group, key, std::forward<Fn>(fn), std::forward<Executor>(executor),
                       std::forward<Callback>(callback), on_failure);
  return caller;
}
template <detail::GroupLike G, class K = detail::BracedKey<typename G::KeyType>, class Fn,
          class Callback>
Caller DoThen(G& group, const K& key, Fn&& fn, Callback&& callback) {
  return singleflight::DoThen(group, key, std::forward<Fn>(fn), NewThread(),
                              std::forward<Callback>(callback));
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>,
          class Callback>
void DoThen(Caller& caller, B& batcher, const K& key, Callback&& callback) {
  const auto unused_executor = [](const auto&) {};
  singleflight::DoThen(caller, batcher.AsGroup(), key, detail::kUnusedFn<typename B::ValueType>,
                       unused_executor, std::forward<Callback>(callback));
}
template <detail::GroupWithOwnFn B, class K = detail::BracedKey<typename B::KeyType>,
          class Callback>
Caller DoThen(B& batcher, const K& key, Callback&& callback) {
  Caller caller;
  singleflight::DoThen(caller, batcher, key, std::forward<Callback>(callback));
  return caller;
}

}  // namespace singleflight

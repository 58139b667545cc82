// SPDX-License-Identifier: MIT
#pragma once

// DoAsync: asks now, waits later, and lets an executor run the function.
//
//   auto user = singleflight::DoAsync(users, "user:42", Load, [&](auto task) { pool.Post(task); });
//   auto orders = singleflight::DoAsync(orders_of, 42, LoadOrders);  // on a thread of its own
//   Render(*user.Get(), *orders.Get());
//
// A Future is a caller of the same call as those in Do: one execution serves them all. To drop it
// is to leave, and the last to leave asks the call to stop.

#include <concepts>
#include <functional>
#include <thread>
#include <type_traits>
#include <utility>

#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/task.hpp"
#include "future.hpp"
#include "group.hpp"

namespace singleflight {

// The executor of DoAsync that starts a thread for each call. The thread is detached; ~Group waits
// until it has landed its call. Nothing of the user's runs on it afterwards but the OnLanded of
// waiters, and the destructors of the key and of what is left of the value or exception.
struct NewThread {
  template <class Task>
  void operator()(Task task) const {
    std::thread(std::move(task)).detach();
  }
};

// Joins the call in flight for `key`; if there is none, makes one and hands its work to
// `executor(task)`, on this thread. `task` is copyable and called without arguments, on any thread,
// there and then or later; it runs `fn()` or `fn(std::stop_token)` once, however often it is
// called. Only the leader's task is ever submitted; a follower's `fn` and `executor` are not used.
//
// Never blocks, but for what the executor does. What the executor throws (also where a thread
// cannot be started) is the call's failure; a task that is dropped lands it with `owner_dead`: the
// Futures say so. DoAsync itself throws `resource_unavailable_try_again` if a limit refuses this
// caller, and what making the call threw. `key` may be whatever Do takes, and the call keeps a
// copy; so it does of `fn`.
//
// ~Group waits for the tasks: declare a pool before the groups that it works for. In a pool whose
// every thread waits for a task that is queued behind it, nothing moves: that is no cycle of calls,
// and is not found.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn, class Executor = NewThread>
Future<typename G::ValueType> DoAsync(G& group, const K& key, Fn&& fn,
                                      Executor&& executor = Executor()) {
  using Task = detail::Task<G, std::decay_t<Fn>>;
  detail::CheckFn<typename G::ValueType, std::decay_t<Fn>>();
  static_assert(std::constructible_from<std::decay_t<Fn>, Fn>,
                "the call keeps fn: pass one that can be copied, or std::move it");
  static_assert(std::is_invocable_v<Executor, Task>,
                "executor must be callable as executor(task), where task is copyable and callable "
                "without arguments");
  return group.Join(key, [&](typename G::Lead lead) {
    std::invoke(std::forward<Executor>(executor), Task(std::move(lead), std::forward<Fn>(fn)));
  });
}

}  // namespace singleflight

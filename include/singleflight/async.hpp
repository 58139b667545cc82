// SPDX-License-Identifier: MIT
#pragma once

// DoAsync: asks now, waits later, and lets an executor run the function.
//
//   auto user = singleflight::DoAsync(users, "user:42", Load, [&](auto task) { pool.Post(task); });
//   auto orders = singleflight::DoAsync(orders_of, 42, LoadOrders);  // on a thread of its own
//   Render(*user.Get(), *orders.Get());
//
// A Future joins the same call as a thread in Do: one execution serves them all. Destroying it
// leaves the call. The last caller to leave asks the call to stop. Not a thread pool: the executor
// decides where `fn` runs.

#include <functional>
#include <thread>
#include <type_traits>
#include <utility>

#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/task.hpp"
#include "detail/thread_reaper.hpp"
#include "future.hpp"
#include "group.hpp"

namespace singleflight {

// The executor that starts a thread for each call. Your own executor may pass its tasks on to it.
//
// Thread: ~Group waits until these threads have exited, so a module may be unloaded once its groups
//   are destroyed. If a group is destroyed on one of its own threads, after that thread has landed
//   its call, it does not wait for that one.
//
// Warning: ~Group thus also waits for what these threads do after a call has landed: OnLanded,
// and coroutines that resume inline. They must not wait for the thread that
// destroys the group.
struct NewThread {
  template <class G, class Fn>
  void operator()(detail::Task<G, Fn> task) const {
    if (detail::ThreadReaper* const reaper = task.Reaper()) reaper->Start(std::move(task));
  }

  // Starts a thread for anything else, and detaches it.
  template <class Task>
  void operator()(Task task) const {
    std::thread(std::move(task)).detach();
  }
};

// Joins the call in flight for `key`. If there is none, makes one and gives its work to the
// executor, as `executor(task)`. A follower's `fn` and `executor` are not used. `key` is anything
// that Do accepts. The call keeps copies of `key` and `fn`.
//
// Thread: `executor` is called on this thread, and nothing else here blocks. `task` is copyable and
//   takes no arguments. It may be called on any thread, at once or later. It runs `fn()` or
//   `fn(std::stop_token)` once, however often it is called. `fn` runs on that thread.
// Leaving: destroy the Future. When no caller is left, a stop is requested of the token that `fn`
//   takes, on the thread that leaves last.
// Errors: what the executor throws is the call's failure, and the Futures report it. If the task is
//   destroyed before it has run, they report `owner_dead`. DoAsync itself throws
//   `resource_unavailable_try_again`, or what copying the key or an allocation threw.
// Lifetime: `fn` may outlive this caller, so it must own what it needs. ~Group waits for the tasks,
//   so declare a pool before the groups that it works for.
//
// Warning: if every thread of a pool waits for a task that is queued behind it in the same pool,
// none of them makes progress. That is not a cycle of calls, so it is not detected.
template <detail::GroupLike G, class K = typename G::KeyType, class Fn, class Executor = NewThread>
Future<typename G::ValueType> DoAsync(G& group, const K& key, Fn&& fn,
                                      Executor&& executor = Executor()) {
  using Task = detail::Task<G, std::decay_t<Fn>>;
  detail::CheckFn<typename G::ValueType, std::decay_t<Fn>>();
  detail::CheckKept<Fn>();
  static_assert(std::is_invocable_v<Executor, Task>,
                "executor must be callable as executor(task), where task is copyable and callable "
                "without arguments");
  return group.Join(key, [&](typename G::Lead lead) {
    std::invoke(std::forward<Executor>(executor), Task(std::move(lead), std::forward<Fn>(fn)));
  });
}

// The same, for a group whose calls all have the same work: see batcher.hpp.
template <detail::GroupWithOwnFn B, class K = typename B::KeyType>
Future<typename B::ValueType> DoAsync(B& batcher, const K& key) {
  return batcher.Join(key);
}

}  // namespace singleflight

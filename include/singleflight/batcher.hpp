// SPDX-License-Identifier: MIT
#pragma once

// Batcher: callers ask for single keys, and one function loads the keys of all of them at once.
//
//   singleflight::Group<int, User> users;
//   // SELECT ... WHERE id IN (...), for the ids that were asked for within two milliseconds.
//   singleflight::Batcher users_batch(
//       users, [&](std::span<const int> ids) { return db.LoadUsers(ids); },
//       {.max_keys = 100, .max_delay = 2ms});
//
//   const auto user = users_batch.Do(42);                             // blocks this thread
//   auto future = singleflight::DoAsync(users_batch, 42);             // a Future
//   const auto user = co_await singleflight::CoDo(users_batch, 42);   // in a coroutine
//   AsyncDo(users_batch, 42, token);                                  // with Asio
//
// The calls are those of the group. A caller whose key is in flight joins it, whoever leads it: a
// thread in users.Do(42, ...), a DoMany, or this batcher. So no key is loaded twice, and a key that
// is in flight takes no place in a batch. Keys that a ReadThrough has in its cache do not, either.
//
// DataLoader's users know this as batching. Its cache is a ReadThrough's: make the Batcher of one.
// Without a cache of any kind, a caller that comes after its key has landed loads it again.
//
// Not a queue for work that must be done: a key is loaded for its callers, and is dropped with
// them.

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <stdexcept>
#include <stop_token>
#include <type_traits>
#include <utility>

#include "batcher_options.hpp"
#include "detail/batcher/batch.hpp"
#include "detail/batcher/core.hpp"
#include "detail/batcher/fn.hpp"
#include "detail/call.hpp"
#include "detail/errors.hpp"
#include "detail/event.hpp"
#include "detail/group_like.hpp"
#include "detail/thread_waiter.hpp"
#include "detail/wait_graph.hpp"
#include "future.hpp"
#include "group.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight {

// Runs batches for a group: a Group, or a ReadThrough. Neither copyable nor movable.
//
// Thread: every member may be called on any thread at any time, except the destructor. No lock is
//   held while `fn`, the executor, a stop request, or an operation of a key or value runs.
template <detail::GroupLike G>
class Batcher {
 public:
  using KeyType = typename G::KeyType;
  using ValueType = typename G::ValueType;
  using Waiter = typename G::Waiter;

  // `fn` is called as fn(std::span<const Key>) or fn(std::span<const Key>, std::stop_token). No key
  // is twice in the span. It returns the values in the order of its keys, or a map whose keys
  // compare as the group's do, or nothing for a group of void.
  //
  // Thread: with an executor, `executor(task)` is called for each batch, and `fn` runs where the
  //   task is called, as in DoAsync. Without one, if there is a `max_delay`, `fn` runs on a thread
  //   of the batcher's own. With neither, it runs on the thread that calls Flush or Do, or that
  //   asks for the last key that a batch may have. `fn` and `executor` may be called on several
  //   threads at the same time, since batches do not wait for each other.
  //   There is no thread of the batcher's own until a key waits for `max_delay`.
  // Leaving: if `fn` takes a stop token, a key whose last caller has left before `fn` is called is
  //   not loaded, and a stop is requested of the token when no caller is left on any of the calls.
  //   If `fn` takes none, the key is loaded all the same, for callers that come meanwhile.
  // Errors: for each key, its callers get one of
  //     what `fn` threw, or what reading that key's value threw
  //     `invalid_argument`: `fn` returned more or fewer values than it got keys
  //     `no_message_available`: the map that `fn` returned lacks the key
  //     what the executor threw, or `owner_dead` if it destroyed the task without calling it
  //     what starting a thread, an allocation, or the key's copy, hash or comparison threw.
  //   The constructor throws std::invalid_argument if max_keys is 0.
  // Lifetime: the group must outlive the Batcher, so declare the group first. `fn` is destroyed by
  //   the Batcher's destructor.
  //
  // Warning: `fn` must not wait for a key of its own batch. On one thread that is an error, as in
  // Do. But if the only thread of an executor waits in `fn` for a key whose batch is queued behind
  // it, it waits for ever.
  template <class Fn>
  Batcher(G& group, Fn&& fn, BatcherOptions options = {})
      : core_(std::make_shared<detail::BatcherCore<G>>(group, Checked(options),
                                                       MakeFn(std::forward<Fn>(fn)), nullptr)) {}
  template <class Fn, class Executor>
  Batcher(G& group, Fn&& fn, BatcherOptions options, Executor&& executor)
      : core_(std::make_shared<detail::BatcherCore<G>>(
            group, Checked(options), MakeFn(std::forward<Fn>(fn)),
            MakeExecutor(std::forward<Executor>(executor)))) {}

  // Lands the calls of keys that wait for their batch with `owner_dead`, requests a stop of the
  // token that `fn` takes, and waits until `fn` has returned, as std::jthread does. Tasks that the
  // executor still has do nothing from then on. To load the keys that wait, call Flush first.
  //
  // Thread: no other thread may be inside a member, or enter one, meanwhile. Waiters that this
  //   notifies are notified on this thread. A waiter that a batch notifies may destroy the Batcher.
  //   A coroutine is such a waiter.
  //
  // Warning: `fn` must not destroy the Batcher: the destructor would wait for it.
  ~Batcher() { core_->Close(); }

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Returns the result of the call in flight for `key`. If there is none, adds the key to a batch,
  // and waits for it. `key` is anything that Group::Do accepts.
  //
  // Without a `max_delay`, it flushes the batch before it waits, because this thread may be the one
  // that would have flushed it. To wait for a Flush by another thread, use DoAsync(batcher, key).
  //
  // Thread: blocks.
  // Errors: throws those of the key (see the constructor), and what Group::Do throws.
  template <class K = KeyType>
  Result<ValueType> Do(const K& key) {
    return Do(key, CallOptions());
  }

  // The same, for a caller with options.
  //
  // Leaving: this caller leaves when its timeout passes, also if it is the leader, or when its stop
  //   is requested.
  // Errors: also throws `timed_out` and `operation_canceled`.
  template <class K = KeyType>
  Result<ValueType> Do(const K& key, const CallOptions& options) {
    if (options.stop.stop_requested()) std::rethrow_exception(detail::MakeCanceled());
    const detail::Deadline deadline = options.timeout.Deadline();
    detail::ThreadWaiter<ValueType> waiter;
    Join(key, waiter, options.on_failure);
    Await(waiter, deadline, options.stop);
    if (waiter.AsksAgain()) {
      if (options.stop.stop_requested()) {
        GiveUp(waiter);
        std::rethrow_exception(detail::MakeCanceled());
      }
      waiter.ExpectAnother();
      JoinAgain(key, waiter);
      Await(waiter, deadline, options.stop);
    }
    return waiter.TakeResult();
  }

  // Runs the batch that waits for its time, if there is one, without waiting any longer. Returns
  // how many keys it has.
  //
  // Thread: as the constructor says, `fn` may run on this thread.
  std::size_t Flush() { return core_->Flush(); }

  // The extension points for callers that do not block, as those of Group.
  template <class K = KeyType>
  Role Join(const K& key, Waiter& waiter, OnFailure on_failure = OnFailure::kShare) {
    return core_->Join(
        key, waiter, [](detail::UnusedLead) {}, on_failure);
  }
  template <class K = KeyType>
  Role JoinAgain(const K& key, Waiter& waiter) {
    return core_->JoinAgain(key, waiter, [](detail::UnusedLead) {});
  }
  void GiveUp(Waiter& waiter) noexcept { core_->GiveUp(waiter); }
  template <class K = KeyType>
  Future<ValueType> Join(const K& key) {
    return core_->Join(key, [](detail::UnusedLead) {});
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

  // Returns the statistics.
  BatcherStats GetStats() const { return core_->GetStats(); }

  // Internal: what CoDo and the like join. It has the members of a group.
  detail::BatcherCore<G>& AsGroup() noexcept { return *core_; }

 private:
  void Await(detail::ThreadWaiter<ValueType>& waiter, const detail::Deadline& deadline,
             const std::stop_token& stop) {
    bool left = false;
    {  // `fn` may run here, and must learn that its last caller has left
      const std::stop_callback on_stop(stop, [&] { left = waiter.Leave(); });
      core_->BeforeBlocking();
    }
    if (left) std::rethrow_exception(detail::MakeCanceled());
    const std::stop_callback on_stop(stop, [&waiter] { waiter.Interrupt(); });
    detail::WaitEdge edge;
    const bool deadlock = !edge.Record(*detail::SharedState<ValueType>::Of(waiter));
    if (deadlock ? waiter.LandedBeforeLeaving() : waiter.WaitOrLeave(edge, deadline)) return;
    if (deadlock) std::rethrow_exception(detail::MakeDeadlock());
    if (stop.stop_requested()) std::rethrow_exception(detail::MakeCanceled());
    std::rethrow_exception(detail::MakeTimedOut());
  }

  template <class Fn>
  static std::unique_ptr<detail::BatcherFn<G>> MakeFn(Fn&& fn) {
    static_assert(std::constructible_from<std::decay_t<Fn>, Fn>,
                  "the Batcher keeps fn: pass one that can be copied, or std::move it");
    return std::make_unique<detail::BatcherFnOf<G, std::decay_t<Fn>>>(std::forward<Fn>(fn));
  }
  template <class Executor>
  static std::unique_ptr<detail::BatcherExecutor<G>> MakeExecutor(Executor&& executor) {
    static_assert(
        std::is_invocable_v<std::decay_t<Executor>&, detail::BatcherTask<G>>,
        "executor must be callable as executor(task), where task is copyable and callable "
        "without arguments");
    static_assert(std::constructible_from<std::decay_t<Executor>, Executor>,
                  "the Batcher keeps executor: pass one that can be copied, or std::move it");
    return std::make_unique<detail::BatcherExecutorOf<G, std::decay_t<Executor>>>(
        std::forward<Executor>(executor));
  }
  static const BatcherOptions& Checked(const BatcherOptions& options) {
    if (options.max_keys == 0) {
      throw std::invalid_argument("singleflight: max_keys is 0: no key can be loaded");
    }
    if (options.max_threads == 0) {
      throw std::invalid_argument("singleflight: max_threads is 0: nothing can keep the time");
    }
    return options;
  }

  const std::shared_ptr<detail::BatcherCore<G>> core_;
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// Batcher: callers ask for single keys, and one call of a function loads the keys of all of them.
//
//   singleflight::Group<int, User> group;
//   // SELECT ... WHERE id IN (...), for the ids that were asked for within two milliseconds.
//   singleflight::Batcher users(
//       group, [&](std::span<const int> ids) { return db.LoadUsers(ids); },
//       {.max_keys = 100, .max_delay = 2ms});
//
//   const auto user = users.Do(42);                            // blocks this thread
//   auto future = singleflight::DoAsync(users, 42);            // async.hpp
//   const auto user = co_await singleflight::CoDo(users, 42);  // coro.hpp
//   AsyncDo(users, 42, token);                                 // asio.hpp
//
// DoMany, CoDoMany and DoManyAsync of many.hpp take a Batcher, too. Their keys join the batches of
// the single asks:
//
//   for (const auto& user : singleflight::DoMany(users, {7, 42})) Render(*user);
//
// The calls are those of the group. A caller whose key is in flight joins its call, whoever leads
// it. So a key that is in flight takes no place in a batch.
//
// A batch runs when it has `max_keys` keys, when `max_delay` has passed, or at Flush. On an event
// loop no time need pass at all. All that is asked in one round of the loop is one batch:
//
//   singleflight::Batcher users(group, load, {.max_delay = 0ms},
//                               [&loop](auto task) { loop.Post(task); });
//
// This is DataLoader's batching. For its cache, make the Batcher of a ReadThrough instead of a
// Group. Not a queue for work that must be done: a key is loaded for its callers, who may leave.

#include <concepts>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
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
#include "stop_token.hpp"

namespace singleflight {

// `G` is a Group or a ReadThrough. Neither copyable nor movable.
//
// Thread: every member may be called on any thread at any time, except the destructor. No lock is
//   held while `fn`, the executor, a stop request, or a key's or value's operation runs.
template <detail::GroupLike G>
class Batcher {
 public:
  using KeyType = typename G::KeyType;
  using ValueType = typename G::ValueType;
  using Waiter = typename G::Waiter;

  // `fn` is called as fn(std::span<const Key>) or fn(std::span<const Key>, StopToken). No key
  // is in one span twice. It returns the values in the order of its keys, or a map from key to
  // value, or nothing for a group of void. In place of a value it may return a key's error. The top
  // of many.hpp has the details: `fn` may return whatever that of DoMany may.
  //
  // Thread: if there is an executor, `executor(task)` is called for each batch, and `fn` runs where
  //   the task is called. `task` is copyable and takes no arguments. If there is none, `fn` runs on
  //   a thread of the Batcher's own if there is a `max_delay`, and otherwise on the thread that
  //   calls Flush, Do or DoMany, or that fills the batch. The Batcher starts threads of its own
  //   only to wait for `max_delay`, and to run `fn` after it. Batches do not wait for each other,
  //   so `fn` and `executor` may be called by several threads at the same time.
  // Leaving: if `fn` takes a stop token, a key whose last caller has left before `fn` is called is
  //   dropped, and a stop is requested of the token when no caller is left on any of the calls. If
  //   `fn` takes none, the key is loaded all the same, and newcomers join its call.
  // Errors: the callers of a key get one of
  //     what `fn` threw, what it returned as the error of this key, or what reading that threw
  //     `invalid_argument`: `fn` returned more or fewer values than keys, or two for this key
  //     `no_message`: `fn` returned no value for this key
  //     what the executor threw, or `owner_dead` if it destroyed the task without calling it
  //     what starting a thread, an allocation, or copying, hashing or comparing the key threw.
  //   The constructor throws std::invalid_argument if a limit is zero.
  // Lifetime: the group must outlive the Batcher, so declare it first. The executor is destroyed
  //   when the Batcher and all copies of the last task are gone, so what it needs must live as
  //   long.
  //
  // Warning: without a `max_delay`, keys whose batch is not full wait until somebody calls Flush,
  // Do or DoMany. So does Group::Close.
  //
  // Warning: `fn` may ask for other keys, but not for one of its own. If it waits for one of its
  // own on this thread, that is an error, as in Do. If it waits for a key whose batch is queued
  // behind it on the same thread of an executor, it waits for ever. So does a task of a pool that
  // waits for a key whose batch needs the same pool, and `fn` itself where `max_threads` leaves no
  // thread for the other keys. That is not detected.
  template <class Fn>
  Batcher(G& group, Fn&& fn, BatcherOptions options = {})
      : core_(std::make_shared<detail::BatcherCore<G>>(group, Checked(options),
                                                       MakeFn(std::forward<Fn>(fn)), nullptr)) {}
  template <class Fn, class Executor>
  Batcher(G& group, Fn&& fn, BatcherOptions options, Executor&& executor)
      : core_(std::make_shared<detail::BatcherCore<G>>(
            group, Checked(options), MakeFn(std::forward<Fn>(fn)),
            MakeExecutor(std::forward<Executor>(executor)))) {}

  // Stops, as std::jthread does: keys that wait for their batch land with `owner_dead`, a stop is
  // requested of the token that `fn` takes, and the destructor waits until `fn` has returned. Tasks
  // that the executor still has then do nothing. If the keys that wait shall be loaded, call Flush
  // first.
  //
  // Thread: no other thread may be inside a member, or enter one, meanwhile. Waiters are notified
  //   on this thread, too. A waiter that a batch notifies, or a coroutine that it resumes, may
  //   destroy the Batcher.
  //
  // Warning: `fn` must not destroy the Batcher: the destructor would wait for it.
  ~Batcher() { core_->Close(); }

  Batcher(const Batcher&) = delete;
  Batcher& operator=(const Batcher&) = delete;

  // Returns the result of the call in flight for `key`. If there is none, makes one, which is
  // loaded in a batch. `key` is anything that Group::Do accepts.
  //
  // Without a `max_delay`, it calls Flush before it waits: this thread may be the one that would
  // have called it later. To wait for another thread's Flush, use DoAsync(batcher, key).Get().
  //
  // Thread: blocks.
  // Errors: throws the errors of the key that the constructor lists, and those of Group::Do.
  template <class K = detail::BracedKey<KeyType>>
  Result<ValueType> Do(const K& key) {
    return Do(key, CallOptions());
  }

  // The same, for a caller with options.
  //
  // Leaving: this caller, leader or follower, leaves when its timeout passes or its stop is
  //   requested. If `fn` runs on this thread, it returns only when `fn` does.
  // Errors: also throws `timed_out` and `operation_canceled`.
  template <class K = detail::BracedKey<KeyType>>
  Result<ValueType> Do(const K& key, const CallOptions& options) {
    if (options.stop.stop_requested()) std::rethrow_exception(detail::MakeCanceled());
    const detail::Deadline deadline = options.timeout.Deadline();
    const std::shared_ptr<Core> core = core_;  // a waiter may destroy the Batcher meanwhile
    detail::Monitor monitor;
    detail::ThreadWaiter<ValueType> waiter(monitor);
    JoinBy([&](auto launch) { core->Join(key, waiter, launch, options.on_failure); }, *core, waiter,
           options.stop);
    Await(waiter, deadline, options.stop);
    if (waiter.AsksAgain()) {
      if (options.stop.stop_requested()) {
        core->GiveUp(waiter);
        std::rethrow_exception(detail::MakeCanceled());
      }
      waiter.ExpectAnother();
      JoinBy([&](auto launch) { core->JoinAgain(key, waiter, launch); }, *core, waiter,
             options.stop);
      Await(waiter, deadline, options.stop);
    }
    return waiter.TakeResult();
  }

  // Runs the batch that waits for more keys, at once. Returns how many keys it
  // has, or 0 if there is none. Keys that are asked for because of its results are in the next
  // batch: call it until it returns 0.
  //
  // Thread: the constructor's comment says where `fn` runs.
  std::size_t Flush() { return core_->Flush(); }

  // The extension points for callers that do not block, as those of Group. A waiter may be notified
  // before Join returns.
  template <class K = detail::BracedKey<KeyType>>
  Role Join(const K& key, Waiter& waiter, OnFailure on_failure = OnFailure::kShare) {
    return core_->Join(
        key, waiter, [](detail::UnusedLead) {}, on_failure);
  }
  template <class K = detail::BracedKey<KeyType>>
  Role JoinAgain(const K& key, Waiter& waiter) {
    return core_->JoinAgain(key, waiter, [](detail::UnusedLead) {});
  }
  void GiveUp(Waiter& waiter) noexcept { core_->GiveUp(waiter); }
  template <class K = detail::BracedKey<KeyType>>
  Future<ValueType> Join(const K& key) {
    return core_->Join(key, [](detail::UnusedLead) {});
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

  // Returns the statistics. They are not a snapshot of one moment.
  BatcherStats GetStats() const { return core_->GetStats(); }

  // Internal: what CoDo and the like join. It has the members of a group.
  detail::BatcherCore<G>& AsGroup() noexcept { return *core_; }

 private:
  using Core = detail::BatcherCore<G>;

  // Makes a waiter leave when a stop is requested. Not inline, because g++ 12 would warn of an
  // optional that it takes for uninitialized.
  class LeaveOnStop {
   public:
    explicit LeaveOnStop(Waiter& waiter) noexcept : waiter_(waiter) {}
    [[gnu::noinline]] ~LeaveOnStop() {}
    LeaveOnStop(const LeaveOnStop&) = delete;
    LeaveOnStop& operator=(const LeaveOnStop&) = delete;

    // Listens until Finish. Only the first call has an effect.
    [[gnu::noinline]] void Listen(const StopToken& stop) {
      if (!callback_) callback_.emplace(stop, Callback{this});
    }
    // Returns whether it has left.
    [[gnu::noinline]] bool Finish() noexcept {
      callback_.reset();
      return left_;
    }

   private:
    struct Callback {
      void operator()() const noexcept { self->left_ = self->waiter_.Leave(LeaveReason::kStop); }
      LeaveOnStop* self;
    };
    Waiter& waiter_;
    bool left_ = false;
    std::optional<StopCallback<Callback>> callback_;
  };

  // Joins by `join(launch)`, and flushes if this thread must. `fn` may run in either, and must
  // learn that its last caller has left.
  template <class Join>
  static void JoinBy(const Join& join, Core& core, Waiter& waiter, const StopToken& stop) {
    LeaveOnStop leaving(waiter);
    join([&](detail::UnusedLead) { leaving.Listen(stop); });
    leaving.Listen(stop);  // if it follows
    core.BeforeBlocking();
    if (leaving.Finish()) std::rethrow_exception(detail::MakeCanceled());
  }

  static void Await(detail::ThreadWaiter<ValueType>& waiter, const detail::Deadline& deadline,
                    const StopToken& stop) {
    const StopCallback on_stop(stop, [&waiter] { waiter.Interrupt(); });
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
    return std::make_unique<detail::BatcherFnOf<G, std::decay_t<Fn>>>(std::in_place,
                                                                      std::forward<Fn>(fn));
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
        std::in_place, std::forward<Executor>(executor));
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

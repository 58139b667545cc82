// SPDX-License-Identifier: MIT
#pragma once

#include "detail/requirements.hpp"  // first: <coroutine> reports an older standard misleadingly

// DoMany: asks for many keys at once, and runs one function for all that are not in flight yet.
//
//   // SELECT ... WHERE id IN (...), for the ids that nobody is loading at this moment.
//   const auto load = [&](std::span<const int> missing) {
//     return db.LoadUsers(missing);  // a vector in this order, or a map
//   };
//   for (const auto& user : singleflight::DoMany(users, ids, load)) {  // in the order of `ids`
//     if (user) Render(user->name);
//   }
//
// Each key is a call of its own, as if Do had asked for it. Other callers join it, and get its
// result as soon as the function has returned.
//
// CoDoMany does the same in a coroutine, and DoManyAsync with a Future for each key. They block no
// thread:
//
//   const auto found = co_await singleflight::CoDoMany(users, ids, load, pool, token);
//
//   std::vector<singleflight::Future<User>> found = singleflight::DoManyAsync(users, ids, load);
//
// All three take a Batcher in place of a group and its function: see batcher.hpp.
//
// What the function returns says for each key what its call's outcome is. It is one of
//
//   a range of the values, in the order of the function's keys
//   a map, or a range of (key, value) pairs, in any order
//   nothing, for a group of void.
//
// A range is anything that std::ranges::input_range accepts, also a view or a generator. Keys are
// compared as the group compares them. A key that a map lacks has the error `no_message`. A set and
// a multimap are refused, and so is a view that shows only the values of a map: their order is not
// that of the function's keys. (A view that is made of a set's iterators cannot be told from
// others, and is read in the set's order.)
//
// A single key may fail. In place of its value, return what holds a value or an error: a
// KeyResult<Value>, or whatever has has_value(), error(), and `*` or value(), as std::expected has.
// If it also has has_exception() and exception(), as Boost.Outcome's outcome has, that exception
// comes before the error. For a group of void, return a KeyResult<void>, an expected of void, or a
// std::exception_ptr.
//
// An error that is a std::exception_ptr is rethrown, a std::error_code becomes a std::system_error,
// and any other is thrown as it is, also a boost::exception_ptr. If the group's Value holds errors
// itself, its objects are values like any others.
//
// A lazy range may also throw when one element is read: that is its key's failure alone. Each
// element is read once. If the range throws elsewhere, that fails all keys without an outcome.
//
// Elements are moved out of a container that was returned by value. Those of a view, a span or a
// container that was returned by reference belong to somebody else, and are copied. A KeyResult
// that is shared is copied, too. If its value cannot be, its key has the error `invalid_argument`.

#include <concepts>
#include <coroutine>
#include <initializer_list>
#include <memory>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include "detail/awaitable.hpp"
#include "detail/batch_fn.hpp"
#include "detail/group_like.hpp"
#include "detail/invoke.hpp"
#include "detail/later_launch.hpp"
#include "detail/many/batch.hpp"
#include "detail/many/batch_work.hpp"
#include "detail/many/co_batch.hpp"
#include "detail/many/future_batch.hpp"
#include "detail/many/later_batch.hpp"
#include "detail/many/later_leads.hpp"
#include "detail/new_thread.hpp"
#include "detail/resume_inline.hpp"
#include "detail/returned_range.hpp"
#include "future.hpp"
#include "group.hpp"
#include "key_result.hpp"
#include "options.hpp"
#include "stop_token.hpp"

namespace singleflight {

namespace detail {

template <class G, class Keys>
constexpr bool CheckKeys() {
  static_assert(std::ranges::input_range<Keys>,
                "keys must be a range of what Do accepts as a key, or {a, b, c} of Keys");
  return std::ranges::input_range<Keys>;
}

template <class G, class Fn>
constexpr bool CheckCoBatchFn() {
  detail::CheckKept<Fn>();
  if constexpr (detail::CheckCallable<G, std::decay_t<Fn>>()) {
    return detail::CheckReturned<G, typename AwaitedBy<G, std::decay_t<Fn>>::Type>();
  }
  return false;
}

template <class G, class Fn, class Executor>
constexpr bool CheckBatchExecutor() {
  if constexpr (BatchFn<G, Fn>::kCallable) {  // CheckCallable refuses it otherwise
    constexpr bool kTakesTask = std::is_invocable_v<Executor, BatchTask<G, Fn>>;
    static_assert(kTakesTask,
                  "executor must be callable as executor(task), where task is copyable and "
                  "callable without arguments");
    return kTakesTask;
  }
  return true;
}

template <class ResumeOn>
constexpr void CheckManyResumeOn() {
  static_assert(std::is_invocable_v<std::decay_t<ResumeOn>&, std::coroutine_handle<>>,
                "resume_on must be callable as resume_on(std::coroutine_handle<>)");
  static_assert(std::constructible_from<std::decay_t<ResumeOn>, ResumeOn>,
                "CoDoMany keeps resume_on: pass one that can be copied, or std::move it");
}

template <class G, class Keys, class Fn, class Executor, class ResumeOn>
auto MakeCoDoMany(G& group, Keys& keys, Fn&& fn, Executor&& executor, const StopToken& stop,
                  ResumeOn&& resume_on) {
  detail::CheckManyResumeOn<ResumeOn>();
  if constexpr (detail::CheckKeys<G, Keys>() && detail::CheckCoBatchFn<G, Fn>()) {
    using Work = CoDoManyWork<G, Fn, Executor>;
    return CoDoManyCall<Work, ResumeOn>(
        Work(group, std::forward<Fn>(fn), std::forward<Executor>(executor)), keys, stop,
        std::forward<ResumeOn>(resume_on));
  }
}

}  // namespace detail

// Asks for all of `keys`, and returns a result or an error for each, in their order. `keys` is any
// range of what Do accepts as a key, or {a, b, c} of Keys. It is read once.
//
// Keys whose call is in flight are joined. For the others, `fn` runs once, as
// fn(std::span<const Key>) or fn(std::span<const Key>, StopToken). The top of this header
// says what it may return. Its calls land before the others are waited for, so overlapping batches
// cannot block each other. A key that is given twice is asked for once, and its places share the
// result.
//
// **Warning:** DoMany blocks. If all threads of a pool are inside DoMany, and wait for keys whose
// work is queued behind them in the same pool, none of them makes progress. This is not detected.
// On a pool use CoDoMany or DoManyAsync, which block no thread, or give batches a pool of their
// own.
//
// Thread: blocks. `fn` runs on this thread.
// Leaving: as in Do, but the timeout counts from the start, so it includes the time that `fn`
//   takes. If a stop is requested, this caller leaves all of its calls at once, also those that it
//   follows while its own `fn` runs. It then gets `operation_canceled` for them, but returns only
//   when `fn` does. If `fn` takes a stop token, a stop is requested of it when no caller is left on
//   any of its calls.
// Retrying: with OnFailure::kRetry, keys whose other leader failed are asked for again. For those
//   that this caller then leads, `fn` runs again.
// Errors: for each key, one of
//     what the `fn` that ran for it threw, or returned as the error of this key
//     `invalid_argument`: `fn` returned more or fewer values than it got keys, or two for this key
//     `no_message`: `fn` returned no value for this key
//     what Do throws.
//   DoMany itself throws only what reading, copying, hashing or comparing the keys throws, and
//   std::bad_alloc.
template <detail::GroupLike G,
          class Keys = std::initializer_list<detail::BracedKey<typename G::KeyType>>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn,
                                                     const CallOptions& options) {
  if constexpr (detail::CheckKeys<G, Keys>() && detail::CheckBatchFn<G, Fn>()) {
    if constexpr (detail::LaunchesLater<G>) {
      return detail::LaterBatch<G>(group, keys, options).Run(fn);
    } else {
      return detail::Batch<G>(group, keys, options).Run(fn);
    }
  }
}

// The same, without options.
template <detail::GroupLike G,
          class Keys = std::initializer_list<detail::BracedKey<typename G::KeyType>>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn) {
  return singleflight::DoMany(group, std::forward<Keys>(keys), std::forward<Fn>(fn), {});
}

// The same, for a group whose calls all have the same work: see batcher.hpp. The keys that are not
// in flight join the batches of single asks, one after the other. So `fn` gets them with keys of
// other callers, and in several calls if they are more than `max_keys`.
//
// Thread: blocks. Without a `max_delay`, it calls Flush before it waits, as Batcher::Do does. The
//   Batcher's constructor says where `fn` runs.
// Leaving: when the timeout passes, or a stop is requested, this caller leaves all of its calls. If
//   `fn` runs on this thread, it returns only when `fn` does.
// Errors: for each key, one of those that the Batcher's constructor lists, or what Do throws.
template <detail::GroupWithOwnFn B,
          class Keys = std::initializer_list<detail::BracedKey<typename B::KeyType>>>
std::vector<KeyResult<typename B::ValueType>> DoMany(B& batcher, Keys&& keys,
                                                     const CallOptions& options) {
  using G = detail::GroupOf<B>;
  if constexpr (detail::CheckKeys<G, Keys>()) {
    const std::shared_ptr<G> group = batcher.AsGroup().shared_from_this();
    return detail::Batch<G>(*group, keys, options).Run();
  }
}
template <detail::GroupWithOwnFn B,
          class Keys = std::initializer_list<detail::BracedKey<typename B::KeyType>>>
std::vector<KeyResult<typename B::ValueType>> DoMany(B& batcher, Keys&& keys) {
  return singleflight::DoMany(batcher, std::forward<Keys>(keys), CallOptions());
}

// co_await CoDoMany(...) does what DoMany does, without blocking a thread: the coroutine is resumed
// when all keys have an outcome, or when it is stopped. `fn` may also return an awaitable of what
// DoMany's `fn` returns. The keys are read, and copied, before this returns. What is passed as a
// temporary is kept. The rest must exist until it is awaited.
//
// Thread: a plain `fn` runs on this thread, inside co_await. An awaitable one starts here and
//   continues wherever it is resumed. If all keys have an outcome before this coroutine has
//   suspended, the coroutine continues at once. Otherwise `resume_on(std::coroutine_handle<>)` is
//   called once, on the thread that lands the last call or requests `stop`, with no lock held and
//   outside any catch block. `resume_on` must not throw, nor wait for the coroutine.
// Leaving: request `stop`, or destroy the coroutine's frame. The calls continue for the others, and
//   `fn` runs on even if nobody is left. If `fn` takes a stop token, a stop is requested of it when
//   no caller is left on any of its calls. A coroutine that is stopped gets `operation_canceled`
//   for the keys that had no outcome.
// Errors: as DoMany, for each key. CoDoMany itself throws what reading, copying, hashing or
//   comparing the keys throws, and std::bad_alloc. The co_await throws nothing.
// Lifetime: no caller owns the work, so `fn` must own what it needs. ~Group waits for the calls. If
//   the thread that destroys the group also runs the loop that resumes their work, it must first
//   run the loop until they have landed. Request no stop while another thread destroys the group.
//
// **Warning:** a call that waits for itself through coroutines is not detected. An awaitable `fn`
// must neither await nor block for one of its own keys.
//
// **Warning:** GCC cannot compile keys in braces inside a co_await expression. Name the keys first.
// What coro.hpp says of GCC and of frames that are destroyed while a call lands is true here, too.
template <detail::GroupLike G,
          class Keys = std::initializer_list<detail::BracedKey<typename G::KeyType>>, class Fn,
          class ResumeOn = ResumeInline>
auto CoDoMany(G& group, Keys&& keys, Fn&& fn, const StopToken& stop = StopToken(),
              ResumeOn&& resume_on = ResumeOn()) {
  return detail::MakeCoDoMany(group, keys, std::forward<Fn>(fn), detail::NoExecutor(), stop,
                              std::forward<ResumeOn>(resume_on));
}

// The same, with the work on an executor: `executor(task)` is called on this thread, inside
// co_await, unless all keys are in flight. `task` is copyable and takes no arguments. It may be
// called on any thread, at once or later, and runs `fn` once, however often it is called. An
// awaitable `fn` starts there.
//
// Errors: what the executor throws is the failure of the calls, unless their work has begun. If the
//   task is destroyed before it has run, they land with `owner_dead`.
template <detail::GroupLike G,
          class Keys = std::initializer_list<detail::BracedKey<typename G::KeyType>>, class Fn,
          detail::NotStopToken Executor, class ResumeOn = ResumeInline>
auto CoDoMany(G& group, Keys&& keys, Fn&& fn, Executor&& executor,
              const StopToken& stop = StopToken(), ResumeOn&& resume_on = ResumeOn()) {
  if constexpr (detail::CheckBatchExecutor<G, std::decay_t<Fn>, Executor>()) {
    return detail::MakeCoDoMany(group, keys, std::forward<Fn>(fn), std::forward<Executor>(executor),
                                stop, std::forward<ResumeOn>(resume_on));
  }
}

// The same, for a group whose calls all have the same work: see batcher.hpp. The keys join the
// batches of single asks, as in DoMany.
//
// Thread: the Batcher's constructor says where `fn` runs. That may be this thread, inside co_await,
//   if the keys fill a batch. No batch is flushed.
// Errors: for each key, one of those that the Batcher's constructor lists, or what CoDo throws.
// Lifetime: no caller owns the work. The Batcher's destructor lands the calls that wait for it.
template <detail::GroupWithOwnFn B,
          class Keys = std::initializer_list<detail::BracedKey<typename B::KeyType>>,
          class ResumeOn = ResumeInline>
auto CoDoMany(B& batcher, Keys&& keys, const StopToken& stop = StopToken(),
              ResumeOn&& resume_on = ResumeOn()) {
  using Work = detail::CoDoManyOwnWork<B>;
  detail::CheckManyResumeOn<ResumeOn>();
  if constexpr (detail::CheckKeys<detail::GroupOf<B>, Keys>()) {
    return detail::CoDoManyCall<Work, ResumeOn>(Work(batcher), keys, stop,
                                                std::forward<ResumeOn>(resume_on));
  }
}

// Asks for all of `keys`, and returns a Future for each, in their order. Keys whose call is in
// flight are joined. The work of the others is one task, which runs `fn` as DoMany does. It is
// given to the executor as `executor(task)`, unless there is none. A key that is given twice is
// asked for twice. The keys are read, and copied, before any is asked for.
//
// Thread: `executor` is called on this thread, and nothing else here blocks. `task` is copyable and
//   takes no arguments. It may be called on any thread, at once or later. It runs `fn` once,
//   however often it is called.
// Leaving: destroy a Future, and its caller leaves that key's call. If `fn` takes a stop token, a
//   stop is requested of it when no caller is left on any of its calls.
// Errors: a Future reports what DoMany has for its key. What the executor throws is the failure of
//   the calls, unless their work has begun. If the task is destroyed before it has run, they land
//   with `owner_dead`. DoManyAsync itself throws what reading or copying the keys throws, and
//   std::bad_alloc.
// Lifetime: `fn` may outlive this caller, so it must own what it needs. ~Group waits for the tasks,
//   so declare a pool before the groups that it works for.
//
// **Warning:** a thread of the pool that waits for one of these Futures may keep their own task
// from running. This is not detected. Wait elsewhere, or use CoDoMany.
template <detail::GroupLike G,
          class Keys = std::initializer_list<detail::BracedKey<typename G::KeyType>>, class Fn,
          class Executor = NewThread>
std::vector<Future<typename G::ValueType>> DoManyAsync(G& group, Keys&& keys, Fn&& fn,
                                                       Executor&& executor = Executor()) {
  using Kept = std::decay_t<Fn>;
  detail::CheckKept<Fn>();
  if constexpr (detail::CheckKeys<G, Keys>() && detail::CheckBatchFn<G, Kept>()) {
    if constexpr (detail::CheckBatchExecutor<G, Kept, Executor>()) {
      detail::FutureBatch<G> batch(keys);
      if constexpr (detail::LaunchesLater<G>) {
        static_assert((detail::CheckLaterExecutor<Executor>(), true));
        using Leads = detail::LaterLeads<G, Kept, std::decay_t<Executor>>;
        return batch.JoinLater(group, std::make_shared<Leads>(group, std::forward<Fn>(fn),
                                                              std::forward<Executor>(executor)));
      } else {
        detail::BatchLeads<G, Kept> leads;
        const auto lead = [&leads](const auto& key, auto its_lead) {
          leads.Add(key, std::move(its_lead));
        };
        return batch.Join(group, lead, [&] {
          leads.Begin(std::forward<Fn>(fn), [&](const auto& work) {
            std::invoke(std::forward<Executor>(executor), detail::BatchTask<G, Kept>(work));
          });
        });
      }
    }
  }
}

// The same, for a group whose calls all have the same work: see batcher.hpp. The keys join the
// batches of single asks, as in DoMany. A key that is given twice is asked for twice. If its batch
// has run in between, it is loaded again.
//
// Thread: the Batcher's constructor says where `fn` runs. That may be this thread, if the keys fill
//   a batch. No batch is flushed.
// Errors: a Future reports one of the errors that the Batcher's constructor lists, or what DoAsync
//   throws.
template <detail::GroupWithOwnFn B,
          class Keys = std::initializer_list<detail::BracedKey<typename B::KeyType>>>
std::vector<Future<typename B::ValueType>> DoManyAsync(B& batcher, Keys&& keys) {
  using G = detail::GroupOf<B>;
  if constexpr (detail::CheckKeys<G, Keys>()) {
    const std::shared_ptr<G> group = batcher.AsGroup().shared_from_this();
    detail::FutureBatch<G> batch(keys);
    return batch.Join(
        *group, [](const auto&, detail::UnusedLead) {}, [] {});
  }
}

}  // namespace singleflight

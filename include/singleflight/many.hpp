// SPDX-License-Identifier: MIT
#pragma once

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
// What the function returns says for each key what its call's outcome is. It is one of
//
//   a range of the values, in the order of the function's keys
//   a map, or a range of (key, value) pairs, in any order
//   nothing, for a group of void.
//
// A range is anything that std::ranges::input_range accepts, also a view or a generator. Keys are
// compared as the group compares them. A key that a map lacks has the error
// `no_message_available`. A set and a multimap are refused, and so is a view that shows only the
// values of a map: their order is not that of the function's keys.
//
// A single key may fail. In place of its value, return what holds a value or an error: a
// KeyResult<Value>, or whatever has has_value(), error(), and `*` or value(), as std::expected has.
// For a group of void that is a KeyResult<void>, an expected of void, or a std::exception_ptr. An
// error that is a std::exception_ptr is rethrown, a std::error_code becomes a std::system_error,
// and any other is thrown as it is. If the group's Value holds errors itself, its objects are
// values like any others.
//
// A lazy range may also throw when one element is read: that is its key's failure alone. Each
// element is read once. If the range throws elsewhere, that fails all keys without an outcome.
//
// Elements are moved out of a container that was returned by value. Those of a view, a span or a
// container that was returned by reference belong to somebody else, and are copied.

#include <concepts>
#include <initializer_list>
#include <ranges>
#include <utility>
#include <vector>

#include "detail/awaitable.hpp"
#include "detail/batch_fn.hpp"
#include "detail/group_like.hpp"
#include "detail/many/batch.hpp"
#include "detail/returned_range.hpp"
#include "group.hpp"
#include "key_result.hpp"
#include "options.hpp"

namespace singleflight {

namespace detail {

template <class G, class Keys>
constexpr bool CheckKeys() {
  static_assert(std::ranges::input_range<Keys>,
                "keys must be a range of what Do accepts as a key, or {a, b, c} of Keys");
  static_assert(!std::same_as<typename G::KeyType, bool>,
                "there is no span of a std::vector<bool>: give the group another type of key");
  return std::ranges::input_range<Keys> && !std::same_as<typename G::KeyType, bool>;
}

// Checks an `fn` whose result is not awaited.
template <class G, class Fn>
constexpr bool CheckBatchFn() {
  if constexpr (detail::CheckCallable<G, Fn>()) {
    using Returned = ReturnedBy<G, Fn>;
    static_assert(!Awaitable<Returned>,
                  "fn returned an awaitable, and nobody would await it: await it in fn");
    if constexpr (!Awaitable<Returned>) return detail::CheckReturned<G, Returned>();
  }
  return false;
}

}  // namespace detail

// Asks for all of `keys`, and returns a result or an error for each, in their order. `keys` is any
// range of what Do accepts as a key, or {a, b, c} of Keys. It is read once.
//
// Keys whose call is in flight are joined. For the others, `fn` runs once, as
// fn(std::span<const Key>) or fn(std::span<const Key>, std::stop_token). The top of this header
// says what it may return. Its calls land before the others are waited for, so overlapping batches
// cannot block each other. A key that is given twice is asked for once, and its places share the
// result.
//
// **Warning:** DoMany blocks. If all threads of a pool are inside DoMany, and wait for keys whose
// work is queued behind them in the same pool, none of them makes progress. This is not detected.
// Give batches a pool of their own.
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
//     `no_message_available`: `fn` returned no value for this key
//     what Do throws.
//   DoMany itself throws only what reading, copying, hashing or comparing the keys throws, and
//   std::bad_alloc.
template <detail::GroupLike G, class Keys = std::initializer_list<typename G::KeyType>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn,
                                                     CallOptions options) {
  if constexpr (detail::CheckKeys<G, Keys>() && detail::CheckBatchFn<G, Fn>()) {
    return detail::Batch<G>(group, keys, options).Run(fn);
  }
}

// The same, without options.
template <detail::GroupLike G, class Keys = std::initializer_list<typename G::KeyType>, class Fn>
std::vector<KeyResult<typename G::ValueType>> DoMany(G& group, Keys&& keys, Fn&& fn) {
  return singleflight::DoMany(group, std::forward<Keys>(keys), std::forward<Fn>(fn), {});
}

}  // namespace singleflight

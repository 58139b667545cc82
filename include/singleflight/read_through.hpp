// SPDX-License-Identifier: MIT
#pragma once

// ReadThrough: a cache and a group combined. A value that the cache has comes from the cache. A
// value that it lacks is loaded once for all callers that ask at the same time.
//
//   singleflight::ReadThrough<std::string, User> users({.ttl = 60s, .stale_for = 10s});
//
//   const auto user = users.Get("user:42", [id = 42] { return Load(id); });
//   ...
//   Save(changed);
//   users.Invalidate("user:42");  // a load that began earlier cannot put the old user back
//
// Its cache is an LruCache, and the options say how long values live, how they are refreshed, and
// what happens after a failure: see read_through_options.hpp. A load may say that of its own value:
//
//   return singleflight::Cached(user, {.ttl = 5s});
//
// **Warning:** with stale_for or early_refresh, a load may run after the Get that brought it has
// returned. It must own what it uses, so capture by value.
//
// The cache may also be yours or a library's: ReadThrough<Key, Value, Cache>. It needs:
//
//   std::optional<Value> Get(key);        // empty: the cache does not have it
//   void Put(key, const Value& value);
//   void Erase(key);                      // for Invalidate
//   void Clear();                         // for InvalidateAll
//   void EraseIf(predicate);              // for InvalidateIf: those with predicate(const Key&)
//
// Its size, its eviction and its expiry are its own, so the options that say how long values live
// are refused. If it keeps CacheEntry<Value> instead of Value, all options work. If its Put also
// takes a Duration, it learns how long it need keep a value.
//
// `key` is a const Key&. For a string Key it is a std::string_view, if the first three operations
// accept that. The cache is called under a lock, unless it declares that it need not be:
//
//   static constexpr bool kConcurrent = true;
//
// Thread: the cache is called on the thread that asks and on the thread that lands the call, even
//   if the caller does not block.
// Errors: a cache that throws never fails a caller that could be served without it. If its Get
//   throws, that counts as a miss. If its Put throws, the callers still get the value. GetStats
//   counts both.
// Cost: a hit copies the Value. If values are large, use a std::shared_ptr<const T>.
//
// Warning: do not put a cache that waits for a network on an event loop. It would block the loop.
//
// Warning: a cache of yours, and the values that it copies and destroys, may not call back into the
// ReadThrough, or into another that refers to the same cache. Values in an LruCache, and its
// weigher, may, but not while the ReadThrough is being destroyed.
//
// DoAsync, CoDo, AsyncDo and DoMany accept a ReadThrough in place of a group. Their `fn` is the
// load:
//
//   const auto user = co_await singleflight::CoDo(users, id, load);
//   auto page = singleflight::DoMany(users, ids, load_missing);
//
// Why not just look in a cache and then ask a group? Those two lines have two races. A caller that
// misses just before another's load lands, and asks the group just after, loads a second time. And
// a value that is invalidated while it is loaded is put back.

#include <concepts>
#include <cstddef>
#include <functional>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include "call_info.hpp"
#include "detail/braced_key.hpp"
#include "detail/cached_load.hpp"
#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/landed_state.hpp"
#include "detail/read_through/cache_key.hpp"
#include "detail/read_through/load_note.hpp"
#include "detail/read_through/loads.hpp"
#include "detail/read_through/value_store.hpp"
#include "detail/task.hpp"
#include "future.hpp"
#include "group.hpp"
#include "hash.hpp"
#include "latency_histogram.hpp"
#include "lead.hpp"
#include "options.hpp"
#include "read_through_options.hpp"
#include "result.hpp"
#include "stop_token.hpp"
#include "value_traits.hpp"

namespace singleflight {

// `Cache` may be a reference, `Cache&`, to a cache that outlives the ReadThrough. Those that refer
// to one object, as the same type, call it under one lock. (Copies of a handle to a cache are
// different objects, so a handle that is copied must be kConcurrent.)
//
// Thread: every member may be called on any thread at any time, except the destructor.
template <class Key, class Value, class Cache = DefaultCache, class Hash = DefaultHash<Key>,
          class KeyEqual = DefaultEqual<Key>, class Traits = ReadThroughTraits>
class ReadThrough {
  static_assert(!std::is_void_v<Value>, "Value is void: there is nothing to cache; use a Group");
  static_assert(!detail::kIsViewKey<Key>,
                "Key is a view or a pointer to characters, and the cache would keep it when they "
                "are gone: use a std::string, which every function also takes as a view");
  static_assert(std::is_reference_v<Cache> || std::move_constructible<Cache>,
                "Cache cannot be moved: construct it elsewhere and pass `Cache&`");

  using Loads = detail::Loads<Key, Value, Cache, Hash, KeyEqual, Traits>;
  using Store = typename Loads::Store;
  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  using Reason = detail::LoadReason;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  using Options = ReadThroughOptions<Key, Value>;
  using Listener = typename Traits::Listener;
  using Waiter = typename Loads::Waiter;
  using Lead = typename Loads::Lead;

  // Errors: throws std::invalid_argument for options that make no sense, or that the cache or the
  //   Value cannot fulfil, and as Group does.
  explicit ReadThrough(Options options = {}) requires std::same_as<Cache, DefaultCache>
      : loads_(std::move(options)) {}
  explicit ReadThrough(Cache cache,
                       Options options = {}) requires(!std::same_as<Cache, DefaultCache>)
      : loads_(std::move(options), std::forward<Cache>(cache)) {}
  // The same with a listener, which is told of the loads. It is moved here: see listener.hpp.
  ReadThrough(Options options, Listener listener) requires std::same_as<Cache, DefaultCache>
      : loads_(detail::ListenedTo(), std::move(listener), std::move(options)) {}
  ReadThrough(Cache cache, Options options,
              Listener listener) requires(!std::same_as<Cache, DefaultCache>)
      : loads_(detail::ListenedTo(), std::move(listener), std::move(options),
               std::forward<Cache>(cache)) {}

  // Like ~Group: asks loads that are led asynchronously to stop, and waits for them.
  ~ReadThrough() = default;

  ReadThrough(const ReadThrough&) = delete;
  ReadThrough& operator=(const ReadThrough&) = delete;

  // Returns the cache's value for `key`, or else the result of the call in flight. If there is
  // neither, leads a call, which looks in the cache again. If that finds nothing either, the call
  // runs `load()` or `load(StopToken)`, and puts the value before it lands. A value that this
  // caller finds at its first look is not shared(), and its role() is kLeader. `key` is as in
  // Group::Do. `load` may return Cached(value, options) in place of a Value.
  //
  // A value that has expired is returned only if stale_for allows it. Then, and if early_refresh
  // says so, a copy of `load` refreshes it in the background, unless a call for `key` is in flight.
  // With a soft_timeout, a caller that finds an expired value waits for that first. It gets the
  // expired value when the time is over, its timeout passes, its stop is requested or the load
  // fails.
  //
  // A value is put only while its call is wanted: not if Invalidate or a newer call (max_age) came
  // first, nor if the last caller left a load that takes a stop token. A load that takes none goes
  // on when its callers have left, and its value is put. A value that is a failure is not put.
  //
  // Thread: the leader's `load` runs on this thread.
  // Leaving: as in Group::Do. A caller whose stop was requested before still gets a cached value.
  // Errors: as in Group::Do. Neither what `load` throws nor a value that is a failure (see
  //   IsFailure) is cached.
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Get(const K& key, Fn&& load) {
    return loads_.Get(KeyRef::Adapt(key), std::forward<Fn>(load), nullptr);
  }
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Get(const K& key, Fn&& load, const CallOptions& options) {
    return loads_.Get(KeyRef::Adapt(key), std::forward<Fn>(load), &options);
  }

  // Erases the cache's entry and forgets the call in flight. A Get that starts after this has
  // returned never sees the cached value, nor one whose load began before. So change the source
  // first, and then invalidate. What retry_after remembers of the key is dropped, too. Callers
  // already on the call get its value. Other ReadThroughs and processes that use the same cache
  // must invalidate their own loads.
  //
  // Thread: waits while a value for `key` is being put.
  // Errors: throws what Cache::Erase throws. The entry may then remain, but the call is forgotten.
  // Lifetime: `key` must not be an object inside the cache.
  template <class K = detail::BracedKey<Key>>
  void Invalidate(const K& key) {
    static_assert(Store::kCanErase, "to Invalidate, the Cache needs `Erase(const Key&)`");
    auto&& adapted = KeyRef::Adapt(key);
    store().Erase(adapted, group().ledger_.HashOf(KeyRef(adapted)), Forgetting(adapted));
  }

  // The same for all keys, or for those of which `predicate(const Key&)` is true.
  //
  // Thread: waits while values are being put. The predicate runs on this thread. With an LruCache
  //   it may use the ReadThrough. It is asked more than once of a key.
  // Errors: throws what Cache::Clear, Cache::EraseIf or the predicate throws. Entries may then
  //   remain. InvalidateIf copies the keys of the calls in flight, and throws what that throws.
  void InvalidateAll() {
    static_assert(Store::kCanClear, "to InvalidateAll, the Cache needs `Clear()`");
    store().Clear([this] { group().ForgetAll(); });
  }
  template <class Predicate>
  void InvalidateIf(Predicate&& predicate) {
    static_assert(Store::kCanEraseIf,
                  "to InvalidateIf, the Cache needs `EraseIf(predicate)`, which calls "
                  "predicate(const Key&) and erases the keys for which it is true");
    static_assert(std::predicate<Predicate&, const Key&>,
                  "predicate must be callable as predicate(const Key&) and return bool: a load in "
                  "flight has no value yet");
    static_assert(std::copy_constructible<Key>,
                  "InvalidateIf copies the keys of loads in flight, and this Key cannot be copied");
    store().EraseIf(predicate, [&] { group().ForgetIf(predicate); });
  }

  // Puts a value of the caller's own, which may be Cached(value, options), and forgets the call in
  // flight. A Get that starts after this has returned never sees an older value, and a load that
  // began before cannot replace it. Callers already on the call get its value. keep_if is not
  // asked, and "not found" is put, too.
  //
  // Thread: waits while a value for `key` is being put.
  // Errors: throws what Cache::Put throws, or copying the value. If the cache throws, the old entry
  //   is erased, and the call is forgotten. Throws std::invalid_argument, and changes nothing, if
  //   the value cannot be kept for the time that it has, and the cache has no Erase.
  template <class K = detail::BracedKey<Key>>
  void Put(const K& key, const Value& value) {
    PutWith(key, value, {});
  }
  template <class K = detail::BracedKey<Key>, class T>
  void Put(const K& key, const Cached<T>& value) {
    PutWith(key, value.value, value.options);
  }

  // Returns a copy of what Get would return without a load: a value that is fresh, or that
  // stale_for allows. It counts nothing, and refreshes nothing.
  template <class K = detail::BracedKey<Key>>
  std::optional<Value> Peek(const K& key) {
    return store().Peek(KeyRef::Adapt(key)).hit;
  }

  // Loads the value again and puts it. While it is loading, readers still get the old value from
  // the cache (stale-while-revalidate, RFC 5861). If a call is in flight for `key`, joins it, even
  // if a Get began it. That load began earlier, so invalidate first if the source has changed.
  //
  // If the load fails, the old value stays. If its value is not put, the old value is erased,
  // provided that the cache has Erase. A retry_after does not hold it up.
  //
  // Thread, Leaving, Errors: as in Get.
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load) {
    return loads_.Refresh(KeyRef::Adapt(key), std::forward<Fn>(load), nullptr);
  }
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load, const CallOptions& options) {
    return loads_.Refresh(KeyRef::Adapt(key), std::forward<Fn>(load), &options);
  }

  // The same in the background: returns at once. kFollower means that a call is in flight for `key`
  // already, and nothing was done.
  //
  // Thread: `executor(task)` is called on this thread. As in DoAsync, `load` runs where the task is
  //   called.
  // Leaving: only Cancel and ~ReadThrough ask the load to stop. No caller's leaving does.
  // Errors: a load that fails, and an executor that throws, only count in
  //   GetStats().calls.failures. Refresh itself throws `resource_unavailable_try_again`, or what
  //   copying the key or an allocation threw.
  // Lifetime: `load` may outlive this caller, so it must own what it needs.
  template <class K = detail::BracedKey<Key>, class Fn, class Executor>
  Role Refresh(const K& key, Fn&& load, Executor&& executor) requires
      std::invocable<Executor, detail::Task<ReadThrough, std::decay_t<Fn>>> {
    detail::CheckLoad<Value, std::decay_t<Fn>>();
    detail::CheckKept<Fn>();
    auto&& adapted = KeyRef::Adapt(key);
    loads_.AskForLoad(adapted);
    if (group().WouldFollow(adapted)) return Role::kFollower;
    return loads_.JoinUnattended({Reason::kAsked}, adapted, [&](Lead lead) {
      std::invoke(std::forward<Executor>(executor), detail::Task<ReadThrough, std::decay_t<Fn>>(
                                                        std::move(lead), std::forward<Fn>(load)));
    });
  }

  // Returns how many callers are on the call in flight for `key`, as Group::Callers.
  template <class K = detail::BracedKey<Key>>
  std::size_t Callers(const K& key) const {
    return group().Callers(key);
  }

  // Cancels the load in flight for `key`, also one in the background, as Group::Cancel: its callers
  // get `operation_canceled`, and what it returns is not put. The next caller that finds no value
  // loads again, at once, because retry_after does not count it as a failure. The cache's entry
  // stays, also one that the load put just before. A caller with a soft_timeout gets the expired
  // value that it has, as after any failure.
  template <class K = detail::BracedKey<Key>>
  bool Cancel(const K& key) {
    return group().Cancel(key);
  }

  // Returns every load in flight, as Group::Inspect. With Options::group.timed also since when.
  std::vector<CallInfo<Key>> Inspect() const { return group().Inspect(); }

  // Returns the listener. Its hooks may be running on other threads.
  Listener& GetListener() noexcept { return group().GetListener(); }
  const Listener& GetListener() const noexcept { return group().GetListener(); }

  // Returns the statistics. As in Group::GetStats, they are not a snapshot of one moment.
  ReadThroughStats GetStats() const { return loads_.store.GetStats(group().GetStats()); }

  // Returns how long the loads took, failed ones included, from when they began until their calls
  // landed.
  const LatencyHistogram& LoadTimes() const noexcept { return loads_.store.LoadTimes(); }

  // Refuses newcomers to the loads, and waits until none is in flight, like Group::Close. Callers
  // still get what the cache has.
  void Close() { group().Close(); }

  // Like those of Group, for callers that do not block. A value that the cache has reaches the
  // waiter before Join returns, or makes the Future ready. The role is then kLeader. `launch` runs
  // only if the value is to be refreshed. No caller waits for that call.
  //
  // Thread: the cache is called on this thread, and on the one that lands the call.
  template <class K = detail::BracedKey<Key>, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    auto&& adapted = KeyRef::Adapt(key);
    auto found = loads_.FirstLook(adapted);
    if (found.hit) {
      detail::LandedState<Value>::NotifyAfter([&] { loads_.RefreshBy(found, adapted, launch); },
                                              waiter, std::move(*found.hit));
      return Role::kLeader;
    }
    return group().Join(
        adapted, waiter,
        loads_.Launching(loads_.NoteOf(found), adapted, std::forward<Launch>(launch)), on_failure);
  }
  template <class K = detail::BracedKey<Key>, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return group().JoinAgain(key, waiter, [&](typename Loads::Group::Lead lead) {
      auto&& adapted = KeyRef::Adapt(key);
      loads_.Launching({Reason::kMiss}, adapted, std::forward<Launch>(launch))(std::move(lead));
    });
  }
  void GiveUp(Waiter& waiter) noexcept { group().GiveUp(waiter); }
  template <class K = detail::BracedKey<Key>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    auto found = loads_.FirstLook(adapted);
    if (found.hit) {
      loads_.RefreshBy(found, adapted, launch);
      return Future<Value>(detail::LandedState<Value>::Ready(std::move(*found.hit)), Role::kLeader);
    }
    return group().Join(
        adapted, loads_.Launching(loads_.NoteOf(found), adapted, std::forward<Launch>(launch)));
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

 private:
  auto& group() noexcept { return loads_.group; }
  const auto& group() const noexcept { return loads_.group; }
  auto& store() noexcept { return loads_.store; }

  template <class Adapted>
  auto Forgetting(const Adapted& key) {
    return [this, &key] { group().Forget(key); };
  }

  template <class K>
  void PutWith(const K& key, const Value& value, const CachedOptions& own) {
    auto&& adapted = KeyRef::Adapt(key);
    store().Put(adapted, group().ledger_.HashOf(KeyRef(adapted)), value, own, Forgetting(adapted));
  }

  Loads loads_;
};

}  // namespace singleflight

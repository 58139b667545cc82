// SPDX-License-Identifier: MIT
#pragma once

// ReadThrough: a cache and a group combined. A value that the cache has comes from the cache. A
// value that it lacks is loaded once for all callers that ask at the same time.
//
//   singleflight::ReadThrough<std::string, User, Cache> users(Cache(1000));
//
//   const auto user = users.Get("user:42", [] { return Load(42); });
//   ...
//   Save(changed);
//   users.Invalidate("user:42");  // a load that began earlier cannot put the old user back
//
// The cache is yours or a library's. Its size, its eviction and its expiry are its own. It needs:
//
//   std::optional<Value> Get(key);        // empty: the cache does not have it
//   void Put(key, const Value& value);
//   void Erase(key);                      // for Invalidate
//
// `key` is a const Key&. For a string Key it is a std::string_view, if all three operations accept
// that. The cache is called under a lock, unless it declares that it need not be:
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
// Warning: neither the cache nor the values that it copies and destroys may call back into the
// ReadThrough, or into another that refers to the same cache.
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

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "detail/call.hpp"
#include "detail/invoke.hpp"
#include "detail/key_ref.hpp"
#include "detail/landed_state.hpp"
#include "detail/read_through/guarded_cache.hpp"
#include "detail/read_through/key_lock.hpp"
#include "detail/read_through/striped_counter.hpp"
#include "detail/task.hpp"
#include "future.hpp"
#include "group.hpp"
#include "hash.hpp"
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
template <class Key, class Value, class Cache, class Hash = DefaultHash<Key>,
          class KeyEqual = DefaultEqual<Key>, class Traits = GroupTraits>
class ReadThrough {  // NOLINT(clang-analyzer-optin.performance.Padding): see misses_
  using GuardedCache = detail::GuardedCache<Cache, Key, Value, typename Traits::Mutex>;
  using Group = singleflight::Group<Key, Value, Hash, KeyEqual, Traits>;
  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  using Ledger = typename Group::Lead::LedgerType;

  static_assert(!std::is_void_v<Value>, "Value is void: there is nothing to cache; use a Group");
  static_assert(CacheFor<std::remove_reference_t<Cache>, Key, Value>,
                "Cache needs `std::optional<Value> Get(const Key&)`, of just that type, and "
                "`Put(const Key&, const Value&)`");

  static_assert(!std::is_rvalue_reference_v<Cache>, "Cache must be a value or a `Cache&`");
  static_assert(std::is_reference_v<Cache> || std::move_constructible<Cache>,
                "Cache cannot be moved: construct it elsewhere and pass `Cache&`");

  // The hook before a load's call lands: puts its value into the cache.
  struct PutValue {
    ReadThrough* self;
    bool may_be_cached;  // the leader did not look in the cache, which may hold an old value

    void operator()(Ledger& ledger, const detail::CallBase& call, const auto& key,
                    const detail::Outcome<Value>& outcome) const {
      if (const Value* const value = outcome.value()) {
        self->Put(ledger, call, key, may_be_cached, *value);
      }
    }
  };

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  using Waiter = typename Group::Waiter;
  using Lead = singleflight::Lead<Ledger, PutValue>;

  // Errors: throws std::invalid_argument as Group does, and for cache_not_found with a Value that
  //   cannot be empty.
  explicit ReadThrough(Cache cache, ReadThroughOptions options = {})
      : options_(options), cache_(std::forward<Cache>(cache)), group_(options.group) {
    if (options.cache_not_found && !detail::kCanBeNotFound<Value>) {
      throw std::invalid_argument(
          "singleflight: cache_not_found needs a Value that can say \"not found\": use "
          "std::optional or a pointer, or declare IsNotFound(const Value&)");
    }
  }

  // Like ~Group: asks loads that are led asynchronously to stop, and waits for them.
  ~ReadThrough() = default;

  ReadThrough(const ReadThrough&) = delete;
  ReadThrough& operator=(const ReadThrough&) = delete;

  // Returns the cache's value for `key`, or else the result of the call in flight. If there is
  // neither, leads a call, which looks in the cache again. If that finds nothing either, the call
  // runs `load()` or `load(StopToken)`, and puts the value before it lands. A value that this
  // caller finds at its first look is not shared(), and its role() is kLeader. `key` is as in
  // Group::Do.
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
    return GetWith(key, std::forward<Fn>(load), nullptr);
  }
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Get(const K& key, Fn&& load, CallOptions options) {
    return GetWith(key, std::forward<Fn>(load), &options);
  }

  // Erases the cache's entry and forgets the call in flight. A Get that starts after this has
  // returned never sees the cached value, nor one whose load began before. So change the source
  // first, and then invalidate. Callers already on the call get its value. Other ReadThroughs and
  // processes that use the same cache must invalidate their own loads.
  //
  // Thread: waits while a value for `key` is being put.
  // Errors: throws what Cache::Erase throws. The entry may then remain, but the call is forgotten.
  // Lifetime: `key` must not be an object inside the cache.
  template <class K = detail::BracedKey<Key>>
  void Invalidate(const K& key) {
    static_assert(GuardedCache::kCanErase, "to Invalidate, the Cache needs `Erase(const Key&)`");
    auto&& adapted = KeyRef::Adapt(key);
    const typename detail::KeyLock::Holder changing(key_locks_,
                                                    group_.ledger_.HashOf(KeyRef(adapted)));
    try {
      cache_.Erase(adapted);
    } catch (...) {
      group_.Forget(adapted);
      throw;
    }
    group_.Forget(adapted);  // last: a call that began meanwhile may have looked before the Erase
  }

  // Loads the value again and puts it. While it is loading, readers still get the old value from
  // the cache (stale-while-revalidate, RFC 5861). If a call is in flight for `key`, joins it, even
  // if a Get began it. That load began earlier, so invalidate first if the source has changed.
  //
  // If the load fails, the old value stays. If it finds nothing, and "not found" is not cached, the
  // old value is erased, provided that the cache has Erase.
  //
  // Thread, Leaving, Errors: as in Get.
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load) {
    return LoadOnce(/*may_be_cached=*/true, KeyRef::Adapt(key), std::forward<Fn>(load), nullptr);
  }
  template <class K = detail::BracedKey<Key>, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load, CallOptions options) {
    return LoadOnce(/*may_be_cached=*/true, KeyRef::Adapt(key), std::forward<Fn>(load), &options);
  }

  // The same in the background: returns at once. kFollower means that a call is in flight for `key`
  // already, and nothing was done.
  //
  // Thread: `executor(task)` is called on this thread. As in DoAsync, `load` runs where the task is
  //   called.
  // Leaving: only ~ReadThrough asks the load to stop. No caller's leaving does.
  // Errors: a load that fails, and an executor that throws, only count in
  //   GetStats().calls.failures. Refresh itself throws `resource_unavailable_try_again`, or what
  //   copying the key or an allocation threw.
  // Lifetime: `load` may outlive this caller, so it must own what it needs.
  template <class K = detail::BracedKey<Key>, class Fn, class Executor>
  Role Refresh(const K& key, Fn&& load, Executor&& executor) requires
      std::invocable<Executor, detail::Task<ReadThrough, std::decay_t<Fn>>> {
    struct Unattended final : Waiter {
      void OnLanded() noexcept override { delete this; }
    };
    detail::CheckFn<Value, std::decay_t<Fn>>();
    detail::CheckKept<Fn>();
    auto&& adapted = KeyRef::Adapt(key);
    if (group_.WouldFollow(adapted)) return Role::kFollower;
    auto waiter = std::make_unique<Unattended>();
    const auto launch = [&](Lead lead) {
      static_cast<void>(waiter.release());  // it has joined: OnLanded deletes it
      std::invoke(std::forward<Executor>(executor), detail::Task<ReadThrough, std::decay_t<Fn>>(
                                                        std::move(lead), std::forward<Fn>(load)));
    };
    const Role role =
        group_.Join(adapted, *waiter, Launching(/*may_be_cached=*/true, adapted, launch));
    static_cast<void>(waiter.release());  // another call may have begun meanwhile
    return role;
  }

  // Returns how many callers are on the call in flight for `key`, as Group::Callers.
  template <class K = detail::BracedKey<Key>>
  std::size_t Callers(const K& key) const {
    return group_.Callers(key);
  }

  // Returns the statistics. As in Group::GetStats, they are not a snapshot of one moment.
  ReadThroughStats GetStats() const {
    return {hits_.Sum(),          misses_.load(),       loads_.load(),    outdated_.load(),
            get_failures_.load(), put_failures_.load(), group_.GetStats()};
  }

  // Refuses newcomers to the loads, and waits until none is in flight, like Group::Close. Callers
  // still get what the cache has.
  void Close() { group_.Close(); }

  // Like those of Group, for callers that do not block. A value that the cache has reaches the
  // waiter before Join returns, or makes the Future ready. The role is then kLeader, and `launch`
  // does not run.
  //
  // Thread: the cache is called on this thread, and on the one that lands the call.
  template <class K = detail::BracedKey<Key>, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch,
            OnFailure on_failure = OnFailure::kShare) {
    auto&& adapted = KeyRef::Adapt(key);
    Lookup lookup = FirstLookup(adapted);
    if (lookup.hit) {
      detail::LandedState<Value>::Notify(waiter, std::move(*lookup.hit));
      return Role::kLeader;
    }
    return group_.Join(adapted, waiter,
                       Launching(lookup.failed, adapted, std::forward<Launch>(launch)), on_failure);
  }
  template <class K = detail::BracedKey<Key>, class Launch>
  Role JoinAgain(const K& key, Waiter& waiter, Launch&& launch) {
    return group_.JoinAgain(key, waiter, [&](typename Group::Lead lead) {
      auto&& adapted = KeyRef::Adapt(key);
      Launching(/*may_be_cached=*/false, adapted, std::forward<Launch>(launch))(std::move(lead));
    });
  }
  void GiveUp(Waiter& waiter) noexcept { group_.GiveUp(waiter); }
  template <class K = detail::BracedKey<Key>, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Lookup lookup = FirstLookup(adapted);
    if (lookup.hit) {
      return Future<Value>(detail::LandedState<Value>::Ready(std::move(*lookup.hit)),
                           Role::kLeader);
    }
    return group_.Join(adapted, Launching(lookup.failed, adapted, std::forward<Launch>(launch)));
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;  // for counters only

  struct Lookup {
    std::optional<Value> hit;
    bool failed;  // the cache threw, so it may hold a value
  };

  template <class K, class Fn>
  Result<Value> GetWith(const K& key, Fn&& load, const CallOptions* options) {
    auto&& adapted = KeyRef::Adapt(key);
    Lookup lookup = FirstLookup(adapted);
    if (lookup.hit) {
      return detail::ResultFactory::Alone<Value>(std::move(*lookup.hit), Role::kLeader);
    }
    return LoadOnce(lookup.failed, adapted, std::forward<Fn>(load), options);
  }

  // Leads or follows the call that loads `key`. Its leader first looks in the cache again, unless
  // `may_be_cached`: then the cache may hold an old value, which is not wanted.
  template <class Adapted, class Fn>
  Result<Value> LoadOnce(bool may_be_cached, const Adapted& key, Fn&& load,
                         const CallOptions* options) {
    detail::CheckFn<Value, Fn>();
    bool loaded = false;
    const auto work = [&](auto... stop) -> Value requires std::invocable<Fn, decltype(stop)...> {
      if (!may_be_cached) {
        if (std::optional<Value> hit = Look(key).hit) return std::move(*hit);
      }
      loads_.fetch_add(1, kRelaxed);
      loaded = true;
      return std::invoke(std::forward<Fn>(load), std::move(stop)...);
    };
    const PutValue put{this, may_be_cached};
    const auto before_landing = [&](Ledger& ledger, const detail::CallBase& call, const auto&,
                                    const detail::Outcome<Value>& outcome) {
      if (loaded) put(ledger, call, key, outcome);
    };
    return group_.DoWith(KeyRef(key), work, options, before_landing);
  }

  // The same for a call that is landed by a Lead.
  template <class Adapted, class Launch>
  auto Launching(bool may_be_cached, const Adapted& key, Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(ReadThrough::Lead)");
    const PutValue put{this, may_be_cached};
    return [this, put, &key, &launch](typename Group::Lead lead) {
      if (!put.may_be_cached) {
        if (std::optional<Value> hit = Look(key).hit) {
          lead.Succeed(std::move(*hit));
          return;
        }
      }
      loads_.fetch_add(1, kRelaxed);
      std::invoke(std::forward<Launch>(launch), Lead(lead, put));
    };
  }

  template <class Adapted>
  Lookup FirstLookup(const Adapted& key) {
    Lookup lookup = Look(key);
    if (lookup.hit) {
      hits_.Add();
    } else {
      misses_.fetch_add(1, kRelaxed);
    }
    return lookup;
  }

  template <class Adapted>
  Lookup Look(const Adapted& key) {
    try {
      return {cache_.Get(key), /*failed=*/false};
    } catch (...) {
      static_cast<void>(detail::Caught());
    }
    get_failures_.fetch_add(1, kRelaxed);
    return {std::nullopt, /*failed=*/true};
  }

  // Puts what a load returned, if its call is still wanted. The key's lock keeps Invalidate from
  // coming between these two steps, and loads of one key from putting in the wrong order.
  template <class CacheKey>
  void Put(Ledger& ledger, const detail::CallBase& call, const CacheKey& key, bool may_be_cached,
           const Value& value) {
    try {
      if (singleflight::IsFailure(value)) return;
      const bool put = options_.cache_not_found || !singleflight::IsNotFound(value);
      const bool erase = !put && may_be_cached && GuardedCache::kCanErase;
      if (!put && !erase) return;
      const detail::KeyLock::Holder changing(key_locks_, call.hash);
      if (!ledger.IsWanted(call)) {
        outdated_.fetch_add(1, kRelaxed);
        return;
      }
      if (put) return cache_.Put(key, value);
      if constexpr (GuardedCache::kCanErase) return cache_.Erase(key);
    } catch (...) {
      static_cast<void>(detail::Caught());
    }
    put_failures_.fetch_add(1, kRelaxed);
  }

  const ReadThroughOptions options_;
  GuardedCache cache_;
  detail::KeyLock key_locks_;  // serialize changes of one key's entry
  detail::StripedCounter hits_;
  std::atomic<std::uint64_t> misses_ = 0;  // not on the cache line that hits read
  std::atomic<std::uint64_t> loads_ = 0;
  std::atomic<std::uint64_t> outdated_ = 0;
  std::atomic<std::uint64_t> get_failures_ = 0;
  std::atomic<std::uint64_t> put_failures_ = 0;
  Group group_;  // declared last, so destroyed first: its calls use the fields above
};

}  // namespace singleflight

// SPDX-License-Identifier: MIT
#pragma once

// ReadThrough: a cache and a group as one. What the cache has is answered from there; what it has
// not is loaded once for all who ask.
//
//   singleflight::ReadThrough<std::string, User, Cache> users(Cache(1000));
//
//   const auto user = users.Get("user:42", [] { return Load(42); });
//   ...
//   Save(changed);
//   users.Invalidate("user:42");  // a load that had begun before cannot put the old user back
//
// The cache is yours or a library's, and so are its size, its eviction and its times of expiry:
//
//   std::optional<Value> Get(key);        // nothing: it does not have it
//   void Put(key, const Value& value);
//   void Erase(key);                      // for Invalidate
//
// `key` is a const Key&; for a string Key a std::string_view, if all the operations take that. A
// cache is called by one thread at a time, under a lock, unless it says that it need not be:
//
//   static constexpr bool kConcurrent = true;
//
// It is called on the thread that asks and on the one that lands the call, of callers that do not
// block as well: see to it that it is fast there. It must not call back, nor must what it copies or
// ends. A hit is a copy of the Value; for large ones, take a std::shared_ptr<const T>. A cache that
// throws never fails a caller that could be served without it: in Get, that is a miss, and in Put,
// the callers get the value none the less; both are counted.
//
// A ReadThrough stands for a group in DoAsync, CoDo, AsyncDo and DoMany, whose `fn` is then the
// load:
//
//   const auto user = co_await singleflight::CoDo(users, id, load);
//   auto page = singleflight::DoMany(users, ids, load_those_missing);
//
// If you would rather not use it, know what it is for. Two lines that look in a cache and then ask
// a group (a) load twice, when a caller has found nothing just before another's load has landed,
// and asks the group just after; and (b) bring a value back that was invalidated while it was
// loaded.

#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <variant>

#include "detail/call.hpp"
#include "detail/key_ref.hpp"
#include "detail/lead.hpp"
#include "detail/read_through/guarded_cache.hpp"
#include "detail/read_through/key_lock.hpp"
#include "detail/read_through/landed.hpp"
#include "detail/read_through/striped_counter.hpp"
#include "detail/task.hpp"
#include "future.hpp"
#include "group.hpp"
#include "hash.hpp"
#include "options.hpp"
#include "result.hpp"

namespace singleflight {

// What a ReadThrough may do.
struct ReadThroughOptions {
  // Whether the cache is given "not found" answers, too: an empty std::optional, a null pointer,
  // and whatever else tests false (of a std::expected, an error). The cache sees what it is given,
  // and may keep these for a shorter time. If not, a load that finds nothing is done anew for the
  // next caller.
  bool cache_not_found = false;
  // Of the group that the loads are calls of.
  GroupOptions group = {};
};

// Exact counts since a ReadThrough was made.
struct ReadThroughStats {
  std::uint64_t hits = 0;          // Gets that the cache answered at once
  std::uint64_t misses = 0;        // Gets that it did not
  std::uint64_t loads = 0;         // that calls have gone on to, those of Refresh too
  std::uint64_t outdated = 0;      // values that were not put, since they were not wanted any more
  std::uint64_t get_failures = 0;  // of the cache: it threw
  std::uint64_t put_failures = 0;  // also of the Erase of a Refresh that found nothing
  Stats calls = {};                // of the group

  bool operator==(const ReadThroughStats&) const = default;
};

// Every member may be called from any thread at any time, except the destructor. `Cache` may be a
// reference, `Cache&`, to one that lives elsewhere and for longer.
template <class Key, class Value, class Cache, class Hash = DefaultHash<Key>,
          class KeyEqual = DefaultEqual<Key>, class Traits = GroupTraits>
class ReadThrough {
  using GuardedCache = detail::GuardedCache<Cache, Key, Value, typename Traits::Mutex>;
  using Group = singleflight::Group<Key, Value, Hash, KeyEqual, Traits>;
  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  using Ledger = typename Group::Lead::LedgerType;

  static_assert(!std::is_void_v<Value>, "Value is void: there is nothing to cache; use a Group");
  static_assert(CacheFor<std::remove_reference_t<Cache>, Key, Value>,
                "Cache needs `std::optional<Value> Get(const Key&)`, of just that type, and "
                "`Put(const Key&, const Value&)`");

  static_assert(!std::is_rvalue_reference_v<Cache>, "Cache is to be a value or a `Cache&`");
  static_assert(
      std::is_reference_v<Cache> || std::move_constructible<Cache>,
      "Cache cannot be moved, as if it had a mutex: make it elsewhere, and take `Cache&`");

  // Before a load's call lands: puts its value into the cache.
  struct PutValue {
    ReadThrough* self;
    std::uint64_t hash;
    bool looked;
    void operator()(Ledger& ledger, const detail::CallBase& call, const auto& key,
                    const detail::Outcome<Value>& outcome) const {
      if (auto* value = std::get_if<1>(&outcome)) {
        self->Put(ledger, call, key, hash, looked, *value);
      }
    }
  };

 public:
  using KeyType = Key;
  using ValueType = Value;
  using HashType = Hash;
  using KeyEqualType = KeyEqual;
  using Waiter = typename Group::Waiter;
  using Lead = detail::Lead<Ledger, PutValue>;

  // Throws std::invalid_argument as Group does, and if "not found" is to be cached of a Value that
  // cannot say so.
  explicit ReadThrough(Cache cache, ReadThroughOptions options = {})
      : options_(options), cache_(std::forward<Cache>(cache)), group_(options.group) {
    if (options.cache_not_found && !detail::kCanBeEmpty<Value>) {
      throw std::invalid_argument(
          "singleflight: cache_not_found, but no Value stands for \"not found\": use a "
          "std::optional or a pointer for the Value");
    }
  }

  // As ~Group: asks loads that are led asynchronously to stop, and waits for them.
  ~ReadThrough() = default;

  ReadThrough(const ReadThrough&) = delete;
  ReadThrough& operator=(const ReadThrough&) = delete;

  // What the cache has for `key`; else the result of the call in flight; else leads one, which
  // looks in the cache again, then runs `load()`, or `load(std::stop_token)`, on this thread, and
  // puts the value before it lands. What the cache has is not shared(), and its role() is kLeader.
  // `key`, `load`, what is thrown and who waits for what: as in Group::Do. What `load` throws is
  // not cached. Who was asked to stop before gets what the cache has.
  //
  // A value is put only while its call is wanted: not if Invalidate, a newer call (max_age) or the
  // last caller's leaving has come between. So where loads take longer than their callers wait, see
  // to it that one stays: the leader of a Get without a stop token does, and a Refresh by an
  // executor.
  template <class K = Key, class Fn>
  Result<Value> Get(const K& key, Fn&& load) {
    return GetWith(key, std::forward<Fn>(load), nullptr);
  }
  template <class K = Key, class Fn>
  Result<Value> Get(const K& key, Fn&& load, CallOptions options) {
    return GetWith(key, std::forward<Fn>(load), &options);
  }

  // CanErase the cache's entry and forgets the call in flight: a Get, or any other asking, that
  // starts after this has returned never sees a value whose load began before, nor one that the
  // cache had. So change the source first, then invalidate. Callers already on the call get its
  // value. What other ReadThroughs or processes put into the same cache is theirs to invalidate.
  //
  // Waits while a value for `key` is just being put. Throws what Cache::Erase throws: the entry is
  // there still, perhaps, but the call is forgotten. `key` must not be the cache's own.
  template <class K = Key>
  void Invalidate(const K& key) {
    static_assert(GuardedCache::kCanErase, "to Invalidate, the Cache needs `Erase(const Key&)`");
    auto&& adapted = KeyRef::Adapt(key);
    const typename detail::KeyLock::Holder changing(changing_, HashOf(adapted));
    try {
      cache_.Erase(adapted);
    } catch (...) {
      group_.Forget(adapted);
      throw;
    }
    group_.Forget(adapted);  // last: a call that begins meanwhile may have looked before the Erase
  }

  // Loads anew and puts the value, while readers get the old one from the cache
  // (stale-while-revalidate, RFC 5861). One load at a time: joins the call in flight for `key`,
  // a Get's as well; that load began before, or has just landed. So invalidate first if the source
  // has changed. The rest as in Get. If the load fails, the old value stays. If it finds nothing,
  // and that is not cached, the old value is erased, where the cache can.
  template <class K = Key, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load) {
    return LoadOnce(/*look=*/false, KeyRef::Adapt(key), std::forward<Fn>(load), nullptr);
  }
  template <class K = Key, class Fn>
  Result<Value> Refresh(const K& key, Fn&& load, CallOptions options) {
    return LoadOnce(/*look=*/false, KeyRef::Adapt(key), std::forward<Fn>(load), &options);
  }

  // The same behind its caller's back: returns at once, and `executor(task)` runs the load, as in
  // DoAsync; nobody's leaving stops it. kFollower: a call is in flight for `key` already, and
  // nothing was done. That a load failed, or the executor threw, is seen in GetStats only. `load`
  // must not refer to what ends with the caller.
  template <class K = Key, class Fn, class Executor>
  Role Refresh(const K& key, Fn&& load, Executor&& executor) requires
      std::invocable<Executor, detail::Task<ReadThrough, std::decay_t<Fn>>> {
    struct Unattended final : Waiter {
      void OnLanded() noexcept override { delete this; }
    };
    detail::CheckFn<Value, std::decay_t<Fn>>();
    static_assert(std::constructible_from<std::decay_t<Fn>, Fn>,
                  "the call keeps load: pass one that can be copied, or std::move it");
    auto&& adapted = KeyRef::Adapt(key);
    if (group_.WouldFollow(adapted)) return Role::kFollower;
    auto waiter = std::make_unique<Unattended>();
    const auto launch = [&](Lead lead) {
      static_cast<void>(waiter.release());  // it has joined: it is OnLanded's
      std::invoke(std::forward<Executor>(executor), detail::Task<ReadThrough, std::decay_t<Fn>>(
                                                        std::move(lead), std::forward<Fn>(load)));
    };
    const Role role = group_.Join(adapted, *waiter, Launching(/*look=*/false, adapted, launch));
    static_cast<void>(waiter.release());  // where another call has begun meanwhile
    return role;
  }

  // How many callers are on the call in flight for `key`; 0 if there is none. As Group::Callers.
  template <class K = Key>
  std::size_t Callers(const K& key) const {
    return group_.Callers(key);
  }

  ReadThroughStats GetStats() const {
    return {hits_.Sum(),          misses_.load(),       loads_.load(),    outdated_.load(),
            get_failures_.load(), put_failures_.load(), group_.GetStats()};
  }

  // As those of Group, for callers that do not block. What the cache has reaches the waiter before
  // Join returns, and the Future is ready. The cache is used on this thread, and on the one that
  // lands the call.
  template <class K = Key, class Launch>
  Role Join(const K& key, Waiter& waiter, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Looked looked = LookFirst(adapted);
    if (looked.hit) {
      detail::LandedState<Value>::Tell(waiter, std::move(*looked.hit));
      return Role::kLeader;
    }
    return group_.Join(adapted, waiter,
                       Launching(looked.worked, adapted, std::forward<Launch>(launch)));
  }
  template <class K = Key, class Launch>
  Future<Value> Join(const K& key, Launch&& launch) {
    auto&& adapted = KeyRef::Adapt(key);
    Looked looked = LookFirst(adapted);
    if (looked.hit) {
      return Future<Value>(detail::LandedState<Value>::Landed(std::move(*looked.hit)),
                           Role::kLeader);
    }
    return group_.Join(adapted, Launching(looked.worked, adapted, std::forward<Launch>(launch)));
  }
  bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

  // Stands for a group as the ReadThrough does, but whose calls are Refreshes:
  //   co_await CoDo(users.Refreshing(), id, load);
  class RefreshingGroup {
   public:
    using KeyType = Key;
    using ValueType = Value;
    using HashType = Hash;
    using KeyEqualType = KeyEqual;
    using Waiter = ReadThrough::Waiter;
    using Lead = ReadThrough::Lead;

    template <class K = Key, class Launch>
    Role Join(const K& key, Waiter& waiter, Launch&& launch) {
      auto&& adapted = KeyRef::Adapt(key);
      return self_.group_.Join(
          adapted, waiter, self_.Launching(/*look=*/false, adapted, std::forward<Launch>(launch)));
    }
    template <class K = Key, class Launch>
    Future<Value> Join(const K& key, Launch&& launch) {
      auto&& adapted = KeyRef::Adapt(key);
      return self_.group_.Join(
          adapted, self_.Launching(/*look=*/false, adapted, std::forward<Launch>(launch)));
    }
    bool Leave(Waiter& waiter) noexcept { return waiter.Leave(); }

   private:
    friend ReadThrough;
    explicit RefreshingGroup(ReadThrough& self) noexcept : self_(self) {}

    ReadThrough& self_;
  };
  RefreshingGroup& Refreshing() noexcept { return refreshing_; }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;  // what is counted is only a count

  struct Looked {
    std::optional<Value> hit;
    bool worked;  // false: the cache threw
  };

  template <class K, class Fn>
  Result<Value> GetWith(const K& key, Fn&& load, const CallOptions* options) {
    auto&& adapted = KeyRef::Adapt(key);
    Looked looked = LookFirst(adapted);
    if (looked.hit) {
      return detail::ResultFactory::Alone<Value>(std::move(*looked.hit), Role::kLeader);
    }
    return LoadOnce(looked.worked, adapted, std::forward<Fn>(load), options);
  }

  // Leads or follows the call that loads `key`. Its leader looks in the cache again first, unless
  // `look` is false; then the cache may still hold an old value.
  template <class Adapted, class Fn>
  Result<Value> LoadOnce(bool look, const Adapted& key, Fn&& load, const CallOptions* options) {
    detail::CheckFn<Value, Fn>();
    bool loaded = false;
    const auto work = [&](auto... stop) -> Value requires std::invocable<Fn, decltype(stop)...> {
      if (look) {
        if (std::optional<Value> hit = Look(key).hit) return std::move(*hit);
      }
      loads_.fetch_add(1, kRelaxed);
      loaded = true;
      return std::invoke(std::forward<Fn>(load), std::move(stop)...);
    };
    const PutValue put{this, HashOf(key), look};
    const auto before_landing = [&](Ledger& ledger, const detail::CallBase& call, const auto&,
                                    const detail::Outcome<Value>& outcome) {
      if (loaded) put(ledger, call, key, outcome);
    };
    return group_.DoWith(KeyRef(key), work, options, before_landing);
  }

  // The same for a call that is led by a Lead.
  template <class Adapted, class Launch>
  auto Launching(bool look, const Adapted& key, Launch&& launch) {
    static_assert(std::is_invocable_v<Launch, Lead>,
                  "launch must be callable as launch(ReadThrough::Lead)");
    const PutValue put{this, HashOf(key), look};
    return [this, look, put, &key, &launch](typename Group::Lead lead) {
      if (look) {
        if (std::optional<Value> hit = Look(key).hit) {
          lead.Succeed(std::move(*hit));
          return;
        }
      }
      loads_.fetch_add(1, kRelaxed);
      std::invoke(std::forward<Launch>(launch), Lead(lead, put));
    };
  }

  // A caller's first look.
  template <class Adapted>
  Looked LookFirst(const Adapted& key) {
    Looked looked = Look(key);
    if (looked.hit) {
      hits_.Add();
    } else {
      misses_.fetch_add(1, kRelaxed);
    }
    return looked;
  }

  template <class Adapted>
  Looked Look(const Adapted& key) {
    try {
      return {cache_.Get(key), true};
    } catch (...) {
      static_cast<void>(detail::Caught());
    }
    get_failures_.fetch_add(1, kRelaxed);
    return {std::nullopt, false};
  }

  // Puts what a load returned, if its call is wanted still. The key's lock keeps Invalidate from
  // coming between these two, and loads of one key from putting in the wrong order.
  template <class CacheKey>
  void Put(Ledger& ledger, const detail::CallBase& call, const CacheKey& key, std::uint64_t hash,
           bool looked, const Value& value) {
    const bool put = options_.cache_not_found || !detail::IsEmpty(value);
    const bool erase = !put && !looked && GuardedCache::kCanErase;
    if (!put && !erase) return;
    const detail::KeyLock::Holder changing(changing_, hash);
    if (!ledger.IsWanted(call)) {
      outdated_.fetch_add(1, kRelaxed);
      return;
    }
    try {
      if (put) return cache_.Put(key, value);
      if constexpr (GuardedCache::kCanErase) return cache_.Erase(key);
    } catch (...) {
      static_cast<void>(detail::Caught());
    }
    put_failures_.fetch_add(1, kRelaxed);
  }

  template <class Adapted>
  std::uint64_t HashOf(const Adapted& key) const {
    return hash_(KeyRef(key).get());
  }

  [[no_unique_address]] Hash hash_{};
  const ReadThroughOptions options_;
  GuardedCache cache_;
  detail::KeyLock changing_;  // who puts or erases a key's value
  detail::StripedCounter hits_;
  std::atomic<std::uint64_t> misses_ = 0;
  std::atomic<std::uint64_t> loads_ = 0;
  std::atomic<std::uint64_t> outdated_ = 0;
  std::atomic<std::uint64_t> get_failures_ = 0;
  std::atomic<std::uint64_t> put_failures_ = 0;
  RefreshingGroup refreshing_{*this};
  Group group_;  // the last: its calls use all the rest until they have landed
};

}  // namespace singleflight

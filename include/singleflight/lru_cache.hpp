// SPDX-License-Identifier: MIT
#pragma once

// LruCache: a bounded cache for many threads. A ReadThrough that is given no cache has one.
//
//   singleflight::LruCache<std::string, User> users({.capacity = 10'000, .ttl = 60s});
//
//   users.Put("user:42", user);
//   if (std::optional<User> found = users.Get("user:42")) Render(*found);
//
// It keeps what was asked for lately, and drops first what nobody has asked for since it was put.
// It is not strictly the least recently used entry that goes: a hit only marks its entry, as in
// SIEVE (Zhang et al., NSDI 2024). That is faster, and where few keys are popular, finds more.
//
// The limit is a number of entries, or a sum of weights:
//
//   singleflight::LruCache<int, Page> pages(
//       {.capacity = 64 << 20, .weigher = [](int, const Page& page) { return page.bytes(); }});
//
// It has no thread of its own. An entry that has expired is not returned any more. It is removed
// when it is asked for, when room is needed, or by a later Put, which removes at most two. So
// expired entries may take up space for a while, but never more than `capacity`.
//
// It is not a ReadThrough: two callers that miss at the same time both load.

#include <algorithm>
#include <atomic>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>
#include <vector>

#include "detail/braced_key.hpp"
#include "detail/hash_mixer.hpp"
#include "detail/key_ref.hpp"
#include "detail/lru_node.hpp"
#include "detail/lru_shard.hpp"
#include "hash.hpp"
#include "lru_cache_options.hpp"
#include "timeout.hpp"

namespace singleflight {

// Neither copyable nor movable.
//
// Thread: every member may be called on any thread at any time, except the destructor. No lock is
//   held while the Hash, a key's or value's copy or destructor, the weigher, the clock or a
//   predicate runs. So those may use the cache. KeyEqual runs under a lock.
// Errors: every member throws what user code or an allocation throws, and nothing else unless it is
//   said. The cache is then as before.
// Lifetime: an entry that is removed while another thread copies its value is destroyed by that
//   thread.
template <class Key, class Value, class Hash = DefaultHash<Key>, class KeyEqual = DefaultEqual<Key>,
          class Traits = LruCacheTraits>
class LruCache {
  static_assert(std::is_object_v<Key> && !std::is_const_v<Key>, "Key must be an object type");
  static_assert(std::is_invocable_r_v<std::size_t, const Hash&, const Key&>,
                "Hash cannot take the Key: it must be callable as `std::size_t hash(key)` on a "
                "const Hash; write one, or specialize std::hash<Key>");
  static_assert(std::is_invocable_r_v<bool, const KeyEqual&, const Key&, const Key&>,
                "KeyEqual cannot compare two Keys: it must be callable as `bool equal(a, b)` on a "
                "const KeyEqual");
  static_assert(std::is_object_v<Value> && !std::is_const_v<Value> && !std::is_array_v<Value>,
                "Value must be a plain object type: not void, const, a reference or an array");
  static_assert(std::copy_constructible<Value>,
                "an LruCache returns copies, and this Value cannot be copied: use a "
                "std::shared_ptr<const Value>");

  using KeyRef = detail::KeyRef<Key, Hash, KeyEqual>;
  using Node = detail::LruNode<Key, Value>;
  using Pin = detail::LruPin<Node>;
  using Time = detail::CacheTime;

 public:
  using KeyType = Key;
  using ValueType = Value;
  using Options = LruCacheOptions<Key, Value>;
  static constexpr bool kConcurrent = true;

  // What an operation has taken out of the cache. It is destroyed with this object. `count()` says
  // how many entries these are, and it converts to bool explicitly.
  using Removed = detail::RemovedEntries<Node>;

  // Errors: throws std::invalid_argument if the capacity is zero, the ttl is not positive, or there
  //   cannot be so many shards.
  explicit LruCache(Options options = {}) : options_(std::move(options)) {
    const auto check = [](bool holds, const char* otherwise) {
      if (!holds) throw std::invalid_argument(otherwise);
    };
    check(options_.capacity > 0, "singleflight: capacity is 0: nothing can be cached");
    check(!options_.ttl || options_.ttl->count() > 0,
          "singleflight: ttl is not positive: nothing can be cached");
    if (options_.shards == 0) options_.shards = options_.capacity < 1024 ? 1 : 16;
    check(std::has_single_bit(options_.shards) && options_.shards <= 256,
          "singleflight: shards must be a power of two, and at most 256");
    shift_ = 64 - std::countr_zero(options_.shards);
    shards_ = std::make_unique<Shard[]>(options_.shards);
    may_expire_ = options_.ttl.has_value();
  }
  ~LruCache() { Clear(); }
  LruCache(const LruCache&) = delete;
  LruCache& operator=(const LruCache&) = delete;

  // Returns a copy of the value for `key`, if there is one that has not expired. `key` is whatever
  // Group::Do accepts as one.
  //
  // Cost: allocates nothing, unless the copy does.
  template <class K = detail::BracedKey<Key>>
  std::optional<Value> Get(const K& key) {
    return Look(key, NowIfNeeded(), kCounted);
  }

  // The same, for a caller that keeps the time in the value: also returns an entry that has
  // expired, if it has not been removed yet. It does not read the clock.
  template <class K = detail::BracedKey<Key>>
  std::optional<Value> GetAtAnyAge(const K& key) {
    return Look(key, (std::numeric_limits<Time>::min)(), kCounted);
  }

  // Like Get, but it neither counts nor marks the entry as asked for.
  template <class K = detail::BracedKey<Key>>
  std::optional<Value> Peek(const K& key) {
    return Look(key, NowIfNeeded(), [](Shard&, const Node*) {});
  }

  // Puts a value, which replaces the one that is there. If there is no room, others are evicted.
  //
  // Returns what was removed. If you need not know, ignore it.
  template <class K = detail::BracedKey<Key>>
  Removed Put(const K& key, Value value) {
    return PutPrepared(PrepareFor(KeyRef(KeyRef::Adapt(key)), std::move(value), TimeOr({})));
  }
  // The same, with a time of its own. If that is not positive, there is no entry afterwards.
  template <class K = detail::BracedKey<Key>>
  Removed Put(const K& key, Value value, Duration ttl) {
    return PutPrepared(PrepareFor(KeyRef(KeyRef::Adapt(key)), std::move(value), ttl.count()));
  }

  // Internal: whether the options have a ttl.
  bool HasTtl() const noexcept { return options_.ttl.has_value(); }

  // Internal: Put in two steps. The first runs all user code but KeyEqual.
  using Prepared = detail::PreparedEntry<Node>;
  template <class K>
  Prepared Prepare(const K& key, Value value, const std::optional<Duration>& ttl) {
    return PrepareFor(KeyRef(KeyRef::Adapt(key)), std::move(value), TimeOr(ttl));
  }
  Removed PutPrepared(Prepared&& entry) {
    Removed removed;
    Shard& at = ShardOf(entry.node->hash);
    while (!TryToPut(at, entry, removed)) EvictElsewhere(at, entry.now, removed);
    return removed;
  }

  // Removes the entry for `key`. What this returns is true if there was one.
  template <class K = detail::BracedKey<Key>>
  Removed Erase(const K& key) {
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    const std::uint64_t hash = HashOf(ref);
    Removed removed;
    const Locked shard(ShardOf(hash));
    if (Node* const node = Find(*shard, hash, ref)) Remove(*shard, *node, removed);
    return removed;
  }

  // Removes each entry for which `predicate(key)` or `predicate(key, value)` is true, and returns
  // how many there were. An entry that is put meanwhile may stay.
  //
  // Thread: the predicate runs on this thread. It may use the cache.
  // Errors: if the predicate throws, entries may have been removed.
  // Cost: looks at every entry, but other threads wait for a few at most.
  template <class Predicate>
  std::size_t EraseIf(Predicate&& predicate) {
    constexpr bool kTakesBoth = std::predicate<Predicate&, const Key&, const Value&>;
    static_assert(kTakesBoth || std::predicate<Predicate&, const Key&>,
                  "predicate must be callable as predicate(key) or predicate(key, value), and "
                  "return bool");
    std::size_t count = 0;
    std::vector<Pin> some;
    for (std::size_t i = 0; i < options_.shards; ++i) {
      for (std::size_t bucket = 0; PinSome(shards_[i], bucket, some);) {
        for (const Pin& pin : some) {
          Node& node = *pin.get();
          bool is_it;
          if constexpr (kTakesBoth) {
            is_it = static_cast<bool>(predicate(node.key, node.value));
          } else {
            is_it = static_cast<bool>(predicate(node.key));
          }
          if (is_it) count += RemoveNode(shards_[i], node).count();
        }
        some.clear();
      }
    }
    return count;
  }

  // Removes all entries. One that is put meanwhile may stay.
  //
  // Cost: other threads do not wait while the entries are destroyed.
  void Clear() noexcept {
    for (std::size_t i = 0; i < options_.shards; ++i) {
      detail::LruTable buckets;
      detail::ExpiryHeap expiries;
      detail::LruNodeBase* node;
      {
        const Locked shard(shards_[i]);
        weight_.fetch_sub(shard->Weight(), kRelaxed);
        node = shard->RemoveAll(buckets, expiries);
      }
      while (node != nullptr) detail::Release<Node>(*std::exchange(node, node->newer));
    }
  }

  LruCacheStats GetStats() const {
    LruCacheStats sum;
    for (std::size_t i = 0; i < options_.shards; ++i) {
      const Locked shard(shards_[i]);
      sum.hits += shard->hits;
      sum.misses += shard->misses;
      sum.evictions += shard->evictions;
      sum.expired += shard->expired;
      sum.entries += shard->Table().Size();
      sum.weight += shard->Weight();
    }
    return sum;
  }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;
  // A value that is copied under the lock: no user code runs, and it takes no time.
  static constexpr bool kCopiesAtOnce = std::is_trivially_copyable_v<Value> && sizeof(Value) <= 64;
  static constexpr std::size_t kBucketsAtOnce = 64;
  static constexpr int kExpiredAtOnce = 2;

  struct alignas(64) Shard : detail::LruShard {
    typename Traits::Mutex mutex;  // guards everything
  };
  class Locked {
   public:
    explicit Locked(Shard& shard) : shard_(shard) { shard.mutex.lock(); }
    ~Locked() { shard_.mutex.unlock(); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;
    Shard* operator->() const noexcept { return &shard_; }
    Shard& operator*() const noexcept { return shard_; }

   private:
    Shard& shard_;
  };

  static constexpr auto kCounted = [](Shard& shard, Node* node) {
    ++(node != nullptr ? shard.hits : shard.misses);
    if (node != nullptr && !node->asked_for) node->asked_for = true;
  };

  static Time Now() { return Duration(Traits::Clock::now().time_since_epoch()).count(); }
  // Where no entry expires, the clock is not read.
  Time NowIfNeeded() const {
    return may_expire_.load(kRelaxed) ? Now() : (std::numeric_limits<Time>::min)();
  }

  std::uint64_t HashOf(KeyRef key) const { return mix_.HashOf(hash_, key.get()); }
  Shard& ShardOf(std::uint64_t hash) const noexcept {
    return shards_[shift_ == 64 ? 0 : static_cast<std::uint32_t>(hash >> shift_)];
  }
  Node* Find(const Shard& shard, std::uint64_t hash, KeyRef key) const {
    return static_cast<Node*>(shard.Table().Find(hash, [&](const detail::LruNodeBase& node) {
      return equal_(static_cast<const Node&>(node).key, key.get());
    }));
  }

  template <class K, class Note>
  std::optional<Value> Look(const K& key, Time now, const Note& note) {
    auto&& adapted = KeyRef::Adapt(key);
    const KeyRef ref(adapted);
    const std::uint64_t hash = HashOf(ref);
    Removed removed;
    Shard& at = ShardOf(hash);
    if constexpr (kCopiesAtOnce) {
      const Locked shard(at);
      Node* const node = FindLive(*shard, hash, ref, now, removed);
      note(*shard, node);
      return node != nullptr ? std::optional<Value>(node->value) : std::nullopt;
    } else {
      const Pin pin = [&] {
        const Locked shard(at);
        Node* const node = FindLive(*shard, hash, ref, now, removed);
        note(*shard, node);
        return Pin(node);
      }();
      return pin.get() != nullptr ? std::optional<Value>(pin.get()->value) : std::nullopt;
    }
  }

  // Removes the entry that it finds if that has expired.
  Node* FindLive(Shard& shard, std::uint64_t hash, KeyRef key, Time now, Removed& removed) {
    Node* const node = Find(shard, hash, key);
    if (node == nullptr || node->expires > now) [[likely]] {
      return node;
    }
    Remove(shard, *node, removed);
    ++shard.expired;
    return nullptr;
  }

  Time TimeOr(const std::optional<Duration>& ttl) const {
    return ttl ? ttl->count() : options_.ttl ? options_.ttl->count() : detail::kNoEnd;
  }
  Prepared PrepareFor(KeyRef key, Value&& value, Time ttl) {
    const std::uint64_t hash = HashOf(key);
    if (ttl != detail::kNoEnd && !may_expire_.load(kRelaxed)) may_expire_.store(true, kRelaxed);
    const Time now = NowIfNeeded();
    const Time expires = ttl <= 0 || ttl == detail::kNoEnd ? ttl : detail::Later(now, ttl);
    Key copy(key.get());
    std::size_t weight = 1;
    if (options_.weigher) {
      weight = (std::max)(options_.weigher(std::as_const(copy), std::as_const(value)), weight);
    }
    auto node = std::make_unique<Node>(hash, weight, expires, std::move(copy), std::move(value));
    return {std::move(node), ttl > 0 && weight <= options_.capacity, now};
  }

  // Replaces the entry for its key. False: no room can be made in this shard.
  bool TryToPut(Shard& at, Prepared& entry, Removed& removed) {
    std::unique_ptr<Node>& node = entry.node;
    const Locked shard(at);
    Node* const old = Find(*shard, node->hash, KeyRef(node->key));
    if (entry.is_kept && node->expires != detail::kNoEnd)
      shard->ReserveExpiry();  // the last to throw
    if (old != nullptr) {
      node->asked_for = old->asked_for;
      Remove(*shard, *old, removed);
    }
    if (!entry.is_kept) return true;
    for (int i = 0; i < kExpiredAtOnce; ++i) Take(shard->RemoveExpired(entry.now), removed);
    while (!ReserveWeight(node->weight)) {
      if (!Take(shard->Evict(entry.now), removed)) return false;
    }
    shard->Insert(*node.release());
    return true;
  }

  // The entries that take up the room are in other shards. An entry whose weight is reserved is
  // already in its shard when that is unlocked, so there is one, or room.
  void EvictElsewhere(const Shard& full, Time now, Removed& removed) {
    for (std::size_t i = 0; i < options_.shards; ++i) {
      if (&shards_[i] == &full) continue;
      const Locked shard(shards_[i]);
      if (Take(shard->Evict(now), removed)) return;
    }
  }

  bool ReserveWeight(std::size_t more) noexcept {
    std::size_t weight = weight_.load(kRelaxed);
    do {
      if (options_.capacity - weight < more) return false;
    } while (!weight_.compare_exchange_weak(weight, weight + more, kRelaxed));
    return true;
  }

  // False: there was nothing to take.
  bool Take(detail::LruNodeBase* node, Removed& removed) noexcept {
    if (node == nullptr) return false;
    weight_.fetch_sub(node->weight, kRelaxed);
    removed.Add(*node);
    return true;
  }
  void Remove(Shard& shard, Node& node, Removed& removed) noexcept {
    shard.Remove(node);
    Take(&node, removed);
  }

  Removed RemoveNode(Shard& at, Node& node) {
    Removed removed;
    const Locked shard(at);
    if (shard->Table().Contains(node)) Remove(*shard, node, removed);
    return removed;
  }

  // Adds the entries of the next few buckets. False: there are no more. An entry that is moved to
  // another bucket meanwhile is moved to a later one.
  static bool PinSome(Shard& at, std::size_t& bucket, std::vector<Pin>& some) {
    const Locked shard(at);
    const detail::LruTable& table = shard->Table();
    if (bucket >= table.Buckets()) return false;
    const std::size_t end = (std::min)(table.Buckets(), bucket + kBucketsAtOnce);
    for (; bucket < end; ++bucket) {
      for (auto* node = table.FirstIn(bucket); node != nullptr; node = node->chain) {
        some.emplace_back(static_cast<Node*>(node));
      }
    }
    return true;
  }

  // Constant once constructed.
  Options options_;
  const detail::HashMixer mix_;
  [[no_unique_address]] Hash hash_{};
  [[no_unique_address]] KeyEqual equal_{};
  int shift_;  // the uppermost bits of a hash select the shard
  std::unique_ptr<Shard[]> shards_;

  // Whether an entry that expires was ever put.
  std::atomic<bool> may_expire_;
  // The weight of the entries in all shards. It grows only where the capacity allows it, and under
  // the mutex of the shard that gets the entry.
  alignas(64) std::atomic<std::size_t> weight_ = 0;
};

}  // namespace singleflight

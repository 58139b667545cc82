// SPDX-License-Identifier: MIT
#pragma once

// The map from key to the call in flight for it: shards, each a mutex and an intrusive hash table.
//
// The links are inside the calls, which live on their leaders' stacks or with their Lead. So
// inserting and erasing allocate nothing, except that a shard grows its buckets now and then; where
// no memory is to be had for that, it goes on with the old ones and longer chains. Erasing compares
// addresses, never keys: a call can only remove itself.

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <stop_token>
#include <utility>

#include "../options.hpp"
#include "gate.hpp"

namespace singleflight::detail {

// The part of a call that depends on neither key nor value.
struct CallBase {
  explicit CallBase(std::uint64_t key_hash) noexcept : hash(key_hash) {}
  CallBase(const CallBase&) = delete;
  CallBase& operator=(const CallBase&) = delete;

  // Set before the call is in the table, constant since.
  const std::uint64_t hash;                       // mixed: picks the shard and the bucket
  std::chrono::steady_clock::time_point started;  // when, if the group has a max_age
  std::stop_source stop{std::nostopstate};        // asks `fn` to stop, if it can be asked

  // Guarded by the shard's mutex.
  CallBase* next = nullptr;  // in the bucket
  bool listed = false;       // in the table; false again once forgotten
  bool leader_left = false;  // a blocking leader that was stopped: no caller, but gets the outcome
  std::size_t callers = 1;   // those that have not left
};

// A call that is led asynchronously is also on its shard's list of such, for ~Group to wait for.
// Guarded by the shard's mutex.
struct AsyncLink {
  AsyncLink* prev = this;
  AsyncLink* next = this;
  CallBase* call = nullptr;  // null in the head of a list

  bool Alone() const noexcept { return next == this; }
  void InsertBefore(AsyncLink& other) noexcept {
    prev = other.prev;
    next = &other;
    prev->next = next->prev = this;
  }
  void Unlink() noexcept {
    prev->next = next;
    next->prev = prev;
    prev = next = this;
  }
};

// One part of the table. Everything but `mutex` is guarded by `mutex`, and so is what the functions
// of this class do: lock it first.
template <class Mutex>
class alignas(
    64) Shard {  // lines of its own: threads in different shards do not disturb each other
 public:
  Shard() = default;
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  Mutex mutex;

  // The call with this hash for which `is_it` holds, or null.
  template <class Predicate>
  CallBase* Find(std::uint64_t hash, Predicate&& is_it) {
    for (CallBase* call = BucketOf(hash); call != nullptr; call = call->next) {
      if (call->hash == hash && is_it(*call)) return call;
    }
    return nullptr;
  }

  void Insert(CallBase& call) noexcept {
    if (size_ > mask_) Grow();
    CallBase*& head = BucketOf(call.hash);
    call.next = head;
    head = &call;
    call.listed = true;
    ++size_;
  }

  void Erase(CallBase& call) noexcept {
    CallBase** link = &BucketOf(call.hash);
    while (*link != &call) link = &(*link)->next;
    *link = call.next;
    call.listed = false;
    --size_;
  }

  Stats stats;
  AsyncLink async_calls;    // led asynchronously and not landed
  AsyncLink asked_to_stop;  // those of them that ~Group has asked
  Gate* drained = nullptr;  // opened when asked_to_stop is empty; null but in ~Group

 private:
  static constexpr std::size_t kInlineBuckets = 8;

  CallBase*& BucketOf(std::uint64_t hash) noexcept { return buckets_[hash & mask_]; }

  void Grow() noexcept {
    const std::size_t count = 2 * (mask_ + 1);
    std::unique_ptr<CallBase*[]> wider(new (std::nothrow) CallBase*[count]());
    if (wider == nullptr) return;
    for (std::size_t i = 0; i <= mask_; ++i) {
      for (CallBase* call = buckets_[i]; call != nullptr;) {
        CallBase* const next = call->next;
        CallBase*& head = wider[call->hash & (count - 1)];
        call->next = head;
        head = call;
        call = next;
      }
    }
    grown_ = std::move(wider);
    buckets_ = grown_.get();
    mask_ = count - 1;
  }

  std::size_t size_ = 0;
  std::size_t mask_ = kInlineBuckets - 1;
  std::array<CallBase*, kInlineBuckets> inline_ = {};
  CallBase** buckets_ = inline_.data();
  std::unique_ptr<CallBase*[]> grown_;
};

// Asks each call that is led asynchronously in this shard to stop, with no lock held meanwhile.
template <class Mutex>
void AskToStop(Shard<Mutex>& shard) {
  std::unique_lock lock(shard.mutex);
  while (!shard.async_calls.Alone()) {
    AsyncLink& link = *shard.async_calls.next;
    link.Unlink();
    link.InsertBefore(shard.asked_to_stop);
    std::stop_source stop = link.call->stop;  // the call may land as soon as the lock is released
    lock.unlock();
    stop.request_stop();
    lock.lock();
  }
}

// Waits until all those have landed.
template <class Mutex>
void AwaitDrained(Shard<Mutex>& shard) {
  std::unique_lock lock(shard.mutex);
  if (shard.asked_to_stop.Alone()) return;
  Gate drained;
  shard.drained = &drained;
  lock.unlock();
  drained.Await();
  lock.lock();  // whoever opened the gate is out of the shard
}

// All shards of a group.
template <class Mutex, std::size_t kShards>
class CallTable {
  static_assert(kShards > 0 && (kShards & (kShards - 1)) == 0, "Traits::kShards: a power of two");

 public:
  // Spreads a user's hash, which may be the key itself, over all 64 bits, differently in each group
  // and each run: which keys meet in a bucket is nothing that a client could work out. (One round
  // of MurmurHash3's finalizer, with the salt put in front.)
  std::uint64_t Mix(std::uint64_t hash) const noexcept {
    hash ^= salt_;
    hash ^= hash >> 33;
    hash *= 0xFF51AFD7ED558CCDu;
    hash ^= hash >> 33;
    return hash;
  }

  // The top bits pick the shard, the low ones the bucket in it.
  Shard<Mutex>& ShardOf(std::uint64_t hash) noexcept { return shards_[(hash >> 48) % kShards]; }

  auto begin() noexcept { return shards_.begin(); }
  auto end() noexcept { return shards_.end(); }

 private:
  // Where this group lies and when it was made: both beyond a remote client's knowledge.
  std::uint64_t MakeSalt() const noexcept {
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    return (reinterpret_cast<std::uintptr_t>(this) + static_cast<std::uint64_t>(now)) *
           0x9E3779B97F4A7C15u;
  }

  const std::uint64_t salt_ = MakeSalt();
  std::array<Shard<Mutex>, kShards> shards_;
};

}  // namespace singleflight::detail

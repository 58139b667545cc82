// SPDX-License-Identifier: MIT
#pragma once

// The map from key to the call in flight for it: shards, each a mutex and an intrusive hash table.
//
// The links are inside the calls, which live on their leaders' stacks or with their Lead. So
// inserting and erasing allocate nothing, except that a shard grows its buckets now and then; where
// no memory is to be had for that, it goes on with the old ones and longer chains. Erasing compares
// addresses, never keys: a call can only remove itself.

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <new>
#include <stop_token>
#include <utility>

#include "../options.hpp"
#include "event.hpp"
#include "intrusive_list.hpp"

namespace singleflight::detail {

// The part of a call that depends on neither key nor value.
struct CallBase {
  CallBase() = default;
  CallBase(const CallBase&) = delete;
  CallBase& operator=(const CallBase&) = delete;

  // Set before the call is in the table, constant since.
  std::uint64_t hash;                       // mixed: picks the shard and the bucket
  std::stop_source stop{std::nostopstate};  // asks `fn` to stop, if it can be asked
  std::chrono::nanoseconds::rep started;    // when, if the group has a max_age; else not set

  // Guarded by the shard's mutex.
  CallBase* next;             // in the bucket, set by Insert; this call itself once forgotten
  std::uint32_t callers = 1;  // those that have not left
  bool leader_left = false;   // a blocking leader that was stopped: no caller, but gets the outcome

  bool Forgotten() const noexcept { return next == this; }
  bool Shared() const noexcept { return callers + leader_left > 1; }  // who would get the outcome
};

// A call that is led asynchronously is also on its shard's list of such, for ~Group to wait for.
struct AsyncEntry : ListLink {
  explicit AsyncEntry(CallBase& its_call) noexcept : call(its_call) {}
  CallBase& call;
  bool asked_to_stop = false;  // by ~Group
};

template <class Mutex>
class LockedShard;

// One part of the table, reached through a LockedShard only: everything in it is guarded by its
// mutex.
//
// It has cache lines of its own, so that threads in different shards do not disturb each other; and
// what an unshared call touches is all on the first one, so that little moves when they do meet.
template <class Mutex>
class alignas(64) Shard {
 public:
  Shard() = default;
  ~Shard() {
    if (mask_ != 0) delete[] many_;
  }
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // The call with this hash for which `is_it` holds, or null.
  template <class Predicate>
  CallBase* Find(std::uint64_t hash, Predicate&& is_it) {
    for (CallBase* call = BucketOf(hash); call != nullptr; call = call->next) {
      if (call->hash == hash && is_it(*call)) return call;
    }
    return nullptr;
  }

  void Insert(CallBase& call) noexcept {
    if (size_ > kMaxInOneBucket && size_ > mask_) [[unlikely]] {
      Grow();
    }
    CallBase*& head = BucketOf(call.hash);
    call.next = head;
    head = &call;
    ++size_;
  }

  // The call goes on, but nobody finds it any more.
  void Forget(CallBase& call) noexcept {
    Erase(call);
    call.next = &call;
    ++forgotten_;
  }

  // The call has landed.
  void Remove(CallBase& call) noexcept {
    if (call.Forgotten()) {
      --forgotten_;
    } else {
      Erase(call);
    }
  }

  // Calls in flight, forgotten ones included.
  std::size_t InFlight() const noexcept { return size_ + forgotten_; }

 private:
  friend class LockedShard<Mutex>;
  static constexpr std::uint32_t kMaxInOneBucket = 7;

  CallBase*& BucketOf(std::uint64_t hash) noexcept {
    return mask_ == 0 ? one_ : many_[(hash >> 32) & mask_];
  }

  void Erase(CallBase& call) noexcept {
    CallBase** link = &BucketOf(call.hash);
    while (*link != &call) link = &(*link)->next;
    *link = call.next;
    --size_;
  }

  void Grow() noexcept {
    const std::uint32_t mask = 2 * std::max(mask_, kMaxInOneBucket) + 1;
    CallBase** const wider = new (std::nothrow) CallBase*[std::size_t{mask} + 1]();
    if (wider == nullptr) return;
    for (std::size_t i = 0; i <= mask_; ++i) {
      for (CallBase* call = mask_ == 0 ? one_ : many_[i]; call != nullptr;) {
        CallBase* const next = call->next;
        CallBase*& head = wider[(call->hash >> 32) & mask];
        call->next = head;
        head = call;
        call = next;
      }
    }
    if (mask_ != 0) delete[] many_;
    many_ = wider;
    mask_ = mask;
  }

  Mutex mutex_;
  union {
    CallBase* one_ = nullptr;  // if mask_ is 0: the only bucket
    CallBase** many_;          // else mask_ + 1 of them, a power of two
  };
  std::uint32_t mask_ = 0;
  std::uint32_t size_ = 0;  // calls in the buckets

 public:
  // As in Stats.
  std::uint64_t executions = 0;  // the last on the first cache line
  std::uint64_t followers = 0;
  std::uint64_t failures = 0;
  std::uint64_t left = 0;
  std::uint64_t refused = 0;

 private:
  std::size_t forgotten_ = 0;  // calls in flight that are in no bucket any more

 public:
  ListLink async_calls;      // a list of AsyncEntry: calls led asynchronously that have not landed
  Event* drained = nullptr;  // opened when there is none left; null but in ~Group
};

// A shard, locked as long as this object lives or until Unlock.
template <class Mutex>
class LockedShard {
 public:
  explicit LockedShard(Shard<Mutex>& shard) : shard_(&shard) { shard.mutex_.lock(); }
  ~LockedShard() {
    if (shard_ != nullptr) shard_->mutex_.unlock();
  }
  LockedShard(LockedShard&& other) noexcept : shard_(std::exchange(other.shard_, nullptr)) {}
  LockedShard& operator=(LockedShard&&) = delete;

  Shard<Mutex>* operator->() const noexcept { return shard_; }
  void Unlock() { std::exchange(shard_, nullptr)->mutex_.unlock(); }

 private:
  Shard<Mutex>* shard_;  // null once unlocked
};

// All shards of a group.
template <class Mutex, std::size_t kShards>
class CallTable {
  static_assert(std::has_single_bit(kShards), "Traits::kShards must be a power of two");

 public:
  using Locked = LockedShard<Mutex>;

  // Spreads a user's hash, which may be the key itself, over the upper bits, differently in each
  // group and each run: which of two different hashes meet in a bucket is not for a client to know.
  // (Keys made to have one and the same hash stay together; only another Hash can part them.) The
  // rotations are those of Evensen's rrmxmx, the factor is 2^64 over the golden ratio (Knuth).
  std::uint64_t Mix(std::uint64_t hash) const noexcept {
    hash ^= salt_;
    hash ^= std::rotr(hash, 25) ^ std::rotr(hash, 47);
    return hash * 0x9E3779B97F4A7C15u;
  }

  // The shard for a mixed hash: the top bits pick it, and those from bit 32 up the bucket in it.
  Locked Lock(std::uint64_t hash) {
    constexpr int kShardBits = std::countr_zero(kShards);
    return Locked(shards_[hash >> 32 >> (32 - kShardBits)]);
  }

  template <class Visitor>
  void VisitAll(Visitor&& visitor) {
    for (Shard<Mutex>& shard : shards_) visitor(Locked(shard));
  }

  // Asks every call that is led asynchronously to stop, and waits until all have landed.
  void Drain() {
    for (Shard<Mutex>& shard : shards_) {
      while (AskOneToStop(Locked(shard))) continue;
    }
    for (Shard<Mutex>& shard : shards_) {
      Locked locked(shard);
      if (locked->async_calls.Alone()) continue;
      Event drained;
      locked->drained = &drained;
      locked.Unlock();
      drained.Wait();
      Locked{shard};  // whoever opened the gate has left the shard
    }
  }

 private:
  // False: all have been asked. Those that have been are at the end of the list.
  static bool AskOneToStop(Locked shard) {
    if (shard->async_calls.Alone()) return false;
    auto& entry = static_cast<AsyncEntry&>(*shard->async_calls.next);
    if (std::exchange(entry.asked_to_stop, true)) return false;
    entry.Unlink();
    entry.InsertBefore(shard->async_calls);
    std::stop_source stop = entry.call.stop;  // it may land as soon as the shard is unlocked
    shard.Unlock();
    stop.request_stop();
    return true;
  }

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

// SPDX-License-Identifier: MIT
#pragma once

// The map from a key to the call in flight for it: shards, each a mutex and an intrusive hash
// table.
//
// The links are members of the calls, which live on their leaders' stacks or are owned by their
// Leads. So inserting and erasing allocate nothing, except that a shard now and then grows its
// buckets. If there is no memory for that, it keeps the old ones, with longer chains. A shard that
// has grown far gives its buckets back when it is empty. Erasing compares addresses, never keys, so
// a call can only remove itself.

#include <algorithm>
#include <array>
#include <bit>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>
#include <optional>
#include <utility>

#include "../options.hpp"
#include "../stop_token.hpp"
#include "event.hpp"
#include "hash_mixer.hpp"
#include "intrusive_list.hpp"

namespace singleflight::detail {

// The part of a call that depends on neither key nor value.
struct CallBase {
  CallBase() = default;
  CallBase(const CallBase&) = delete;
  CallBase& operator=(const CallBase&) = delete;

  // Set before the call is put into the table, and constant from then on.
  std::uint64_t hash;                     // mixed: selects the shard and the bucket
  std::chrono::nanoseconds::rep started;  // set only if Limits::StampsCalls

  // Guarded by the shard's mutex.
  //
  // Asks `fn` to stop. None until somebody wants its token. Then it stays the same, and may be read
  // without the mutex.
  std::optional<StopSource> stop;
  CallBase* next;            // in the bucket; this call itself once it is forgotten
  CallBase* prev_forgotten;  // set once it is forgotten: its neighbours on that list
  CallBase* next_forgotten;
  std::uint32_t callers = 1;     // callers that have not left
  bool leader_left : 1 = false;  // a blocking leader was stopped: it still receives the outcome
  bool takes_stop : 1 = false;   // its work took the stop token, so it can be asked to stop
  bool drained : 1 = false;      // by ~Group, which asks for a stop whoever has the token
  bool canceled : 1 = false;     // by Cancel: its callers have their outcome, but its work goes on
  std::uint8_t last_visit = 0;   // the last of VisitCalls that has visited it

  bool Forgotten() const noexcept { return next == this; }
  bool AskedToStop() const noexcept { return drained || (stop && stop->stop_requested()); }
  StopSource StopOrNone() const noexcept { return stop ? *stop : StopSource(kNoStopState); }
  StopToken GetToken() const noexcept { return stop ? stop->get_token() : StopToken(); }
  // Whether more than one caller would receive the outcome.
  bool Shared() const noexcept { return callers + leader_left > 1; }
};

// A call that is led asynchronously is also on a list of its shard, so that ~Group can wait for it.
struct AsyncEntry : ListLink {
  explicit AsyncEntry(CallBase& its_call) noexcept : call(its_call) {}
  CallBase& call;
};

template <class Mutex>
class LockedShard;

// One part of the table. It is reached only through a LockedShard: its mutex guards everything.
//
// A shard has cache lines of its own, so threads in different shards do not disturb each other. All
// that an unshared call touches is on the first line, so threads that do meet exchange only that.
template <class Mutex>
class alignas(64) Shard {
 public:
  Shard() = default;
  ~Shard() {
    if (mask_ != 0) delete[] many_;
  }
  Shard(const Shard&) = delete;
  Shard& operator=(const Shard&) = delete;

  // Returns the call with this hash for which `is_it` holds, or null.
  template <class Predicate>
  CallBase* Find(std::uint64_t hash, Predicate&& is_it) {
    for (CallBase* call = BucketOf(hash); call != nullptr; call = call->next) {
      if (call->hash == hash && is_it(*call)) return call;
    }
    return nullptr;
  }

  // Calls `visit(call)` for each forgotten call with this hash.
  template <class Visit>
  void VisitForgotten(std::uint64_t hash, const Visit& visit) {
    CallBase* call = first_forgotten_;
    if (call == nullptr) return;
    do {
      if (call->hash == hash) visit(*call);
      call = call->next_forgotten;
    } while (call != first_forgotten_);
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

  // The call continues, but no caller finds it any more.
  [[gnu::noinline]] void Forget(CallBase& call) noexcept {
    Erase(call);
    call.next = &call;
    LinkForgotten(call);
    ++forgotten_;
  }

  // Removes a call that lands.
  void Remove(CallBase& call) noexcept {
    if (call.Forgotten()) [[unlikely]] {
      RemoveForgotten(call);
    } else {
      Erase(call);
    }
  }

  // Calls in flight, forgotten ones included.
  std::size_t InFlight() const noexcept { return size_ + forgotten_; }

  // ---- Visiting all calls in flight, a part of them under each lock: see CallTable::VisitCalls

  static constexpr std::size_t kCallsInOneVisit = 16;

  // Where a visit is in a shard.
  struct Place {
    std::uint32_t bucket = 0;
    bool buckets_done = false;
  };

  // Visits some of the calls that visit number `visit` has not visited, and moves `place` on.
  // False: those were all.
  //
  // Between two locks the table may grow, which splits each bucket in two. So the buckets are taken
  // in the order in which Redis' SCAN takes them: that of their numbers with the bits reversed. The
  // two parts of a bucket follow each other there, so those before `place` stay before it. If the
  // table was emptied and has fewer buckets now, those that `place` is in come together again, and
  // all that follow them there still do. A call knows by which visit it was visited last, so a
  // visit may stop in the middle of a bucket.
  template <class Visitor>
  bool VisitSome(std::uint8_t visit, Place& place, const Visitor& visitor) {
    std::size_t calls = 0;
    place.bucket &= mask_;
    for (std::size_t buckets = 0; !place.buckets_done; place = After(place)) {
      if (buckets++ == kBucketsInOneVisit) return true;
      for (CallBase* call = mask_ == 0 ? one_ : many_[place.bucket]; call != nullptr;) {
        CallBase* const next = call->next;  // the visitor may forget the call
        if (call->last_visit != visit) {
          if (calls++ == kCallsInOneVisit) return true;
          call->last_visit = visit;
          visitor(*this, *call);
        }
        call = next;
      }
    }
    // A call that is forgotten comes first on its list, and those that have been dealt with go
    // last. They are marked, because a call may have been visited in its bucket.
    const auto done = static_cast<std::uint8_t>(visit | kVisitedAsForgotten);
    for (; first_forgotten_ != nullptr && first_forgotten_->last_visit != done;
         first_forgotten_ = first_forgotten_->next_forgotten) {
      if (calls++ == kCallsInOneVisit) return true;
      if (std::exchange(first_forgotten_->last_visit, done) != visit) {
        visitor(*this, *first_forgotten_);
      }
    }
    return false;
  }

 private:
  friend class LockedShard<Mutex>;
  static constexpr std::size_t kBucketsInOneVisit = 256;
  static constexpr std::uint8_t kVisitedAsForgotten = 0x80;
  static constexpr std::uint32_t kMaxInOneBucket = 7;
  static constexpr std::uint32_t kKeptBuckets = 64;  // half a kilobyte

  CallBase*& BucketOf(std::uint64_t hash) noexcept {
    return mask_ == 0 ? one_ : many_[(hash >> 32) & mask_];
  }

  void Erase(CallBase& call) noexcept {
    CallBase** link = &BucketOf(call.hash);
    while (*link != &call) link = &(*link)->next;
    *link = call.next;
    if (--size_ == 0 && mask_ >= kKeptBuckets) [[unlikely]] {
      GiveBucketsBack();
    }
  }

  // Adds one to a number whose bits are reversed: it is carried from the highest bit down.
  Place After(Place place) const noexcept {
    for (std::uint32_t bit = (mask_ >> 1) + (mask_ & 1); bit != 0; bit >>= 1) {
      place.bucket ^= bit;
      if ((place.bucket & bit) != 0) return place;
    }
    return {.bucket = 0, .buckets_done = true};
  }

  // The list of forgotten calls is circular.
  void LinkForgotten(CallBase& call) noexcept {
    CallBase* const next = first_forgotten_ != nullptr ? first_forgotten_ : &call;
    call.next_forgotten = next;
    call.prev_forgotten = next != &call ? next->prev_forgotten : &call;
    call.prev_forgotten->next_forgotten = call.next_forgotten->prev_forgotten = &call;
    first_forgotten_ = &call;
  }
  [[gnu::noinline]] void RemoveForgotten(CallBase& call) noexcept {
    --forgotten_;
    call.prev_forgotten->next_forgotten = call.next_forgotten;
    call.next_forgotten->prev_forgotten = call.prev_forgotten;
    if (first_forgotten_ != &call) return;
    first_forgotten_ = call.next_forgotten != &call ? call.next_forgotten : nullptr;
  }

  [[gnu::noinline]] void Grow() noexcept {
    const std::uint32_t mask = 2 * (std::max)(mask_, kMaxInOneBucket) + 1;
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
  // The table is empty. To grow again costs no more than the calls of the next burst pay for.
  [[gnu::noinline]] void GiveBucketsBack() noexcept {
    delete[] many_;
    one_ = nullptr;
    mask_ = 0;
  }

  Mutex mutex_;
  union {
    CallBase* one_ = nullptr;  // if mask_ is 0: the only bucket
    CallBase** many_;          // otherwise: mask_ + 1 buckets, a power of two
  };
  std::uint32_t mask_ = 0;
  std::uint32_t size_ = 0;  // calls in the buckets

 public:
  // As in Stats.
  std::uint64_t executions = 0;  // the last field on the first cache line
  std::uint64_t followers = 0;
  std::uint64_t failures = 0;
  std::uint64_t left = 0;
  std::uint64_t refused = 0;

 private:
  std::size_t forgotten_ = 0;            // calls in flight that are no longer in a bucket
  CallBase* first_forgotten_ = nullptr;  // null: there is none

 public:
  ListLink async_calls;      // of AsyncEntry: calls led asynchronously that have not landed
  Event* drained = nullptr;  // null unless ~Group waits until async_calls is empty
  Event* idle = nullptr;     // null unless Close waits until no call is in flight
  bool stopping = false;     // ~Group has begun: calls are asked to stop as soon as they begin
};

// A shard that stays locked until Unlock, or until this object is destroyed.
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
  template <class Run>
  void WhileUnlocked(Run&& run) {
    shard_->mutex_.unlock();
    run();
    shard_->mutex_.lock();
  }

 private:
  Shard<Mutex>* shard_;  // null once unlocked
};

// All shards of a group.
template <class Mutex, std::size_t kShards>
class CallTable {
  static_assert(std::has_single_bit(kShards), "Traits::kShards must be a power of two");

 public:
  using Locked = LockedShard<Mutex>;
  static constexpr std::size_t kCallsInOneVisit = Shard<Mutex>::kCallsInOneVisit;

  // Returns a key's hash, spread over the upper bits, in each group differently.
  template <class Hash, class Key>
  std::uint64_t HashOf(const Hash& hash, const Key& key) const {
    return mix_.HashOf(hash, key);
  }

  // Locks the shard of a mixed hash. The top bits select it, and bits from 32 up select its bucket.
  Locked Lock(std::uint64_t hash) {
    constexpr int kShardBits = std::countr_zero(kShards);
    return Locked(shards_[static_cast<std::uint32_t>(hash >> 32 >> (32 - kShardBits))]);
  }

  template <class Visitor>
  void VisitAll(Visitor&& visitor) {
    for (Shard<Mutex>& shard : shards_) visitor(Locked(shard));
  }

  // Visits the calls in flight, forgotten ones included. Each that is in flight all the time is
  // visited once, and each that begins or lands meanwhile at most once. No shard stays locked for
  // more than a few calls. `prepare()` runs before each lock, and `visitor(shard, call)` under it.
  //
  // Thread: two visits at a time come one after the other.
  // Errors: neither may throw, because a visit that is not finished leaves old numbers behind.
  template <class Prepare, class Visitor>
  void VisitCalls(const Prepare& prepare, const Visitor& visitor) {
    const std::lock_guard lock(visiting_);
    visit_ = static_cast<std::uint8_t>(visit_ % 127 + 1);  // 0: no visit
    for (Shard<Mutex>& shard : shards_) {
      typename Shard<Mutex>::Place place;
      do {
        prepare();
      } while (Locked { shard } -> VisitSome(visit_, place, visitor));
    }
  }

  // Asks every call that is led asynchronously to stop, also those that begin from now on, and
  // waits until all have landed. Returns how many calls had begun by then.
  //
  // One pass that finds no call is not enough: a call in a later shard may begin one in an earlier
  // shard, and land, before the pass gets there. But if no call began in any shard between two such
  // passes, there was none at the end of the first.
  std::uint64_t Drain() {
    for (Shard<Mutex>& shard : shards_) {
      Locked { shard } -> stopping = true;
      while (AskOneToStop(Locked(shard))) continue;
    }
    std::uint64_t begun = 0;
    for (bool idle = false, was_idle = false;; was_idle = idle) {
      idle = true;
      const std::uint64_t begun_before = std::exchange(begun, 0);
      for (Shard<Mutex>& shard : shards_) {
        begun += Locked { shard } -> executions;  // first, so that a call that begins now is seen
        idle = !WaitUntilDrained(shard) && idle;
      }
      if (idle && was_idle && begun == begun_before) return begun;
    }
  }

 private:
  // False: there was nothing to wait for.
  static bool WaitUntilDrained(Shard<Mutex>& shard) {
    Locked locked(shard);
    if (locked->async_calls.Empty()) return false;
    Event drained;
    locked->drained = &drained;
    locked.WhileUnlocked([&drained] { drained.Wait(); });
    locked->drained = nullptr;  // the thread that set the event has released the shard
    return true;
  }

  // False: all have been asked. Those already asked are at the end of the list.
  static bool AskOneToStop(Locked shard) {
    if (shard->async_calls.Empty()) return false;
    auto& entry = static_cast<AsyncEntry&>(*shard->async_calls.next);
    if (entry.call.drained) return false;
    entry.call.drained = true;
    entry.Unlink();
    entry.InsertBefore(shard->async_calls);
    StopSource stop = entry.call.StopOrNone();  // the call may land once the shard is unlocked
    shard.Unlock();
    stop.request_stop();
    return true;
  }

  const HashMixer mix_;
  std::array<Shard<Mutex>, kShards> shards_;
  std::mutex visiting_;     // locked before a shard
  std::uint8_t visit_ = 0;  // the number of the last visit; guarded by visiting_
};

}  // namespace singleflight::detail

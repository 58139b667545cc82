// SPDX-License-Identifier: MIT
#pragma once

// KeyLock: a lock per key, identified by the key's hash. User code may run under it for long: only
// callers for the same hash wait. Allocates nothing.

#include <array>
#include <condition_variable>
#include <cstdint>
#include <mutex>

#include "../fibonacci_hash.hpp"

namespace singleflight::detail {

class KeyLock {
  struct Shard;

 public:
  // Holds the lock during its lifetime. The constructor waits for the current holder. Not
  // re-entrant.
  class Holder {
   public:
    Holder(KeyLock& keys, std::uint64_t hash) : hash_(hash), shard_(keys.ShardOf(hash)) {
      std::unique_lock lock(shard_.mutex);
      shard_.released.wait(lock, [this] { return !shard_.IsHeld(hash_); });
      ticket_ = shard_.next_ticket++;
      next_ = shard_.holders;
      shard_.holders = this;
    }
    ~Holder() {
      const std::lock_guard lock(shard_.mutex);
      Holder** link = &shard_.holders;
      while (*link != this) link = &(*link)->next_;
      *link = next_;
      shard_.released.notify_all();
    }
    Holder(const Holder&) = delete;
    Holder& operator=(const Holder&) = delete;

   private:
    friend Shard;

    const std::uint64_t hash_;
    Shard& shard_;
    // Guarded by the shard's mutex.
    Holder* next_;
    std::uint64_t ticket_;
  };

  // Waits until all that hold a lock now have released it. It does not wait for those that come
  // later, and holds up nobody.
  //
  // Thread: must not run on a thread that holds a lock.
  void AwaitHolders() {
    for (Shard& shard : shards_) {
      std::unique_lock lock(shard.mutex);
      const std::uint64_t later = shard.next_ticket;
      shard.released.wait(lock, [&] { return !shard.IsHeldSince(later); });
    }
  }

 private:
  struct alignas(64) Shard {
    bool IsHeld(std::uint64_t hash) const noexcept {
      const Holder* holder = holders;
      while (holder != nullptr && holder->hash_ != hash) holder = holder->next_;
      return holder != nullptr;
    }

    // Whether somebody holds a lock who had it before a ticket was drawn.
    bool IsHeldSince(std::uint64_t ticket) const noexcept {
      const Holder* holder = holders;
      while (holder != nullptr && holder->ticket_ >= ticket) holder = holder->next_;
      return holder != nullptr;
    }

    std::mutex mutex;
    std::condition_variable released;
    std::uint64_t next_ticket = 0;  // guarded by mutex
    Holder* holders = nullptr;      // guarded by mutex; at most one per thread
  };

  Shard& ShardOf(std::uint64_t hash) noexcept { return shards_[TopBits<4>(hash)]; }

  std::array<Shard, 16> shards_;
};

// Runs a change of an entry, and then `forget()`, also if the change throws.
template <class Change, class Forget>
void ChangeAndForget(const Change& change, const Forget& forget) {
  try {
    change();
  } catch (...) {
    forget();
    throw;
  }
  forget();
}

}  // namespace singleflight::detail

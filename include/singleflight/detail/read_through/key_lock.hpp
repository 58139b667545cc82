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
    Holder* next_;  // guarded by the shard's mutex
  };

 private:
  struct alignas(64) Shard {
    bool IsHeld(std::uint64_t hash) const noexcept {
      const Holder* holder = holders;
      while (holder != nullptr && holder->hash_ != hash) holder = holder->next_;
      return holder != nullptr;
    }

    std::mutex mutex;
    std::condition_variable released;
    Holder* holders = nullptr;  // guarded by mutex; at most one per thread
  };

  Shard& ShardOf(std::uint64_t hash) noexcept { return shards_[TopBits<4>(hash)]; }

  std::array<Shard, 16> shards_;
};

}  // namespace singleflight::detail

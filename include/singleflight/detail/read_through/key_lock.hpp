// SPDX-License-Identifier: MIT
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <mutex>

namespace singleflight::detail {

// A lock for each key, known by its hash: user code may run for long under one, and holds up those
// only who want the same. Allocates nothing.
class KeyLock {
  struct Shard;

 public:
  // Has the lock for as long as it lives; waits for who has it. Not re-entrant.
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
    Holder* holders = nullptr;  // guarded by mutex; as many at most as there are threads
  };

  Shard& ShardOf(std::uint64_t hash) noexcept {
    return shards_[(hash * 0x9E3779B97F4A7C15u) >> 60];  // the top 4 bits: 16 shards
  }

  std::array<Shard, 16> shards_;
};

}  // namespace singleflight::detail

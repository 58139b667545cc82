// SPDX-License-Identifier: MIT
#pragma once

// LruShard: one part of an LruCache, which is used under its mutex. It finds entries by their hash,
// and chooses which to evict. It neither makes nor destroys entries.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>

#include "lru_node.hpp"

namespace singleflight::detail {

// A hash table that grows by one bucket at a time (Litwin, Linear Hashing, VLDB 1980). So no
// operation moves more than one bucket's entries. Now and then the array of buckets is copied, but
// that touches no entry.
class LruTable {
 public:
  LruTable() = default;

  template <class Predicate>
  LruNodeBase* Find(std::uint64_t hash, Predicate&& is_it) const {
    for (LruNodeBase* node = buckets_[IndexOf(hash)]; node != nullptr; node = node->chain) {
      if (node->hash == hash && is_it(*node)) return node;
    }
    return nullptr;
  }
  // Compares addresses.
  bool Contains(const LruNodeBase& entry) const noexcept {
    return Find(entry.hash, [&](const LruNodeBase& node) { return &node == &entry; }) != nullptr;
  }

  void Insert(LruNodeBase& node) noexcept {
    LruNodeBase*& head = buckets_[IndexOf(node.hash)];
    node.chain = head;
    head = &node;
    if (++size_ > count_) Split();
  }
  void Remove(LruNodeBase& node) noexcept {
    LruNodeBase** link = &buckets_[IndexOf(node.hash)];
    while (*link != &node) link = &(*link)->chain;
    *link = node.chain;
    --size_;
  }

  std::size_t Size() const noexcept { return size_; }
  std::size_t Buckets() const noexcept { return count_; }
  LruNodeBase* FirstIn(std::size_t bucket) const noexcept { return buckets_[bucket]; }

  LruTable(LruTable&& other) noexcept { Swap(other); }
  void Swap(LruTable& other) noexcept {
    std::swap(first_, other.first_);
    many_.swap(other.many_);
    std::swap(allocated_, other.allocated_);
    std::swap(count_, other.count_);
    std::swap(mask_, other.mask_);
    std::swap(size_, other.size_);
    buckets_ = many_ != nullptr ? many_.get() : first_.data();
    other.buckets_ = other.many_ != nullptr ? other.many_.get() : other.first_.data();
  }

 private:
  static constexpr std::size_t kFirst = 4;

  // Buckets up to count_ exist. Those from (mask_ + 1) / 2 on were split off. The cache's shards
  // are told apart by the uppermost bits.
  std::size_t IndexOf(std::uint64_t hash) const noexcept {
    const std::size_t index = static_cast<std::uint32_t>(hash >> 32) & mask_;
    return index < count_ ? index : index & (mask_ >> 1);
  }

  // Without memory for more buckets, the chains become longer.
  void Split() noexcept {
    if (count_ == allocated_ && !Widen()) return;
    if (count_ > mask_) mask_ = 2 * mask_ + 1;
    LruNodeBase** from = &buckets_[count_ & (mask_ >> 1)];
    LruNodeBase*& to = buckets_[count_];
    to = nullptr;
    ++count_;
    while (*from != nullptr) {
      LruNodeBase& node = **from;
      if (&buckets_[IndexOf(node.hash)] != &to) {
        from = &node.chain;
        continue;
      }
      *from = node.chain;
      node.chain = to;
      to = &node;
    }
  }
  bool Widen() noexcept {
    std::unique_ptr<LruNodeBase*[]> wider(new (std::nothrow) LruNodeBase*[2 * allocated_]);
    if (wider == nullptr) return false;
    std::copy_n(buckets_, count_, wider.get());
    many_ = std::move(wider);
    buckets_ = many_.get();
    allocated_ *= 2;
    return true;
  }

  std::array<LruNodeBase*, kFirst> first_ = {};
  std::unique_ptr<LruNodeBase*[]> many_;  // null: first_ is used
  LruNodeBase** buckets_ = first_.data();
  std::size_t allocated_ = kFirst;
  std::size_t count_ = kFirst;
  std::size_t mask_ = kFirst - 1;
  std::size_t size_ = 0;
};

// Entries are evicted as SIEVE does it (Zhang et al., NSDI 2024). They stand in the order in which
// they were put, and a hit only marks its entry. A hand goes from the oldest to the newest and
// again from the oldest. It unmarks what it passes, and what it finds unmarked is evicted.
class LruShard {
 public:
  std::uint64_t hits = 0, misses = 0, evictions = 0, expired = 0;

  const LruTable& Table() const noexcept { return table_; }
  std::size_t Weight() const noexcept { return weight_; }

  // Makes room for an entry that expires, so that Insert cannot fail.
  void ReserveExpiry() { expiries_.Reserve(); }

  void Insert(LruNodeBase& node) noexcept {
    table_.Insert(node);
    if (node.expires != kNoEnd) expiries_.Push(node);
    node.older = newest_;
    (newest_ != nullptr ? newest_->newer : oldest_) = &node;
    newest_ = &node;
    weight_ += node.weight;
  }
  void Remove(LruNodeBase& node) noexcept {
    table_.Remove(node);
    if (node.expires != kNoEnd) expiries_.Remove(node);
    if (hand_ == &node) hand_ = node.newer;
    (node.newer != nullptr ? node.newer->older : newest_) = node.older;
    (node.older != nullptr ? node.older->newer : oldest_) = node.newer;
    weight_ -= node.weight;
  }

  // Removes an entry that has expired, or returns null.
  LruNodeBase* RemoveExpired(CacheTime now) noexcept {
    LruNodeBase* const node = expiries_.FirstExpired(now);
    if (node == nullptr) return nullptr;
    Remove(*node);
    ++expired;
    return node;
  }

  // Removes the entry that is wanted least, or returns null if there is none.
  //
  // Cost: where nearly every entry is marked, the hand could go far, so its way is limited.
  LruNodeBase* Evict(CacheTime now) noexcept {
    if (LruNodeBase* const node = RemoveExpired(now)) return node;
    if (oldest_ == nullptr) return nullptr;
    LruNodeBase* node = hand_ != nullptr ? hand_ : oldest_;
    for (int steps = 0; node->asked_for && steps < kMaxSteps; ++steps) {
      node->asked_for = false;
      node = node->newer != nullptr ? node->newer : oldest_;
    }
    hand_ = node;
    Remove(*node);  // the hand then points to the next one
    ++evictions;
    return node;
  }

  // Hands over all entries, as a list from the oldest to the newest.
  LruNodeBase* RemoveAll(LruTable& buckets, ExpiryHeap& expiries) noexcept {
    table_.Swap(buckets);
    expiries_.Swap(expiries);
    newest_ = hand_ = nullptr;
    weight_ = 0;
    return std::exchange(oldest_, nullptr);
  }

 private:
  static constexpr int kMaxSteps = 64;

  LruTable table_;
  ExpiryHeap expiries_;
  LruNodeBase* oldest_ = nullptr;
  LruNodeBase* newest_ = nullptr;
  LruNodeBase* hand_ = nullptr;  // null: at the oldest
  std::size_t weight_ = 0;
};

}  // namespace singleflight::detail

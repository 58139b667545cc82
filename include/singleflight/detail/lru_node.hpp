// SPDX-License-Identifier: MIT
#pragma once

// The entries of an LruCache, and their order of expiry.

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "cache_time.hpp"

namespace singleflight::detail {

// An entry without its key and value. It is owned by its references: one of the cache while the
// entry is in it, and one of each reader that copies the value.
struct LruNodeBase {
  LruNodeBase(std::uint64_t its_hash, std::size_t its_weight, CacheTime its_end) noexcept
      : hash(its_hash), weight(its_weight), expires(its_end) {}
  LruNodeBase(const LruNodeBase&) = delete;
  LruNodeBase& operator=(const LruNodeBase&) = delete;

  // Constant.
  const std::uint64_t hash;  // mixed
  const std::size_t weight;
  const CacheTime expires;  // kNoEnd: not at all

  // Guarded by the shard's mutex while the entry is in the cache. Afterwards, they belong to the
  // thread that took it out.
  LruNodeBase* chain = nullptr;  // the next entry in the bucket, or in a RemovedEntries
  LruNodeBase* newer = nullptr;
  LruNodeBase* older = nullptr;
  std::size_t place_in_heap = 0;  // only if it expires
  bool asked_for = false;         // since the hand passed last

  // Grows only under the shard's mutex, or where there is a reference already. The release of a
  // reader that is done pairs with the acquire of the one that destroys the entry.
  std::atomic<std::uint32_t> references = 1;
};

template <class Key, class Value>
struct LruNode : LruNodeBase {
  template <class K, class V>
  LruNode(std::uint64_t its_hash, std::size_t its_weight, CacheTime its_end, K&& its_key,
          V&& its_value)
      : LruNodeBase(its_hash, its_weight, its_end),
        key(std::forward<K>(its_key)),
        value(std::forward<V>(its_value)) {}

  const Key key;
  const Value value;
};

// An entry that is to be put. It is still here afterwards if it was not kept.
template <class Node>
struct PreparedEntry {
  std::unique_ptr<Node> node;
  bool is_kept;   // else it only replaces the old one
  CacheTime now;  // when it was prepared
};

template <class Node>
void Release(LruNodeBase& base) noexcept {
  if (base.references.fetch_sub(1, std::memory_order_acq_rel) == 1)
    delete static_cast<Node*>(&base);
}

// A reader's reference, which is taken under the shard's mutex.
template <class Node>
class LruPin {
 public:
  explicit LruPin(Node* node) noexcept : node_(node) {
    if (node_ != nullptr) node_->references.fetch_add(1, std::memory_order_relaxed);
  }
  ~LruPin() {
    if (node_ != nullptr) detail::Release<Node>(*node_);
  }
  LruPin(LruPin&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  LruPin& operator=(LruPin&&) = delete;

  Node* get() const noexcept { return node_; }

 private:
  Node* node_;
};

// Entries that were taken out of the cache. They are destroyed with this object, unless a reader
// still copies one.
template <class Node>
class RemovedEntries {
 public:
  RemovedEntries() noexcept = default;
  RemovedEntries(RemovedEntries&& other) noexcept
      : first_(std::exchange(other.first_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  RemovedEntries& operator=(RemovedEntries&&) = delete;
  ~RemovedEntries() {
    while (first_ != nullptr) detail::Release<Node>(*std::exchange(first_, first_->chain));
  }

  void Add(LruNodeBase& node) noexcept {
    node.chain = first_;
    first_ = &node;
    ++count_;
  }
  std::size_t count() const noexcept { return count_; }
  explicit operator bool() const noexcept { return count_ > 0; }

 private:
  LruNodeBase* first_ = nullptr;
  std::size_t count_ = 0;
};

// The entries of a shard that expire, the earliest first: a binary heap whose entries know their
// places. So an entry that is erased or replaced leaves nothing behind.
class ExpiryHeap {
 public:
  // Makes room for one more, so that Push cannot fail.
  void Reserve() {
    if (items_.size() == items_.capacity()) items_.reserve(items_.empty() ? 8 : 2 * items_.size());
  }
  void Push(LruNodeBase& node) noexcept {
    items_.push_back({node.expires, &node});
    Rise(items_.size() - 1);
  }
  void Remove(const LruNodeBase& node) noexcept {
    const std::size_t place = node.place_in_heap;
    const Item last = items_.back();
    items_.pop_back();
    if (place == items_.size()) return;
    items_[place] = last;
    Rise(place);
    Sink(last.node->place_in_heap);
  }
  // Null if none has expired.
  LruNodeBase* FirstExpired(CacheTime now) const noexcept {
    return !items_.empty() && items_.front().expires <= now ? items_.front().node : nullptr;
  }
  void Swap(ExpiryHeap& other) noexcept { items_.swap(other.items_); }

 private:
  struct Item {
    CacheTime expires;  // a copy, so that comparing does not touch the entry
    LruNodeBase* node;
  };

  void Set(std::size_t place, const Item& item) noexcept {
    items_[place] = item;
    item.node->place_in_heap = place;
  }
  void Rise(std::size_t place) noexcept {
    const Item item = items_[place];
    for (; place > 0; place = (place - 1) / 2) {
      const Item& parent = items_[(place - 1) / 2];
      if (parent.expires <= item.expires) break;
      Set(place, parent);
    }
    Set(place, item);
  }
  void Sink(std::size_t place) noexcept {
    const Item item = items_[place];
    for (std::size_t child; (child = 2 * place + 1) < items_.size(); place = child) {
      if (child + 1 < items_.size() && items_[child + 1].expires < items_[child].expires) ++child;
      if (items_[child].expires >= item.expires) break;
      Set(place, items_[child]);
    }
    Set(place, item);
  }

  std::vector<Item> items_;
};

}  // namespace singleflight::detail

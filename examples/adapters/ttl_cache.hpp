// SPDX-License-Identifier: MIT
#pragma once

// A cache in memory whose entries live for a fixed time. It has what a ReadThrough needs, and
// nothing else.
//
//   TtlCache<std::string, User> cache(30s);
//   singleflight::ReadThrough<std::string, User, TtlCache<std::string, User>&> users(cache);
//
// It is not bounded: it holds all entries that are put within that time. Each operation also
// removes up to two expired entries, so none takes long, and none stays for ever in a cache that is
// used.

#include <chrono>
#include <cstddef>
#include <list>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <utility>

// Thread: every member may be called from any thread at any time.
// Lifetime: values are copied under a lock, so their copy constructor must not use the cache.
template <class Key, class Value, class Clock = std::chrono::steady_clock>
class TtlCache {
 public:
  static constexpr bool kConcurrent = true;

  // An entry lives for `ttl` after it was put. The clock must be able to represent that time.
  explicit TtlCache(typename Clock::duration ttl) : ttl_(ttl) {}

  std::optional<Value> Get(const Key& key) {
    Entries removed;  // destroyed after unlocking
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    RemoveSomeExpired(now, removed);
    const auto found = index_.find(key);
    if (found == index_.end() || found->second->expires <= now) return std::nullopt;
    return found->second->value;
  }

  void Put(const Key& key, const Value& value) {
    Entries removed, put;
    put.push_back({key, value, {}});
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    RemoveSomeExpired(now, removed);
    put.front().expires = now + ttl_;
    const auto [place, is_new] = index_.try_emplace(key, put.begin());
    if (!is_new) removed.splice(removed.end(), entries_, std::exchange(place->second, put.begin()));
    entries_.splice(entries_.end(), put);
  }

  void Erase(const Key& key) {
    Entries removed;
    const std::lock_guard lock(mutex_);
    RemoveSomeExpired(Clock::now(), removed);
    if (const auto found = index_.find(key); found != index_.end()) Remove(found, removed);
  }

  // Returns the number of entries. It includes expired ones that have not been removed so far.
  std::size_t Size() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  struct Entry {
    Key key;
    Value value;
    typename Clock::time_point expires;
  };
  using Entries = std::list<Entry>;
  using Index = std::unordered_map<Key, typename Entries::iterator>;

  // All entries live equally long, so the entry that was put first expires first.
  void RemoveSomeExpired(typename Clock::time_point now, Entries& removed) {
    for (int left = 2; left > 0 && !entries_.empty() && entries_.front().expires <= now; --left) {
      Remove(index_.find(entries_.front().key), removed);
    }
  }

  void Remove(typename Index::iterator found, Entries& removed) {
    removed.splice(removed.end(), entries_, found->second);
    index_.erase(found);
  }

  const typename Clock::duration ttl_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  Entries entries_;  // the entry that expires first is the first
  Index index_;
};

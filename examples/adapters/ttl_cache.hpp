// SPDX-License-Identifier: MIT
#pragma once

// A cache in memory whose entries live for a fixed time. It has what a ReadThrough needs, and
// nothing else.
//
//   TtlCache<std::string, User> cache(30s);
//   singleflight::ReadThrough<std::string, User, TtlCache<std::string, User>&> users(cache);
//
// It is not bounded: it holds all entries that are put within that time.

#include <chrono>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <unordered_map>

// Thread: every member may be called from any thread at any time.
// Lifetime: values are copied and destroyed under a lock, so their copy constructor and destructor
//   must not use the cache.
template <class Key, class Value, class Clock = std::chrono::steady_clock>
class TtlCache {
 public:
  static constexpr bool kConcurrent = true;

  // An entry lives for `ttl` after it was put. The clock must be able to represent that time.
  explicit TtlCache(typename Clock::duration ttl) : ttl_(ttl) {}

  std::optional<Value> Get(const Key& key) {
    const std::lock_guard lock(mutex_);
    RemoveExpired(Clock::now());
    const auto found = entries_.find(key);
    if (found == entries_.end()) return std::nullopt;
    return found->second.value;
  }

  void Put(const Key& key, const Value& value) {
    const std::lock_guard lock(mutex_);
    const auto now = Clock::now();
    RemoveExpired(now);
    puts_.push_back({now + ttl_, key});
    entries_.insert_or_assign(key, Entry{value, now + ttl_});
  }

  void Erase(const Key& key) {
    const std::lock_guard lock(mutex_);
    entries_.erase(key);
  }

  // Returns the number of entries. It includes those that have expired since the last Get or Put.
  std::size_t Size() const {
    const std::lock_guard lock(mutex_);
    return entries_.size();
  }

 private:
  using Time = typename Clock::time_point;
  struct Entry {
    Value value;
    Time expires;
  };
  struct PutOf {
    Time expires;
    Key key;
  };

  // All entries live equally long, so the entry that was put first expires first.
  void RemoveExpired(Time now) {
    for (; !puts_.empty() && puts_.front().expires <= now; puts_.pop_front()) {
      const auto found = entries_.find(puts_.front().key);
      if (found == entries_.end()) continue;                    // erased meanwhile
      if (found->second.expires <= now) entries_.erase(found);  // else it was put again
    }
  }

  const typename Clock::duration ttl_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::unordered_map<Key, Entry> entries_;
  std::deque<PutOf> puts_;  // the puts of the last ttl_, oldest first
};

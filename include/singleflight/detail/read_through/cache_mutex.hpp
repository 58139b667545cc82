// SPDX-License-Identifier: MIT
#pragma once

// CacheMutex: the mutex of a cache to which ReadThroughs refer. Each of them has a CacheMutex, and
// those of one cache lock the same mutex.
//
// One table serves the whole process. (Shared libraries built with hidden visibility have a table
// each, so ReadThroughs in two of them must not refer to the same cache.)

#if !defined(_WIN32) && __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <type_traits>

#include "../fibonacci_hash.hpp"
#include "../static_mutex.hpp"

namespace singleflight::detail {

// Tells caches apart. An object and its first member have the same address, but not the same type.
// They need two locks, because the object may ask another ReadThrough that refers to the member.
struct CacheIdentity {
  const void* address;
  // Null for a class with virtual functions. The address is then that of the whole object.
  const void* type;

  bool operator==(const CacheIdentity&) const = default;
};

template <class Cache>
inline constinit char type_of_cache = 0;  // its address stands for the type

template <class Cache>
CacheIdentity IdentityOf(Cache& cache) noexcept {
  if constexpr (std::is_polymorphic_v<Cache>) {
    return {dynamic_cast<const void*>(std::addressof(cache)), nullptr};
  } else {
    return {std::addressof(cache), &type_of_cache<std::remove_cv_t<Cache>>};
  }
}

// A mutex of whatever type, and its place in the table.
class CacheMutexEntry {
 public:
  virtual ~CacheMutexEntry() = default;
  virtual void lock() = 0;
  virtual void unlock() = 0;
  CacheMutexEntry(const CacheMutexEntry&) = delete;
  CacheMutexEntry& operator=(const CacheMutexEntry&) = delete;

  // Returns the entry for fresh's cache, which is `fresh` if there is none yet. Counts the calls.
  static CacheMutexEntry& Acquire(std::unique_ptr<CacheMutexEntry> fresh) {
    const std::lock_guard lock(table.mutex);
    CacheMutexEntry*& head = BucketOf(fresh->cache_);
    CacheMutexEntry* found = head;
    while (found != nullptr && found->cache_ != fresh->cache_) found = found->next_;
    if (found == nullptr) {
      found = fresh.release();
      found->next_ = head;
      std::atomic_signal_fence(std::memory_order_release);  // a fork may come between: see at_fork
      head = found;
    }
    ++found->users_;
    return *found;
  }

  // Destroys the entry when this has been called as often as Acquire.
  static void Release(CacheMutexEntry& entry) noexcept {
    std::unique_ptr<CacheMutexEntry> unused;  // destroyed after `lock`
    const std::lock_guard lock(table.mutex);
    if (--entry.users_ > 0) return;
    CacheMutexEntry** link = &BucketOf(entry.cache_);
    while (*link != &entry) link = &(*link)->next_;
    *link = entry.next_;
    unused.reset(&entry);
  }

 protected:
  explicit CacheMutexEntry(const CacheIdentity& cache) noexcept : cache_(cache) {}

 private:
  struct Table {
    StaticMutex mutex;
    std::array<CacheMutexEntry*, 64> buckets = {};  // guarded by mutex
  };
  static Table table;
#if !defined(_WIN32) && __has_include(<pthread.h>)
  static const int at_fork;  // initialized for its side effect: registers the handler
#endif

  static CacheMutexEntry*& BucketOf(const CacheIdentity& cache) noexcept {
    return table.buckets[TopBits<6>(reinterpret_cast<std::uintptr_t>(cache.address))];
  }

  const CacheIdentity cache_;
  std::size_t users_ = 0;            // guarded by the table's mutex
  CacheMutexEntry* next_ = nullptr;  // likewise
};

inline constinit CacheMutexEntry::Table CacheMutexEntry::table;

#if !defined(_WIN32) && __has_include(<pthread.h>)
// In a forked child, the mutex may be held by a thread that is not there. The table is whole all
// the same: each change of it is one pointer that is set.
inline const int CacheMutexEntry::at_fork =
    pthread_atfork(nullptr, nullptr, [] { new (&table.mutex) std::mutex; });
#endif

// The first ReadThrough that refers to a cache provides the type of its mutex.
template <class Mutex>
class CacheMutex {
 public:
  template <class Cache>
  explicit CacheMutex(Cache& cache)
      : entry_(CacheMutexEntry::Acquire(std::make_unique<Entry>(IdentityOf(cache)))) {}
  ~CacheMutex() { CacheMutexEntry::Release(entry_); }
  CacheMutex(const CacheMutex&) = delete;
  CacheMutex& operator=(const CacheMutex&) = delete;

  void lock() { entry_.lock(); }
  void unlock() { entry_.unlock(); }

 private:
  class Entry final : public CacheMutexEntry {
   public:
    explicit Entry(const CacheIdentity& cache) : CacheMutexEntry(cache) {}
    void lock() override { mutex_.lock(); }
    void unlock() override { mutex_.unlock(); }

   private:
    Mutex mutex_;
  };

  CacheMutexEntry& entry_;
};

}  // namespace singleflight::detail

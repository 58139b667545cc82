// SPDX-License-Identifier: MIT
#pragma once

// Who waits for whom: tells a thread, before it blocks, that its wait would never end.
//
// A call waits when its leader's thread does. So an edge goes from a thread that leads at least one
// call to the call it is about to wait for, and on from that call to the thread that leads it. A
// wait that would lead back to its own thread is refused instead of recorded; the recorded edges
// therefore never form a cycle, and a walk along them always ends.
//
// One table serves all groups of the process, so a cycle through several groups is seen as well.
// (Shared libraries built with hidden visibility have a table each, and no cycle is seen across.)

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>

#include "thread_mark.hpp"

namespace singleflight::detail {

// What a thread can wait for: the part of a call that the wait graph knows.
class WaitTarget {
 public:
  explicit WaitTarget(const ThreadMark* running_on) noexcept : running_on_(running_on) {}

  // True once the call has landed; what its leader did before then happened before.
  bool HasLanded() const noexcept {
    return running_on_.load(std::memory_order_acquire) == &landed_mark;
  }

 protected:
  ~WaitTarget() = default;

  // Release, with the acquire in WaitEdge::ClosesCycle: a thread that has landed a call and then
  // waits for another is never taken to hold up the first one still.
  void MarkLanded() noexcept { running_on_.store(&landed_mark, std::memory_order_release); }

 private:
  friend class WaitEdge;
  friend class RunningScope;

  // Stands for no thread, so no edge goes on from it.
  static inline constinit ThreadMark landed_mark;

  void Change(const ThreadMark* from, const ThreadMark* to) noexcept {
    running_on_.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }

  // States: the thread that leads the call, for a blocking leader, or that is inside its `fn`; null
  // while an asynchronous call is on no thread; &landed_mark once it has landed, for good.
  std::atomic<const ThreadMark*> running_on_;
};

// Names this thread as the one that does the work of an asynchronous call, for as long as the
// object lives; of no consequence once the call has landed.
class RunningScope {
 public:
  explicit RunningScope(WaitTarget& target) noexcept : target_(target) {
    target_.Change(nullptr, &this_thread_mark);
  }
  ~RunningScope() { target_.Change(&this_thread_mark, nullptr); }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  WaitTarget& target_;
};

// The edge "this thread waits for that call", for as long as the object lives or until Remove.
// Lives on the waiting thread's stack, so recording it allocates nothing.
class WaitEdge {
 public:
  WaitEdge() = default;
  ~WaitEdge() { Remove(); }
  WaitEdge(const WaitEdge&) = delete;
  WaitEdge& operator=(const WaitEdge&) = delete;

  // False: waiting for `target` would never end, and nothing was recorded. A thread that leads
  // nothing holds nobody up and can be in no cycle: it pays for one thread-local read.
  [[nodiscard]] bool Record(const WaitTarget& target) {
    if (this_thread_mark.leading == 0) return true;
    const std::lock_guard lock(table.mutex);
    if (ClosesCycle(target)) return false;
    target_ = &target;
    WaitEdge*& head = BucketOf(&this_thread_mark);
    next_ = head;
    head = this;
    return true;
  }

  // Whether Record would refuse, without recording anything.
  [[nodiscard]] bool WouldClose(const WaitTarget& target) const {
    if (this_thread_mark.leading == 0) return false;
    const std::lock_guard lock(table.mutex);
    return ClosesCycle(target);
  }

  void Remove() noexcept {
    if (target_ == nullptr) return;
    const std::lock_guard lock(table.mutex);
    WaitEdge** link = &BucketOf(thread_);
    while (*link != nullptr && *link != this) link = &(*link)->next_;
    if (*link != nullptr) *link = next_;  // else this is a child, forked since by a signal handler
    target_ = nullptr;
  }

 private:
  struct Table {
    std::mutex mutex;
    std::array<WaitEdge*, 64> buckets = {};  // guarded by mutex, as are the links in the edges
  };
  static Table table;
#if __has_include(<pthread.h>)
  static const int at_fork;  // of no interest but for how it is initialized
#endif

  static WaitEdge*& BucketOf(const ThreadMark* thread) noexcept {
    const std::uint64_t address = reinterpret_cast<std::uintptr_t>(thread);
    return table.buckets[(address * 0x9E3779B97F4A7C15u) >> 58];  // the top 6 bits: 64 buckets
  }

  // A mark found in a call that has not landed belongs to a living thread, and a thread has an edge
  // only while it waits; so the walk compares marks and never looks into one.
  bool ClosesCycle(const WaitTarget& first) const noexcept {
    for (const WaitTarget* target = &first;;) {
      const ThreadMark* leader = target->running_on_.load(std::memory_order_acquire);
      if (leader == nullptr) return false;
      if (leader == thread_) return true;
      const WaitEdge* edge = BucketOf(leader);
      while (edge != nullptr && edge->thread_ != leader) edge = edge->next_;
      if (edge == nullptr) return false;
      target = edge->target_;
    }
  }

  const ThreadMark* thread_ = &this_thread_mark;
  const WaitTarget* target_ = nullptr;  // null: not recorded
  WaitEdge* next_ = nullptr;
};

inline constinit WaitEdge::Table WaitEdge::table;

#if __has_include(<pthread.h>)
// A forked child has one thread, and that waits for nothing: its table begins anew. The edges of
// the parent's other threads would lie on stacks that the child's threads get, and one of those
// threads may have held the mutex. (Nothing is locked in the parent: another library's handlers may
// come next, and wait for threads that need the table.)
inline const int WaitEdge::at_fork =
    pthread_atfork(nullptr, nullptr, [] { new (&table) WaitEdge::Table; });
#endif

}  // namespace singleflight::detail

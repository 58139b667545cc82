// SPDX-License-Identifier: MIT
#pragma once

// The wait graph: detects, before a thread blocks, that its wait would never end.
//
// A call makes no progress while its leader's thread waits. So before a thread that leads a call
// waits for another, it records an edge to that other call, and thus to the thread that leads it. A
// wait that would close a cycle is refused. So the recorded edges never form a cycle, and a walk
// along them always terminates.
//
// One table serves all groups of the process, so cycles through several groups are detected, too.
// (Shared libraries built with hidden visibility, and plugins, may have a table each. Of the cycles
// that cross them, only that of a thread which asks for its own call is detected.)

#if !defined(_WIN32) && __has_include(<pthread.h>)
#include <pthread.h>
#endif

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <new>

#include "fibonacci_hash.hpp"
#include "static_mutex.hpp"
#include "thread_mark.hpp"

namespace singleflight::detail {

// The part of a call that the wait graph knows: a thread can wait for it.
class WaitTarget {
 public:
  explicit WaitTarget(ThreadId running_on) noexcept : running_on_(running_on) {}

  // Says that a thread does the work of this call, which is led asynchronously. Has no effect once
  // the call has landed, or if another thread does it.
  void BeginWork(ThreadId thread) noexcept { Change(kNoThread, thread); }
  void EndWork(ThreadId thread) noexcept { Change(thread, kNoThread); }

  // True once the call has landed. What its leader did before that happens-before this returns.
  bool HasLanded() const noexcept { return running_on_.load(std::memory_order_acquire) == kLanded; }

 protected:
  ~WaitTarget() = default;

  // Release pairs with the acquire in WaitEdge::ClosesCycle: a thread that has landed one call and
  // then waits for another must not be seen as still holding up the first.
  void MarkLanded() noexcept { running_on_.store(kLanded, std::memory_order_release); }

 private:
  friend class WaitEdge;

  // Values, not addresses of variables, because plugins may have variables of their own.
  static constexpr ThreadId kNoThread = 0;
  static constexpr ThreadId kLanded = 1;

  void Change(ThreadId from, ThreadId to) noexcept {
    running_on_.compare_exchange_strong(from, to, std::memory_order_acq_rel);
  }

  // Another call, without which this one makes no progress while no thread runs it. Guarded by the
  // table's mutex.
  const WaitTarget* waits_for_ = nullptr;
  // States: the leader's thread, if it blocks in Do. The thread that is inside `fn`, if the call is
  // led asynchronously, and kNoThread while there is none. kLanded once the call has landed.
  std::atomic<ThreadId> running_on_;
};

// Records that this thread does the work of an asynchronous call, during this object's lifetime.
// Has no effect once the call has landed.
class RunningScope {
 public:
  explicit RunningScope(WaitTarget& target) noexcept : target_(target) {
    target_.BeginWork(thread_);
  }
  ~RunningScope() { target_.EndWork(thread_); }
  RunningScope(const RunningScope&) = delete;
  RunningScope& operator=(const RunningScope&) = delete;

 private:
  WaitTarget& target_;
  const ThreadId thread_ = ThisThread();  // work whose stack moves ends on another thread
};

// The edge "this thread waits for that call". It is recorded until Remove, or until this object is
// destroyed. It is on the waiting thread's stack, so recording it allocates nothing.
class WaitEdge {
 public:
  WaitEdge() = default;
  ~WaitEdge() { Remove(); }
  WaitEdge(const WaitEdge&) = delete;
  WaitEdge& operator=(const WaitEdge&) = delete;

  // False: waiting for `target` would never end, and nothing was recorded. A thread that leads no
  // call cannot be part of a cycle, and pays for one thread-local read. (It may lead one for
  // another module, whose marks are not visible here. Then it is seen to wait for itself, but for
  // no more.)
  [[nodiscard]] bool Record(const WaitTarget& target) {
    if (this_thread_mark.leading == 0) return !RunsHere(target);
    const std::lock_guard lock(table.mutex);
    if (ClosesCycle(target)) return false;
    target_ = &target;
    WaitEdge*& head = BucketOf(thread_);
    next_ = head;
    head = this;
    return true;
  }

  // Whether Record would refuse, without recording anything.
  [[nodiscard]] bool WouldClose(const WaitTarget& target) const {
    if (this_thread_mark.leading == 0) return RunsHere(target);
    const std::lock_guard lock(table.mutex);
    return ClosesCycle(target);
  }

  // Says that a call makes no progress before another one has landed, which must outlive it. False:
  // that would never end, and nothing was said.
  [[nodiscard]] static bool Link(WaitTarget& call, const WaitTarget& to) {
    const std::lock_guard lock(table.mutex);
    for (const WaitTarget* target = &to; target != nullptr; target = Next(*target)) {
      if (target == &call) return false;
    }
    call.waits_for_ = &to;
    return true;
  }

  void Remove() noexcept {
    if (target_ == nullptr) return;
    const std::lock_guard lock(table.mutex);
    WaitEdge** link = &BucketOf(thread_);
    while (*link != nullptr && *link != this) link = &(*link)->next_;
    if (*link != nullptr) *link = next_;  // null: a signal handler forked, and this is the child
    target_ = nullptr;
  }

 private:
  struct Table {
    StaticMutex mutex;
    std::array<WaitEdge*, 64> buckets = {};  // guarded by mutex, like the links in the edges
  };
  static Table table;
#if !defined(_WIN32) && __has_include(<pthread.h>)
  static const int at_fork;  // initialized for its side effect: registers the handler
#endif

  static WaitEdge*& BucketOf(ThreadId thread) noexcept { return table.buckets[TopBits<6>(thread)]; }

  bool RunsHere(const WaitTarget& target) const noexcept {
    return target.running_on_.load(std::memory_order_acquire) == thread_;
  }

  // A thread in a call that has not landed is alive, and a thread has an edge only while it waits.
  bool ClosesCycle(const WaitTarget& first) const noexcept {
    for (const WaitTarget* target = &first; target != nullptr; target = Next(*target)) {
      if (target->running_on_.load(std::memory_order_acquire) == thread_) return true;
    }
    return false;
  }
  // Returns the call that this one waits for. Null: none is recorded.
  static const WaitTarget* Next(const WaitTarget& target) noexcept {
    const ThreadId leader = target.running_on_.load(std::memory_order_acquire);
    if (leader == WaitTarget::kNoThread) return target.waits_for_;
    const WaitEdge* edge = BucketOf(leader);
    while (edge != nullptr && edge->thread_ != leader) edge = edge->next_;
    return edge == nullptr ? nullptr : edge->target_;
  }

  const ThreadId thread_ = ThisThread();
  const WaitTarget* target_ = nullptr;  // null: not recorded
  WaitEdge* next_ = nullptr;
};

inline constinit WaitEdge::Table WaitEdge::table;

#if !defined(_WIN32) && __has_include(<pthread.h>)
// A forked child has one thread, which waits for nothing, so it starts with an empty table. Edges
// of the parent's other threads would be on stacks that the child's new threads reuse, and one of
// those threads may have held the mutex. (The parent locks nothing before it forks: another
// library's handler may run next, and wait for threads that need the table.)
inline const int WaitEdge::at_fork =
    pthread_atfork(nullptr, nullptr, [] { new (&table) WaitEdge::Table; });
#endif

}  // namespace singleflight::detail

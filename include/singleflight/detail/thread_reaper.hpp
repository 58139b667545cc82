// SPDX-License-Identifier: MIT
#pragma once

// ThreadReaper: starts threads for a group, and waits until they have exited.
//
// A thread that has landed its call still runs code of this library, and of the module that the
// library was compiled into. That module may be unloaded as soon as the group is destroyed. So no
// thread is detached: each joins the one that finished before it, and JoinAll joins the last. At
// most one finished thread is waiting to be joined, however many a group starts.

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

#include "any_task.hpp"
#include "intrusive_list.hpp"

#if __has_include(<pthread.h>)
#include <pthread.h>
#endif
#if __has_include(<unistd.h>)
#include <unistd.h>
#endif

namespace singleflight::detail {

class ThreadReaper {
 public:
  ThreadReaper() = default;
  ~ThreadReaper() { JoinAll(); }
  ThreadReaper(const ThreadReaper&) = delete;
  ThreadReaper& operator=(const ThreadReaper&) = delete;

  // Starts a thread that runs `task()`.
  //
  // Thread: any, but no other thread may be destroying the reaper.
  // Errors: throws std::system_error if no thread can be started, and std::bad_alloc.
  void Start(AnyTask task) {
    Crew& crew = CurrentCrew();
    auto thread = std::make_unique<Thread>();
    const std::lock_guard lock(crew.mutex);  // until `handle` is where Finish looks for it
    thread->handle = std::thread([&crew, &self = *thread, task = std::move(task)]() mutable {
      this_thread_crew = &crew;
      bool abandoned = false;
      self.abandoned = &abandoned;
      const Finishing finishing{crew, self, abandoned};
      task();
    });
    thread.release()->InsertBefore(crew.running);
  }

  // Waits until all threads have exited. True if there was one. If this is one of them, it is
  // detached instead, because it cannot wait for itself.
  bool JoinAll() noexcept {
    bool any = false;
    while (Crew* const crew = crew_.exchange(nullptr)) {  // a running task may start another thread
      any = true;
      Join(std::unique_ptr<Crew>(crew));
    }
    return any;
  }

 private:
  // A thread that was started and not joined.
  struct Thread : ListLink {
    std::thread handle;  // guarded by the crew's mutex, until `previous` or JoinAll owns it
    // Set by JoinAll if it runs on this very thread: the crew is gone when the task returns.
    // Accessed by this thread only.
    bool* abandoned = nullptr;
  };

  // The threads. Made when the first is started, so a group that starts none pays for a pointer.
  struct Crew {
    std::mutex mutex;
    // Guarded by mutex.
    std::condition_variable none_runs;
    ListLink running;                  // of Thread
    std::unique_ptr<Thread> finished;  // the last one to finish
    const long process = ThisProcess();
  };

  // The last that a thread does, even if it is being cancelled.
  struct Finishing {
    ~Finishing() {
      if (!abandoned) Finish(crew, self);
    }
    Crew& crew;
    Thread& self;
    const bool& abandoned;
  };

  static void Finish(Crew& crew, Thread& self) noexcept {
#if defined(PTHREAD_CANCEL_DISABLE)
    int before;  // join is a cancellation point
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &before);
#endif
    std::unique_ptr<Thread> previous;
    {
      const std::lock_guard lock(crew.mutex);
      self.Unlink();
      previous = std::exchange(crew.finished, std::unique_ptr<Thread>(&self));
      if (crew.running.Empty()) crew.none_runs.notify_all();
    }
    // From here on the crew may be gone. The previous thread was here before, so it is exiting.
    if (previous != nullptr) previous->handle.join();
  }

  static void Join(std::unique_ptr<Crew> crew) noexcept {
    if (crew->process != ThisProcess()) {
      static_cast<void>(crew.release());  // leaked: the threads, and its mutex, are the parent's
      return;
    }
    std::unique_lock lock(crew->mutex);
    const bool running_here = AbandonThisThread(*crew);
    crew->none_runs.wait(lock, [&crew] { return crew->running.Empty(); });
    lock.unlock();
    if (crew->finished == nullptr) return;
    if (!running_here && (this_thread_crew == crew.get() ||
                          crew->finished->handle.get_id() == std::this_thread::get_id())) {
      // A thread_local's destructor runs this, after Finish. The last thread may be this one, or be
      // about to join it. (MinGW may have freed this_thread_crew by now.)
      crew->finished->handle.detach();
    } else {
      crew->finished->handle.join();
    }
  }

  // If this is a running thread of the crew, makes it one of no crew, and returns true.
  static bool AbandonThisThread(Crew& crew) noexcept {
    for (ListLink* link = crew.running.next; link != &crew.running; link = link->next) {
      auto& thread = static_cast<Thread&>(*link);
      if (thread.handle.get_id() != std::this_thread::get_id()) continue;
      *thread.abandoned = true;
      thread.Unlink();
      thread.handle.detach();
      delete &thread;
      return true;
    }
    return false;
  }

  // Returns the crew that new threads belong to. A forked child starts with a new one, because it
  // has none of its parent's threads.
  Crew& CurrentCrew() {
    Crew* crew = crew_.load();
    if (crew != nullptr && crew->process == ThisProcess()) return *crew;
    auto fresh = std::make_unique<Crew>();
    if (crew_.compare_exchange_strong(crew, fresh.get())) return *fresh.release();
    return *crew;  // another thread was first
  }

  static long ThisProcess() noexcept {
#if __has_include(<unistd.h>)
    return getpid();
#else
    return 0;
#endif
  }

  // The crew that this thread belongs or belonged to. Only compared.
  static inline constinit thread_local const Crew* this_thread_crew = nullptr;

  std::atomic<Crew*> crew_ = nullptr;
};

}  // namespace singleflight::detail

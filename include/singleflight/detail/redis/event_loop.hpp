// SPDX-License-Identifier: MIT
#pragma once

// EventLoop: one thread that waits in poll() for files, timers and tasks of other threads.
//
//   EventLoop loop;
//   loop.Start();
//   loop.Post([&loop] { ... });  // runs on the loop's thread
//
// In each turn it runs the tasks that were posted, then the timers that are due, then what was
// deferred to the end of the turn, and then waits for files. All that a turn has written to one
// connection can so go out in one write.
//
// It is not an executor for work: a task must not block, and must not throw.

#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include "fork_count.hpp"
#include "posix.hpp"
#include "timer_queue.hpp"
#include "wake_up.hpp"

namespace singleflight::redis::detail {

// A piece of work with its own link, so that posting it allocates nothing. It must live until Run.
// It is not used after Run has begun, unless it is posted again, so Run may destroy it.
class LoopTask {
 public:
  LoopTask() = default;
  LoopTask(const LoopTask&) = delete;
  LoopTask& operator=(const LoopTask&) = delete;
  virtual void Run() noexcept = 0;

 protected:
  virtual ~LoopTask() = default;  // EventLoop is a friend, so compilers warn if it is not virtual

 private:
  friend class EventLoop;
  LoopTask* next_ = nullptr;  // guarded by EventLoop::posted_, or used by the loop's thread alone
};

// A task that is part of a longer-lived object and calls its function each time it runs.
class LoopFunction final : public LoopTask {
 public:
  explicit LoopFunction(std::function<void()> fn) : fn_(std::move(fn)) {}
  void Run() noexcept override { fn_(); }

 private:
  const std::function<void()> fn_;
};

class EventLoop {
 public:
  EventLoop() : forks_(ForkCount()) { AddFile(wake_up_.File(), POLLIN, nullptr); }

  ~EventLoop() { Stop(); }

  // Runs what was posted until now, and what that defers, and joins the thread. Then no other
  // thread may use the loop.
  //
  // Thread: any but the loop's own, which could not join itself: the program is aborted with a
  //   message. In a forked child the loop has no thread, and must be leaked instead.
  void Stop() noexcept {
    if (thread_ == nullptr) return;
    if (IsLoopThread()) {
      std::fputs("singleflight::redis: a Client must not be destroyed on its own event loop\n",
                 stderr);
      std::abort();
    }
    Post(stop_task_);
    const DisableCancellation guard;  // join is a cancellation point
    thread_->join();
    thread_ = nullptr;
  }

  EventLoop(const EventLoop&) = delete;
  EventLoop& operator=(const EventLoop&) = delete;

  // Starts the thread, if it does not run yet. Tasks may be posted before.
  //
  // Errors: std::system_error if the thread cannot be started. The next Start tries again.
  void Start() {
    if (started_.load(std::memory_order_acquire)) return;  // pairs with the store below
    const std::lock_guard lock(start_mutex_);
    if (thread_ != nullptr) return;
    const BlockSignals guard;  // the thread inherits this: no handler of the user's runs on it
    thread_ = std::make_unique<std::thread>([this]() noexcept { Loop(); });
    started_.store(true, std::memory_order_release);
  }

  // Has the loop's thread run the task. Tasks of one thread run in their order.
  //
  // Thread: any. From the loop's own thread, the task runs in its next turn.
  // Cost: no allocation, and a system call only if the loop is asleep: a burst costs one.
  void Post(LoopTask& task) noexcept {
    LoopTask* head = posted_.load(std::memory_order_relaxed);
    do {
      task.next_ = head == &asleep_ ? nullptr : head;
      // Release: pairs with the acquire in TakePosted.
    } while (!posted_.compare_exchange_weak(head, &task, std::memory_order_release,
                                            std::memory_order_relaxed));
    if (head != &asleep_) return;
    wake_ups_.fetch_add(1, std::memory_order_relaxed);
    wake_up_.Signal();
  }

  // Does the same for a function, in one allocation.
  template <class Fn>
  requires std::invocable<Fn&>
  void Post(Fn fn) {
    struct Once final : LoopTask {
      explicit Once(Fn its_fn) : fn(std::move(its_fn)) {}
      void Run() noexcept override {
        const std::unique_ptr<Once> self(this);
        fn();
      }
      Fn fn;
    };
    Post(*std::make_unique<Once>(std::move(fn)).release());
  }

  // Returns how often a thread had to wake the loop.
  std::uint64_t WakeUps() const noexcept { return wake_ups_.load(std::memory_order_relaxed); }

  // True in a forked child of the process that made the loop.
  bool IsForked() const noexcept { return forks_ != ForkCount(); }

  bool IsLoopThread() const noexcept {
    return loop_thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
  }

  // Only the loop's thread may use the members below.

  TimerQueue& Timers() noexcept { return timers_; }

  // Returns the time at which this turn began.
  Clock::time_point Now() const noexcept { return now_; }

  // Has the task run at the end of this turn, before the loop waits. It must not be deferred yet.
  void Defer(LoopTask& task) noexcept { task.next_ = std::exchange(deferred_, &task); }

  // Calls `handler(revents)` as long as `file` is ready for `events`, those of poll(). Returns a
  // number for the members below. The handler may remove any file, its own too.
  using Handler = std::function<void(short)>;
  std::size_t AddFile(int file, short events, const Handler* handler) {
    const auto hole = std::ranges::find(files_, -1, &pollfd::fd);
    const auto index = static_cast<std::size_t>(hole - files_.begin());
    if (hole == files_.end()) {
      handlers_.reserve(files_.size() + 1);
      files_.emplace_back();
      handlers_.emplace_back();
    }
    files_[index] = {file, events, 0};
    handlers_[index] = handler;
    return index;
  }
  void SetEvents(std::size_t index, short events) noexcept { files_[index].events = events; }
  void RemoveFile(std::size_t index) noexcept {
    files_[index] = {-1, 0, 0};
    handlers_[index] = nullptr;
  }

 private:
  struct Marker final : LoopTask {
    void Run() noexcept override {}
  };
  struct StopTask final : LoopTask {
    explicit StopTask(EventLoop& its_loop) : loop(its_loop) {}
    void Run() noexcept override { loop.stopped_ = true; }
    EventLoop& loop;
  };

  void Loop() noexcept {
    loop_thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    now_ = Clock::now();
    while (!stopped_) {
      RunEach(TakePosted());
      timers_.RunDue(now_);
      RunEach(std::exchange(deferred_, nullptr));
      if (!stopped_) Wait();
    }
    for (bool more = true; more;) {  // what the last tasks have posted and deferred
      LoopTask* const posted = TakePosted();
      LoopTask* const deferred = std::exchange(deferred_, nullptr);
      RunEach(posted);
      RunEach(deferred);
      more = posted != nullptr || deferred != nullptr;
    }
  }

  // Takes what was posted, in its order.
  LoopTask* TakePosted() noexcept {
    LoopTask* last = posted_.exchange(nullptr, std::memory_order_acquire);
    LoopTask* first = nullptr;
    while (last != nullptr && last != &asleep_) {
      first = std::exchange(last, std::exchange(last->next_, first));
    }
    return first;
  }

  static void RunEach(LoopTask* task) noexcept {
    while (task != nullptr) std::exchange(task, task->next_)->Run();
  }

  void Wait() noexcept {
    // A task that was posted meanwhile must not wait. One that is posted from now on wakes us.
    LoopTask* none = nullptr;
    const bool sleeps = deferred_ == nullptr &&
                        posted_.compare_exchange_strong(none, &asleep_, std::memory_order_relaxed);
    const nfds_t count = files_.size();
    ::poll(files_.data(), count, sleeps ? PollTimeout() : 0);
    now_ = Clock::now();
    if (files_[0].revents != 0) wake_up_.Clear();
    for (std::size_t i = 1; i < files_.size(); ++i) {
      // A file that a handler has removed, or added in its place, has no events.
      if (const short events = std::exchange(files_[i].revents, 0); events != 0) {
        const Handler handler = *handlers_[i];  // it may be destroyed
        handler(events);
      }
    }
  }

  // Returns how long to wait for the next timer, in milliseconds, rounded up.
  int PollTimeout() const noexcept {
    const std::optional<Clock::time_point> next = timers_.Next();
    if (!next) return -1;
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(*next - Clock::now()).count();
    return static_cast<int>(std::clamp<decltype(left)>(left, 0, INT_MAX));
  }

  const unsigned forks_;
  // States: null: nothing was posted, and the loop is awake. &asleep_: nothing was posted, and the
  // loop is in poll(), or about to be. Else: the last task that was posted, linked to those before.
  std::atomic<LoopTask*> posted_ = nullptr;
  std::atomic<std::uint64_t> wake_ups_ = 0;     // relaxed: a count
  std::atomic<std::thread::id> loop_thread_{};  // relaxed: only the thread itself finds its own id
  std::atomic<bool> started_ = false;           // true: thread_ runs
  std::mutex start_mutex_;
  std::unique_ptr<std::thread> thread_;  // guarded by start_mutex_, except in the destructor
  const WakeUp wake_up_;
  Marker asleep_;
  StopTask stop_task_{*this};

  // Used by the loop's thread alone.
  bool stopped_ = false;
  Clock::time_point now_ = {};
  TimerQueue timers_;
  LoopTask* deferred_ = nullptr;
  std::vector<pollfd> files_;             // of a removed file: -1. The first is wake_up_
  std::vector<const Handler*> handlers_;  // by the index in files_
};

}  // namespace singleflight::redis::detail

// SPDX-License-Identifier: MIT
#pragma once

// RunnerSlot: which of a call's callers does its work. Whether this process leads is known only
// after the server has answered, and a caller that blocks may have left by then. So each caller
// that can do the work offers itself, and the first that is still there gets the lead.

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>

#include "../../redis_call_info.hpp"
#include "../intrusive_list.hpp"

namespace singleflight::redis::detail {

// The right to do a call's work, on its way to a runner.
class Grant {
 protected:
  ~Grant() = default;
};

// One that can do a call's work. A thread that waits in Do is one, and is on its own stack. A
// function that was given to CoDo or DoAsync belongs to the slot.
class Runner : private singleflight::detail::ListLink {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  virtual ~Runner() = default;

  // True if Take only wakes a thread. Else it runs code of the user's.
  virtual bool IsThread() const noexcept { return true; }
  // Another process leads for now, or another runner does the work. May be called twice. The slot's
  // mutex is held.
  virtual void OnFollows() noexcept {}

 private:
  friend class RunnerSlot;
  bool is_taken_ = false;  // it has the lead. Guarded by the slot's mutex
};

// Thread: every member may be called on any thread.
class RunnerSlot {
 public:
  RunnerSlot() = default;
  ~RunnerSlot() { Close(); }
  RunnerSlot(const RunnerSlot&) = delete;
  RunnerSlot& operator=(const RunnerSlot&) = delete;

  // Whether a runner that belongs to the slot would be kept.
  bool NeedsOwned() noexcept {
    const std::lock_guard lock(mutex_);
    return owned_ == nullptr && !closed_;
  }

  // Offers a runner, which must be withdrawn before it is destroyed. If this returns a grant, the
  // work is the runner's: give it that.
  Grant* Offer(Runner& runner) noexcept {
    const std::lock_guard lock(mutex_);
    runner.is_taken_ = false;
    if (closed_ || follows_) runner.OnFollows();
    if (closed_) return nullptr;
    if (Grant* const grant = TakeWaiting(runner)) return grant;
    runner.InsertBefore(runners_);
    return nullptr;
  }
  // The same for one that belongs to the slot from then on, unless there is such a one already:
  // then it remains in `runner`.
  Grant* Offer(std::unique_ptr<Runner>& runner) noexcept {
    const std::lock_guard lock(mutex_);
    if (closed_ || owned_ != nullptr) return nullptr;
    if (Grant* const grant = TakeWaiting(*runner)) return grant;
    owned_ = std::move(runner);
    owned_->InsertBefore(runners_);
    if (follows_) owned_->OnFollows();
    return nullptr;
  }

  // Takes back a runner: call it before the runner is destroyed. False: it has been taken, and is
  // being given the lead.
  bool Withdraw(Runner& runner) noexcept {
    const std::lock_guard lock(mutex_);
    runner.Unlink();
    return !runner.is_taken_;
  }

  // What TakeFirst has taken: `runner`, which belongs to the taker if it is in `owned`.
  struct Taken {
    Runner* runner = nullptr;
    std::unique_ptr<Runner> owned = {};
  };
  // Takes the first runner. If there is none, the grant waits for the next one that is offered.
  Taken TakeFirst(Grant& grant) noexcept {
    const std::lock_guard lock(mutex_);
    if (runners_.Empty()) {
      waiting_ = &grant;
      return {};
    }
    return Take(static_cast<Runner&>(*runners_.next));
  }
  // Has the first runner do other work. If it is a thread, `give(runner)` tells it, and it remains
  // here: it still waits, and may leave. Else it is taken out. False: there is none.
  template <class Give>
  bool GiveOther(const Give& give, Taken& taken) noexcept {
    const std::lock_guard lock(mutex_);
    if (closed_ || runners_.Empty()) return false;
    auto& first = static_cast<Runner&>(*runners_.next);
    if (first.IsThread()) {
      give(first);
    } else {
      taken = Take(first);
    }
    return true;
  }
  bool HasRunner() noexcept {
    const std::lock_guard lock(mutex_);
    return !runners_.Empty();
  }
  // False: the grant was given to a runner.
  bool StopWaiting() noexcept {
    const std::lock_guard lock(mutex_);
    return std::exchange(waiting_, nullptr) != nullptr;
  }

  // Returns how far the call is, for a page that shows it.
  CallPhase Phase() const noexcept { return phase_.load(std::memory_order_relaxed); }
  // This process does the call's work.
  void NoteLeads() noexcept { phase_.store(CallPhase::kLeading, std::memory_order_relaxed); }

  // Tells each runner that another process leads for now, also those that are offered later.
  void NotifyFollows() noexcept {
    phase_.store(CallPhase::kFollowing, std::memory_order_relaxed);
    const std::lock_guard lock(mutex_);
    follows_ = true;
    for (auto* link = runners_.next; link != &runners_; link = link->next) {
      static_cast<Runner*>(link)->OnFollows();
    }
  }

  // The call's callers are about to be notified, although its work goes on.
  void OnCancel() noexcept { Close(); }

  // No runner will be asked any more: one of them has the lead, or the call is about to land
  // otherwise. Those that are threads are woken by the landing. Returns the runner that belongs to
  // the slot, for the caller to destroy.
  std::unique_ptr<Runner> Close() noexcept {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    while (!runners_.Empty()) {
      static_cast<Runner*>(runners_.next)->OnFollows();
      runners_.next->Unlink();
    }
    return std::move(owned_);
  }

 private:
  // Takes out a runner.
  Taken Take(Runner& runner) noexcept {
    runner.Unlink();
    runner.is_taken_ = true;
    Taken taken{&runner};
    if (owned_.get() == &runner) taken.owned = std::move(owned_);
    return taken;
  }
  // Gives a grant that waits to `runner`.
  Grant* TakeWaiting(Runner& runner) noexcept {
    runner.is_taken_ = waiting_ != nullptr;
    return std::exchange(waiting_, nullptr);
  }

  std::mutex mutex_;
  singleflight::detail::ListLink runners_;  // in the order in which they came
  std::unique_ptr<Runner> owned_;           // one of them
  Grant* waiting_ = nullptr;
  bool follows_ = false;  // another process led when it was last asked
  bool closed_ = false;
  std::atomic<CallPhase> phase_ = CallPhase::kAsking;  // relaxed: only to be shown
};

}  // namespace singleflight::redis::detail

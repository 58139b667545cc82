// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>

#include "../listener.hpp"
#include "../waiter.hpp"
#include "event.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A thread that waits for a call and may leave it: at a deadline, or when it is interrupted. A
// thread that waits for several calls has a waiter for each of them, and one monitor for all.
template <class Value>
class ThreadWaiter : public Waiter<Value> {
 public:
  // WaitIn must follow, before it joins.
  ThreadWaiter() = default;
  explicit ThreadWaiter(Monitor& monitor) noexcept : monitor_(&monitor) {}
  // Leaves if it is still on its call: the thread was cancelled in its wait.
  ~ThreadWaiter() override { DetachOrWait(); }

  // Leaves if the call has not landed, and waits for an OnLanded in progress. A derived class whose
  // members must outlive that calls it in its destructor.
  void DetachOrWait() {
    if (!this->Detach()) monitor_->Wait(landed_);
  }

  // Lifetime: the monitor must outlive this waiter.
  void WaitIn(Monitor& monitor) noexcept { monitor_ = &monitor; }

  // Makes the waiter ready for JoinAgain.
  void ExpectAnother() { monitor_->Clear(landed_); }

  // Ends all waits in the monitor, also later ones. Any thread may call it while this waiter is on
  // a call.
  void Interrupt() noexcept { monitor_->Interrupt(); }

  // Waits. True: the call has landed. False: this caller has left it.
  bool WaitOrLeave(WaitEdge& edge, const Deadline& deadline) {
    detail::BeforeBlocking();
    if (monitor_->WaitOrInterrupt(landed_, deadline)) return true;
    edge.Remove();  // before it leaves: this thread no longer waits
    const bool in_time = !deadline || std::chrono::steady_clock::now() < *deadline;
    return LandedBeforeLeaving(in_time ? LeaveReason::kStop : LeaveReason::kTimeout);
  }

  // Leaves at once. True if it was too late: the call has landed.
  bool LandedBeforeLeaving(LeaveReason why = LeaveReason::kLeft) {
    if (this->Leave(why)) return false;
    monitor_->Wait(landed_);  // OnLanded is on its way
    return true;
  }

 private:
  void OnLanded() noexcept override { monitor_->Set(landed_); }

  bool landed_ = false;  // guarded by the monitor
  Monitor* monitor_ = nullptr;
};

}  // namespace singleflight::detail

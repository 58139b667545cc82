// SPDX-License-Identifier: MIT
#pragma once

#include <chrono>
#include <optional>

#include "../listener.hpp"
#include "../waiter.hpp"
#include "event.hpp"
#include "thread_mark.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A thread that waits for a call and may leave it: at a deadline, or when it is interrupted.
template <class Value>
class ThreadWaiter : public Waiter<Value> {
 public:
  // Leaves if it is still on its call: the thread was cancelled in its wait.
  ~ThreadWaiter() override { DetachOrWait(); }

  // Leaves if the call has not landed, and waits for an OnLanded in progress. A derived class whose
  // members must outlive that calls it in its destructor.
  void DetachOrWait() {
    if (!this->Detach()) landed_->Wait();
  }

  // Makes the waiter ready for JoinAgain.
  void ExpectAnother() { landed_.emplace(); }

  // Ends a wait in WaitOrLeave. Any thread may call it while this waiter is on a call.
  void Interrupt() noexcept { landed_->Interrupt(); }

  // Waits. True: the call has landed. False: this caller has left it.
  bool WaitOrLeave(WaitEdge& edge, const Deadline& deadline) {
    detail::BeforeBlocking();
    if (landed_->WaitOrInterrupt(deadline)) return true;
    edge.Remove();  // before it leaves: this thread no longer waits
    const bool in_time = !deadline || std::chrono::steady_clock::now() < *deadline;
    return LandedBeforeLeaving(in_time ? LeaveReason::kStop : LeaveReason::kTimeout);
  }

  // Leaves at once. True if it was too late: the call has landed.
  bool LandedBeforeLeaving(LeaveReason why = LeaveReason::kLeft) {
    if (this->Leave(why)) return false;
    landed_->Wait();  // OnLanded is on its way
    return true;
  }

 private:
  void OnLanded() noexcept override { landed_->Set(); }

  std::optional<Event> landed_{std::in_place};
};

}  // namespace singleflight::detail

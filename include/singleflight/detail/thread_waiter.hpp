// SPDX-License-Identifier: MIT
#pragma once

#include <optional>

#include "call.hpp"
#include "event.hpp"
#include "wait_graph.hpp"

namespace singleflight::detail {

// A thread that waits for a call and may give up: at a deadline, or when it is interrupted.
template <class Value>
class ThreadWaiter : public Waiter<Value> {
 public:
  // A thread that is cancelled is unwound out of its wait.
  ~ThreadWaiter() { End(); }

  // Leaves if the call has not landed, and waits for an OnLanded that is on its way. For a derived
  // class whose members must outlive that.
  void End() {
    if (!this->Detach()) landed_->Wait();
  }

  // Before it joins another call.
  void Reuse() {
    this->DropResult();
    landed_.emplace();
  }

  // Ends a wait in AwaitOrLeave. Any thread may call it while this is on a call.
  void Interrupt() noexcept { landed_->Interrupt(); }

  // True: the call has landed. False: this caller has left it.
  bool AwaitOrLeave(WaitEdge& edge, const Deadline& deadline) {
    if (landed_->WaitOrInterrupt(deadline)) return true;
    edge.Remove();  // before it leaves: this thread no longer waits
    return AwaitUnlessLeft();
  }

  // Leaves at once. True: it was too late, and the call has landed.
  bool AwaitUnlessLeft() {
    if (this->Leave()) return false;
    landed_->Wait();  // OnLanded is on its way
    return true;
  }

 private:
  void OnLanded() noexcept override { landed_->Set(); }

  std::optional<Event> landed_{std::in_place};
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// LandedState: delivers an outcome that is known already, such as a cache hit, to a caller that
// came to join a call. It looks like the state of a call that the caller led alone and that has
// landed.

#include <exception>
#include <memory>
#include <utility>

#include "../result.hpp"
#include "../stop_token.hpp"
#include "../waiter.hpp"
#include "call.hpp"
#include "outcome.hpp"

namespace singleflight::detail {

template <class Value>
class LandedState final : public SharedState<Value> {
  using State = SharedState<Value>;

 public:
  bool Leave(const Leaver<Value>&, StopSource&) noexcept override { return false; }
  void GiveUp() noexcept override {}

  // Calls waiter.OnLanded before it returns. If the value's move throws, this throws it, and
  // OnLanded is not called.
  static void Notify(Waiter<Value>& waiter, Stored<Value>&& value) {
    NotifyAfter([] {}, waiter, std::move(value));
  }
  // The same, after `run()`. Meanwhile the waiter has its outcome and may leave, as one whose call
  // has landed.
  template <class Run>
  static void NotifyAfter(const Run& run, Waiter<Value>& waiter, Stored<Value>&& value) {
    struct PublishAtEnd {  // also if the thread is cancelled
      ~PublishAtEnd() { state->Publish(); }
      const std::shared_ptr<State> state;
    } const publishing{Hold(std::move(value))};
    State::Link(publishing.state, waiter, Role::kLeader);
    run();
  }

  // These make the state of a Future, whose caller blocks.
  static std::shared_ptr<State> Ready(Stored<Value>&& value) {
    return Published(Hold(std::move(value)));
  }
  static std::shared_ptr<State> Failure(std::exception_ptr error) {
    return Published(Make(Outcome<Value>(std::move(error))));
  }

 private:
  static std::shared_ptr<State> Hold(Stored<Value>&& value) {
    std::shared_ptr<State> state = Make(Outcome<Value>(std::in_place, std::move(value)));
    if (std::exception_ptr error = state->Error()) {  // the value's move threw
      std::rethrow_exception(std::move(error));
    }
    return state;
  }
  static std::shared_ptr<State> Make(Outcome<Value>&& outcome) {
    std::shared_ptr<State> state = std::make_shared<LandedState>();
    state->SetOutcome(std::move(outcome));
    state->Close(/*is_shared=*/false);
    return state;
  }
  static std::shared_ptr<State> Published(std::shared_ptr<State> state) {
    state->PrepareToBlock();
    state->Publish();
    return state;
  }
};

}  // namespace singleflight::detail

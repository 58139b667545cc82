// SPDX-License-Identifier: MIT
#pragma once

// LandedState: delivers a value that is known already, such as a cache hit, to a caller that came
// to join a call. It looks like the state of a call that the caller led alone and that has landed.

#include <exception>
#include <memory>
#include <stop_token>
#include <utility>

#include "../../result.hpp"
#include "../../waiter.hpp"
#include "../call.hpp"
#include "../outcome.hpp"

namespace singleflight::detail {

template <class Value>
class LandedState final : public SharedState<Value> {
  using State = SharedState<Value>;

 public:
  bool Leave(const Leaver<Value>&, std::stop_source&) noexcept override { return false; }

  // Calls waiter.OnLanded before it returns. If the value's move throws, this throws it, and
  // OnLanded is not called.
  static void Notify(Waiter<Value>& waiter, Value&& value) {
    const std::shared_ptr<State> state = Make(std::move(value));
    State::Link(state, waiter, Role::kLeader);
    state->Publish();
  }

  // Makes the state of a Future, whose caller blocks.
  static std::shared_ptr<State> Ready(Value&& value) {
    std::shared_ptr<State> state = Make(std::move(value));
    state->PrepareToBlock();
    state->Publish();
    return state;
  }

 private:
  static std::shared_ptr<State> Make(Value&& value) {
    std::shared_ptr<State> state = std::make_shared<LandedState>();
    state->SetOutcome(Outcome<Value>(std::in_place, std::move(value)));
    if (std::exception_ptr error = state->Error()) {  // the value's move threw
      std::rethrow_exception(std::move(error));
    }
    state->Close(/*is_shared=*/false);
    return state;
  }
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

#include <exception>
#include <memory>
#include <stop_token>
#include <utility>
#include <variant>

#include "../../result.hpp"
#include "../call.hpp"

namespace singleflight::detail {

// How a value that is there already reaches a caller that came to join a call: as from a call that
// it led alone, and that has landed.
template <class Value>
class LandedState final : public SharedState<Value> {
  using State = SharedState<Value>;

 public:
  bool Leave(Waiter<Value>*, std::stop_source&) noexcept override { return false; }

  // OnLanded comes in here; not, if this throws what moving the value threw.
  static void Tell(Waiter<Value>& waiter, Value&& value) {
    const std::shared_ptr<State> state = Make(std::move(value));
    State::Link(state, waiter, Role::kLeader);
    state->Publish();
  }

  // For a caller that will block, if at all.
  static std::shared_ptr<State> Landed(Value&& value) {
    std::shared_ptr<State> state = Make(std::move(value));
    state->PrepareToBlock();
    state->Publish();
    return state;
  }

 private:
  static std::shared_ptr<State> Make(Value&& value) {
    std::shared_ptr<State> state = std::make_shared<LandedState>();
    state->SetOutcome(Outcome<Value>(std::in_place_index<1>, std::move(value)));
    if (state->Failed()) std::rethrow_exception(state->Error());  // as when the first move throws
    state->Close(/*is_shared=*/false);
    return state;
  }
};

}  // namespace singleflight::detail

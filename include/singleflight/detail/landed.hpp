// SPDX-License-Identifier: MIT
#pragma once

#include <memory>
#include <stop_token>
#include <utility>
#include <variant>

#include "../future.hpp"
#include "../result.hpp"
#include "call.hpp"

namespace singleflight::detail {

// How a value that is there already reaches a caller that came to join a call: as from a call that
// it led alone, and that has landed.
template <class Value>
class LandedState final : public SharedState<Value> {
  using State = SharedState<Value>;

 public:
  bool Leave(Waiter<Value>*, std::stop_source&) noexcept override { return false; }

  // OnLanded comes in here.
  static void Tell(Waiter<Value>& waiter, Value&& value) {
    const std::shared_ptr<State> state = std::make_shared<LandedState>();
    State::Link(state, waiter, Role::kLeader);
    Land(*state, std::move(value));
  }

  static Future<Value> MakeFuture(Value&& value) {
    std::shared_ptr<State> state = std::make_shared<LandedState>();
    state->PrepareToBlock();
    Land(*state, std::move(value));
    return Future<Value>(std::move(state), Role::kLeader);
  }

 private:
  static void Land(State& state, Value&& value) noexcept {
    state.SetOutcome(Outcome<Value>(std::in_place_index<1>, std::move(value)));
    state.Close(/*is_shared=*/false);
    state.Publish();
  }
};

}  // namespace singleflight::detail

// SPDX-License-Identifier: MIT
#pragma once

// The callers of a World that do not block in Do.

#include <atomic>
#include <span>
#include <stop_token>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "support/coroutines.hpp"
#include "world.hpp"

namespace interleave {

// A caller that is notified. Only its owner takes the result or leaves.
class NotifiedWaiter final : public World::Group::Waiter {
 public:
  explicit NotifiedWaiter(World& world, int key = 1) : world_(world), id_(world.StartCaller(key)) {}

  void LeaveOrTake() {
    if (this->Leave()) return GiveUp();
    Take();
  }
  void Take() {
    while (!landed_.load()) std::this_thread::yield();
    world_.Finish(id_, World::OutcomeOf([this] { return this->TakeResult(); }));
  }

  // Notes that this caller left or was refused.
  void GiveUp() { world_.Finish(id_, {.error = std::errc::operation_canceled}); }

 private:
  void OnLanded() noexcept override { landed_.store(true); }

  World& world_;
  const std::size_t id_;
  std::atomic<bool> landed_ = false;
};

inline test::Task<Value> Answer(World& world, test::Signal& upstream) {
  co_await upstream;
  co_return world.Fn(1)();
}

// A caller in a coroutine that calls `last` once it has its outcome.
template <class Coroutine = test::Routine, class ResumeOn, class Last>
Coroutine Ask(World& world, test::Signal& upstream, std::stop_token stop, ResumeOn resume_on,
              Last last) {
  const std::size_t id = world.StartCaller(1);
  World::Outcome outcome;
  const auto fn = [&] { return Answer(world, upstream); };
  try {
    const auto result = co_await singleflight::CoDo(*world.group, 1, fn, stop, resume_on);
    outcome = World::OutcomeOf([&] { return result; });
  } catch (const std::system_error& error) {
    outcome.error = static_cast<std::errc>(error.code().value());
  }
  world.Finish(id, outcome);
  last();
}

// Asks for `keys` in one batch, which counts as a caller for each of them.
inline void Many(World& world, std::vector<int> keys, singleflight::CallOptions options = {}) {
  std::vector<std::size_t> ids;
  for (const int key : keys) ids.push_back(world.StartCaller(key));
  const auto fn = [&world](std::span<const int> missing) {
    std::vector<Value> values;
    for (const int key : missing) values.push_back(world.Fn(key)());
    return values;
  };
  auto results = singleflight::DoMany(*world.group, keys, fn, options);
  for (std::size_t i = 0; i < keys.size(); ++i) {
    const auto outcome = World::OutcomeOf([&] { return std::move(results[i]).result(); });
    world.Finish(ids[i], outcome);
  }
}

}  // namespace interleave

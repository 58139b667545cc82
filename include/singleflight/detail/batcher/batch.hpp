// SPDX-License-Identifier: MIT
#pragma once

#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <utility>

#include "../../stop_token.hpp"
#include "../errors.hpp"
#include "../event.hpp"
#include "../intrusive_list.hpp"
#include "../outcome.hpp"
#include "../wait_graph.hpp"

namespace singleflight::detail {

template <class G>
class BatcherCore;

// A key, and the right to land its call. If this is destroyed before that, the call lands with
// `owner_dead`.
template <class G>
struct BatcherKey {
  BatcherKey(typename G::KeyType&& its_key, typename G::Lead&& its_lead)
      : key(std::move(its_key)), lead(std::move(its_lead)) {}

  // Stores an outcome, or what moving it throws.
  void Answer(Outcome<typename G::ValueType>&& its_outcome) {
    try {
      outcome.emplace(std::move(its_outcome));
    } catch (...) {
      outcome.emplace(Caught());
    }
  }
  void Fail(const std::exception_ptr& error) noexcept { outcome.emplace(error); }

  typename G::KeyType key;
  typename G::Lead lead;
  StopToken stop;                                         // of the call, if `fn` takes one
  std::optional<Outcome<typename G::ValueType>> outcome;  // none so far
  std::optional<RunningScope> running;  // last, because it refers to the call, which `lead` keeps
};

// Keys that are loaded together.
template <class G>
struct KeyBatch : ListLink {
  using Keys = std::list<BatcherKey<G>>;

  // Only moves forward.
  enum class Phase : unsigned char {
    kWaiting,  // for keys, for its time, or for a thread to run it
    kRunning,  // the thread that runs it has its keys
    kLanding,  // the keys that are back here have an outcome, with which they are landed
  };

  KeyBatch(std::shared_ptr<BatcherCore<G>> its_core, Deadline its_time) noexcept
      : core(std::move(its_core)), due(its_time) {}
  ~KeyBatch() { core->Remove(*this); }
  KeyBatch(const KeyBatch&) = delete;
  KeyBatch& operator=(const KeyBatch&) = delete;

  const std::shared_ptr<BatcherCore<G>> core;
  const Deadline due;  // none: there is no time to wait for

  // Guarded by the core's mutex.
  Phase phase = Phase::kWaiting;
  Keys keys;
  StopSource stop{kNoStopState};   // asks `fn` to stop, while it runs, if it takes a token
  std::shared_ptr<KeyBatch> self;  // not null: one of the batcher's threads must run it
};

// A batch's work, as an executor receives it. Copyable. The batch is run once, whichever copy is
// called first. If all copies are destroyed before that, its calls land with `owner_dead`.
template <class G>
class BatcherTask {
 public:
  explicit BatcherTask(std::shared_ptr<KeyBatch<G>> batch) noexcept : batch_(std::move(batch)) {}

  void operator()() const {
    const std::shared_ptr<KeyBatch<G>> batch = batch_;  // a woken caller may destroy this task
    batch->core->Run(*batch);
  }

 private:
  std::shared_ptr<KeyBatch<G>> batch_;
};

// A batcher's executor.
template <class G>
class BatcherExecutor {
 public:
  virtual ~BatcherExecutor() = default;
  virtual void Execute(BatcherTask<G> task) = 0;
};

template <class G, class Executor>
class BatcherExecutorOf final : public BatcherExecutor<G> {
 public:
  template <class E>
  BatcherExecutorOf(std::in_place_t, E&& executor) : executor_(std::forward<E>(executor)) {}

  void Execute(BatcherTask<G> task) override { std::invoke(executor_, std::move(task)); }

 private:
  Executor executor_;
};

}  // namespace singleflight::detail

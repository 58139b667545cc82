// SPDX-License-Identifier: MIT
#pragma once

// The work of a batch that does not block: runs `fn` once, on whatever thread, and lands the calls
// that the batch leads. No caller owns it.

#include <atomic>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "../../stop_token.hpp"
#include "../any_task.hpp"
#include "../awaitable.hpp"
#include "../batch_fn.hpp"
#include "../errors.hpp"
#include "../led_calls.hpp"
#include "../outcome.hpp"

namespace singleflight::detail {

// What `fn` returns, or what awaiting that gives.
template <class G, class Fn>
struct AwaitedBy {
  using Type = ReturnedBy<G, Fn>;
  static constexpr bool kIsAwaited = false;
};
template <class G, class Fn>
requires Awaitable<ReturnedBy<G, Fn>>
struct AwaitedBy<G, Fn> {
  using Type = decltype(detail::AwaiterOf(std::declval<ReturnedBy<G, Fn>>()).await_resume());
  static constexpr bool kIsAwaited = true;
};

// What `fn` returned is destroyed before the first call lands, and so is `fn`.
template <class G, class Fn>
class BatchWork {
  using Outcome = detail::Outcome<typename G::ValueType>;
  using Awaited = AwaitedBy<G, Fn>;
  using Working = typename LedCalls<G>::Working;

 public:
  LedCalls<G>& Calls() noexcept { return calls_; }

  template <class F>
  void Keep(F&& fn) {
    fn_.emplace(std::forward<F>(fn));
  }

  // Does the work, unless that has begun or Fail came first.
  static void Run(const std::shared_ptr<BatchWork>& self) {
    if (self->started_.exchange(true)) return;
    if (std::exception_ptr error = self->DropCanceled(); error != nullptr || self->calls_.Empty()) {
      self->Finish(error);
    } else if constexpr (Awaited::kIsAwaited) {
      StartDriving(self);
    } else {
      self->RunHere();
    }
  }

  // Lands the calls with an error, unless the work has begun.
  void Fail(const std::exception_ptr& error) {
    if (!started_.exchange(true)) Finish(error);
  }

 private:
  struct ClearAtEnd {
    ~ClearAtEnd() { calls.Clear(); }
    LedCalls<G>& calls;
  };

  // Returns what it throws.
  std::exception_ptr DropCanceled() {
    try {
      calls_.DropCanceled();
    } catch (...) {
      return Caught();
    }
    return nullptr;
  }

  void RunHere() {
    const ClearAtEnd clear{calls_};  // for a thread that is cancelled inside `fn`
    std::exception_ptr error;
    try {
      const Working working(calls_);
      Prepare();
      detail::RunBatchFn<G>(*fn_, calls_.Keys(), GetStop(), Store());
    } catch (...) {
      error = Caught();
    }
    Finish(error);
  }

  static void StartDriving(const std::shared_ptr<BatchWork>& self) {
    std::exception_ptr error;
    try {
      Drive(self);
      return;
    } catch (...) {  // no memory for the coroutine
      error = Caught();
    }
    self->Finish(error);
  }

  // A coroutine that nobody waits for. It starts at once and destroys itself when it finishes.
  struct Driver {
    struct promise_type {
      Driver get_return_object() const noexcept { return {}; }
      std::suspend_never initial_suspend() const noexcept { return {}; }
      std::suspend_never final_suspend() const noexcept { return {}; }
      void return_void() const noexcept {}
      [[noreturn]] void unhandled_exception() const noexcept { std::terminate(); }
    };
  };

  static Driver Drive(std::shared_ptr<BatchWork> self) {
    std::exception_ptr error;
    try {
      if constexpr (std::is_void_v<typename Awaited::Type>) {
        co_await self->Start();
        detail::LandSuccesses(self->calls_.Size(), self->Store());
      } else {
        self->Read(co_await self->Start());  // may refer to what is awaited
      }
    } catch (...) {
      error = std::current_exception();
    }
    self->Finish(error);
  }

  decltype(auto) Start() {
    const Working working(calls_);
    Prepare();
    return BatchFn<G, Fn>::Call(*fn_, calls_.Keys(), GetStop());
  }

  template <class T>
  void Read(T&& awaited) {
    const Working working(calls_);
    LandKeys<G, typename Awaited::Type>::From(awaited, calls_.Keys(), Store());
  }

  void Prepare() {
    outcomes_.reserve(calls_.Size());
    if constexpr (BatchFn<G, Fn>::kTakesStop) stop_.emplace(calls_.Stops());
  }

  StopToken GetStop() const noexcept { return stop_ ? stop_->GetToken() : StopToken(); }

  auto Store() {
    return [this](std::size_t, Outcome&& outcome) {
      try {
        outcomes_.push_back(std::move(outcome));  // there is room
      } catch (...) {                             // the value's move threw
        outcomes_.emplace_back(Caught());
      }
    };
  }

  // Lands the calls with their outcomes, and those that have none with `error`.
  void Finish(const std::exception_ptr& error) {
    stop_.reset();
    fn_.reset();
    const ClearAtEnd clear{calls_};  // after `working`
    const Working working(calls_);
    for (std::size_t place = 0; place < calls_.Size(); ++place) {
      calls_.Land(place, place < outcomes_.size() ? std::move(outcomes_[place]) : Outcome(error));
    }
    outcomes_.clear();
  }

  // Where they are not destroyed in Finish, `fn_` is destroyed first, and the Leads land the calls
  // last.
  LedCalls<G> calls_;
  std::vector<Outcome> outcomes_;  // of the first calls
  std::optional<StopOfAll> stop_;  // while `fn` works
  std::optional<Fn> fn_;
  std::atomic<bool> started_ = false;
};

// A batch's work, as an executor receives it. Copyable, and all copies share one piece of work: it
// is done once, whichever copy is called first. If all copies are destroyed before that, the calls
// land with `owner_dead`.
template <class G, class Fn>
class BatchTask {
  using Work = BatchWork<G, Fn>;

 public:
  explicit BatchTask(std::shared_ptr<Work> work) noexcept : work_(std::move(work)) {}

  void operator()() const {
    const std::shared_ptr<Work> work = work_;  // a woken caller may destroy this task
    Work::Run(work);
  }

  // Returns the same without its type.
  AnyTask Untyped() && {
    return AnyTask(std::move(work_), [](const std::shared_ptr<void>& work) {
      Work::Run(std::static_pointer_cast<Work>(work));
    });
  }

 private:
  std::shared_ptr<Work> work_;
};

// The calls that a batch leads, until their work begins.
template <class G, class Fn>
class BatchLeads {
  using Work = BatchWork<G, Fn>;

 public:
  void Add(const typename G::KeyType& key, typename G::Lead lead) {
    if (work_ == nullptr) work_ = std::make_shared<Work>();
    work_->Calls().template Add<BatchFn<G, Fn>::kTakesStop>(key, std::move(lead));
  }

  bool Empty() const noexcept { return work_ == nullptr || work_->Calls().Empty(); }
  // Adds all of them. If this throws, none.
  void Take(LedCalls<G>& calls) {
    work_ = std::make_shared<Work>();
    work_->Calls() = std::move(calls);
    calls.Clear();
  }

  // If there are any, keeps `fn`, and has `launch(work)` run it. What this throws is the failure of
  // the calls, unless the work has begun.
  template <class F, class Launch>
  void Begin(F&& fn, Launch&& launch) {
    if (Empty()) return;
    std::exception_ptr error;
    try {
      work_->Keep(std::forward<F>(fn));
      launch(work_);
    } catch (...) {
      error = Caught();
    }
    if (error != nullptr) work_->Fail(error);  // outside the catch block
  }

 private:
  std::shared_ptr<Work> work_;  // null if there are none
};

}  // namespace singleflight::detail
